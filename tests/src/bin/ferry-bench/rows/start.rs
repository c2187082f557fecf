//! How long it takes from the making of a process to its guest's first serial byte, and what
//! memory the VMM itself takes.

use super::Bench;
use crate::account::Section;
use crate::peer::Contender;
use crate::{limit, startup};

const CPUS: u32 = 1;

pub(super) fn measure(bench: &Bench, section: &mut Section) {
    let case = section.case(format!("1024 MiB, 1 vCPU, {} starts", bench.starts));
    for run in 1..=bench.starts {
        for peer in &bench.peers {
            case.attempt(peer.contender(), run, || startup::measure(peer, CPUS, &bench.directory));
        }
        case.attempt(Contender::Limit, run, || limit::start(CPUS));
    }
}
