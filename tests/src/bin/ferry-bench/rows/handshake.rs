//! What a handshake costs: the downtime of a guest with nothing left to send.

use super::{Bench, switchover_limit};
use crate::account::Section;
use crate::limit::{self, Derived};
use crate::machine::Guest;
use crate::migration::{self, DOWNTIME, GAP, Plan, TOTAL};
use crate::peer::{Contender, Kind};
use crate::statistics::median;

const OWN_MIB: u64 = 1024;
/// What storage takes for one write of the record.
pub(crate) const SYNC: &str = "one fdatasync";

pub(super) fn measure(bench: &Bench, section: &mut Section) {
    let guest = Guest::touching(bench.size(OWN_MIB), 1, 0).backed_by(&bench.backing);
    setup(bench, section, &guest);
    owned(bench, section, &guest);
}

fn setup(bench: &Bench, section: &mut Section, guest: &Guest) {
    let plan = Plan::precopy().on_ferry("x-ferry-handshake", "setup");
    let guest = guest.clone().owned_by("none");
    let case = section.case(format!("{}, handshake setup", guest.title())).showing(&[DOWNTIME, GAP, TOTAL]);
    for run in 1..=bench.runs {
        let mut state_ms = None;
        for peer in &bench.peers {
            let sample =
                case.attempt(peer.contender(), run, || migration::measure(peer, &guest, &plan, &bench.directory));
            state_ms = state_ms.or(sample.and_then(|sample| sample.state_ms));
        }
        switchover_limit(case, run, state_ms);
    }
}

/// Nobody else has this handshake.
fn owned(bench: &Bench, section: &mut Section, guest: &Guest) {
    let plan = Plan::precopy().on_ferry("x-ferry-handshake", "owned");
    let case = section.case(format!("{}, handshake owned, the record in a file", guest.title()));
    let case = case.showing(&[DOWNTIME, GAP, TOTAL, SYNC]);
    for run in 1..=bench.runs {
        for peer in bench.peers.iter().filter(|peer| peer.kind == Kind::Ferry) {
            // Each guest is another one, and so is its record.
            let record = bench.storage.join(format!("record-{run}"));
            let guest = guest.clone().owned_by(&format!("file:{}", record.display()));
            let sample =
                case.attempt(peer.contender(), run, || migration::measure(peer, &guest, &plan, &bench.directory));
            let state_ms = sample.and_then(|sample| sample.state_ms);
            case.attempt(Contender::Limit, run, || {
                // The record is written once between stop and start. The write that settles it
                // comes after, while the guest runs.
                let sync_ms = limit::fdatasync_ms(&bench.storage)?;
                let trip_ms = median(limit::round_trips_us()?).map(|us| us / 1e3);
                let least_ms = trip_ms.zip(state_ms).map(|(trip, state)| trip + state + sync_ms);
                let derived = Derived::default().and(DOWNTIME, "ms", least_ms).and(GAP, "ms", least_ms);
                Ok(derived.and(SYNC, "ms", Some(sync_ms)))
            });
        }
    }
}
