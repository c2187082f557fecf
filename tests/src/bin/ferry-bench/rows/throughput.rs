//! How fast precopy moves memory when nothing else is in its way: an idle guest, every page of
//! which has to travel.

use super::Bench;
use crate::account::Section;
use crate::limit;
use crate::machine::Guest;
use crate::migration::{self, Plan, RATE, TOTAL};
use crate::peer::Contender;

const OWN_MIB: u64 = 4096;
const CONNECTIONS: [u32; 2] = [1, 2];

pub(super) fn measure(bench: &Bench, section: &mut Section) {
    for size in bench.sizes(&[OWN_MIB]) {
        for connections in CONNECTIONS {
            for prealloc in [false, true] {
                measure_with(bench, section, size, (connections, prealloc));
            }
        }
    }
}

fn measure_with(bench: &Bench, section: &mut Section, size: u64, (connections, prealloc): (u32, bool)) {
    let guest = Guest::full(size, 1).backed_by(&bench.backing);
    let plan = match connections {
        1 => Plan::precopy(),
        _ => Plan::precopy().with("multifd").on_both("multifd-channels", connections),
    };
    let mut title = format!("{}, {connections} connection", guest.title());
    if connections > 1 {
        title.push('s');
    }
    let guest = if prealloc {
        title.push_str(", memory allocated before");
        guest.preallocated()
    } else {
        guest
    };
    let case = section.case(title).showing(&[RATE, TOTAL, "moved", "rounds"]);
    for run in 1..=bench.runs {
        let mut bytes = size;
        for peer in &bench.peers {
            let sample =
                case.attempt(peer.contender(), run, || migration::measure(peer, &guest, &plan, &bench.directory));
            if let Some(sample) = sample.filter(|_| peer.contender() == Contender::Ferry) {
                bytes = sample.bytes;
            }
        }
        case.attempt(Contender::Limit, run, || limit::copy(bytes, connections));
    }
}
