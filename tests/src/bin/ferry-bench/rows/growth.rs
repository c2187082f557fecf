//! How total time and downtime grow with the guest's memory and with its vCPUs.

use super::{Bench, RATE};
use crate::account::Section;
use crate::machine::Guest;
use crate::migration::{DOWNTIME, GAP, Plan, TOTAL};

const OWN_MIB: [u64; 3] = [1024, 4096, 8192];
/// One vCPU is among the sizes already.
const VCPUS: [u32; 3] = [2, 4, 8];

pub(super) fn measure(bench: &Bench, section: &mut Section) {
    let by_size = bench.sizes(&OWN_MIB).into_iter().map(|size| (size, 1));
    let smallest = bench.size(OWN_MIB[0]);
    let by_vcpus = VCPUS.into_iter().map(|cpus| (smallest, cpus));
    for (size, cpus) in by_size.chain(by_vcpus) {
        let guest = Guest::touching(size, cpus, RATE);
        let case = section.case(guest.title()).showing(&[TOTAL, DOWNTIME, GAP]);
        bench.precopies(case, &guest, &Plan::precopy());
    }
}
