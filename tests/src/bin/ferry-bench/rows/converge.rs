//! A guest that dirties its memory faster than the link moves it: throttled until rounds are
//! enough, or moved by postcopy.

use super::{Bench, held_up, switchover_limit};
use crate::account::Section;
use crate::limit::Derived;
use crate::machine::Guest;
use crate::migration::{self, DOWNTIME, GAP, Plan, TOTAL};
use crate::peer::Contender;
use crate::postcopy::{self, ALL, Way, When};

const OWN_MIB: u64 = 1024;

pub(super) fn measure(bench: &Bench, section: &mut Section) {
    for size in bench.sizes(&[OWN_MIB]) {
        let guest = Guest::flat_out(size, 1).backed_by(&bench.backing);
        throttled(bench, section, &guest);
        by_postcopy(bench, section, &guest);
    }
}

fn throttled(bench: &Bench, section: &mut Section, guest: &Guest) {
    let plan = Plan::precopy().with("auto-converge").on_source("max-bandwidth", held_up(guest));
    let case = section.case(format!("{}, link of {} MiB/s, auto-converge", guest.title(), held_up(guest) >> 20));
    let case = case.showing(&[TOTAL, DOWNTIME, GAP, "moved", "rounds"]);
    for run in 1..=bench.runs {
        let mut state_ms = None;
        for peer in &bench.peers {
            let sample =
                case.attempt(peer.contender(), run, || migration::measure(peer, guest, &plan, &bench.directory));
            state_ms = state_ms.or(sample.and_then(|sample| sample.state_ms));
        }
        case.attempt(Contender::Limit, run, || Ok(once_through(guest)));
        switchover_limit(case, run, state_ms);
    }
}

/// Ferry begins postcopy by itself; QEMU has no such thing, and is told to after the first round.
fn by_postcopy(bench: &Bench, section: &mut Section, guest: &Guest) {
    let case = section.case(format!("{}, link of {} MiB/s, automatic postcopy", guest.title(), held_up(guest) >> 20));
    let case = case.showing(&[TOTAL, DOWNTIME, GAP, ALL, "moved"]);
    for run in 1..=bench.runs {
        let mut state_ms = None;
        for way in Way::all(&bench.peers, When::NoProgress) {
            let way = way.limited_to(held_up(guest));
            let sample = case.attempt(way.contender(), run, || postcopy::measure(&way, guest, &bench.directory));
            state_ms = state_ms.or(sample.and_then(|sample| sample.state_ms));
        }
        case.attempt(Contender::Limit, run, || Ok(once_through(guest)));
        switchover_limit(case, run, state_ms);
    }
}

fn once_through(guest: &Guest) -> Derived {
    let seconds = guest.working_set() as f64 / held_up(guest) as f64;
    Derived::default().and(TOTAL, "ms", Some(seconds * 1e3))
}
