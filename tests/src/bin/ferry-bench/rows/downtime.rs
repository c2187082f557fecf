//! Precopy of a guest under load: how long it takes, and by how much the guest says it was held
//! up.

use super::{Bench, RATE};
use crate::account::Section;
use crate::machine::Guest;
use crate::migration::Plan;

const OWN_MIB: u64 = 4096;

pub(super) fn measure(bench: &Bench, section: &mut Section) {
    for size in bench.sizes(&[OWN_MIB]) {
        let guest = Guest::touching(size, 1, RATE);
        bench.precopies(section.case(guest.title()), &guest, &Plan::precopy());
    }
}
