//! How total time and downtime grow with the rate at which the guest dirties its memory: the
//! values of a plot.

use super::Bench;
use crate::account::Section;
use crate::machine::Guest;
use crate::migration::{DOWNTIME, GAP, Plan, TOTAL};

const OWN_MIB: u64 = 1024;
/// In MiB/s, a case for each, in this order.
pub(crate) const RATES_MIB: [u64; 5] = [0, 100, 200, 400, 800];

pub(super) fn measure(bench: &Bench, section: &mut Section) {
    for rate in RATES_MIB {
        let guest = Guest::touching(bench.size(OWN_MIB), 1, rate << 20);
        let case = section.case(guest.title()).showing(&[TOTAL, DOWNTIME, GAP]);
        bench.precopies(case, &guest, &Plan::precopy());
    }
}
