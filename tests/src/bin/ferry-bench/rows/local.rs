//! A hand-over to a process on this host: the guest's memory goes as a whole. There is no peer:
//! QEMU 7.2 has nothing like it.

use super::{Bench, RATE, switchover_limit};
use crate::account::Section;
use crate::machine::Guest;
use crate::migration::{self, DOWNTIME, GAP, Plan, TOTAL};
use crate::peer::Contender;

const OWN_MIB: [u64; 3] = [1024, 4096, 8192];

pub(super) fn measure(bench: &Bench, section: &mut Section) {
    for size in bench.sizes(&OWN_MIB) {
        let guest = Guest::touching(size, 1, RATE).backed_by("memfd");
        let case = section.case(guest.title()).showing(&[TOTAL, DOWNTIME, GAP]);
        for run in 1..=bench.runs {
            let mut state_ms = None;
            for peer in bench.peers.iter().filter(|peer| peer.contender() == Contender::Ferry) {
                let sample = case.attempt(peer.contender(), run, || {
                    migration::measure(peer, &guest, &Plan::precopy().local(), &bench.directory)
                });
                state_ms = sample.and_then(|sample| sample.state_ms);
            }
            switchover_limit(case, run, state_ms);
        }
    }
}
