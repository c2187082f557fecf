//! The rows of the bench: what is measured, one module for each. A row measures all contenders in
//! turns (A B A B), so that all meet the same moods of the machine, and its limit right behind
//! them.

mod converge;
mod downtime;
mod growth;
mod handshake;
mod local;
mod postcopy;
mod slowdown;
mod start;
mod sweep;
mod throughput;

use std::path::PathBuf;

use clap::ValueEnum;

use crate::account::{Case, Section};
use crate::limit::{self, Derived};
use crate::machine::Guest;
use crate::migration::{self, DOWNTIME, GAP, Plan};
use crate::peer::{Contender, Peer};
use crate::statistics::median;

pub(crate) use handshake::SYNC;
pub(crate) use postcopy::AT_ONCE;
pub(crate) use sweep::RATES_MIB;

/// What a row needs to know.
#[derive(Debug)]
pub(crate) struct Bench {
    /// The VMMs.
    pub peers: Vec<Peer>,
    /// Runs of each kind.
    pub runs: u32,
    /// Starts of each kind.
    pub starts: u32,
    /// Guest memory in MiB in the place of each row's own, when there are any.
    pub sizes_mib: Vec<u64>,
    /// What backs Ferry's guest memory.
    pub backing: String,
    /// For sockets and serial output.
    pub directory: PathBuf,
    /// For ownership records: on storage, not in memory.
    pub storage: PathBuf,
}

/// A row of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Row {
    /// Precopy of an idle guest without a zero page, over one and two connections
    Throughput,
    /// Precopy of a guest that touches half of its memory at random at 400 MiB/s
    Downtime,
    /// Downtime of an idle guest, with the handshakes setup and owned
    Handshake,
    /// A missing page, all stalls and the total time of a postcopy
    Postcopy,
    /// What rounds cost a guest that touches its memory flat out
    Slowdown,
    /// Time to the first serial byte, and memory
    Start,
    /// A guest that dirties faster than the link: auto-converge, and postcopy by itself
    Converge,
    /// Total time and downtime by memory and by vCPUs
    Growth,
    /// Hand-over to a process on this host, with the memory as a whole
    Local,
    /// Total time and downtime by dirty rate, for the plot
    Sweep,
}

/// What all loaded rows but the sweep do to their guest's memory.
const RATE: u64 = 400 << 20;
/// How long a round of a guest lasts that is held up by the bandwidth.
const ROUND_S: u64 = 2;

impl Row {
    /// Its name on the command line and in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Row::Throughput => "throughput",
            Row::Downtime => "downtime",
            Row::Handshake => "handshake",
            Row::Postcopy => "postcopy",
            Row::Slowdown => "slowdown",
            Row::Start => "start",
            Row::Converge => "converge",
            Row::Growth => "growth",
            Row::Local => "local",
            Row::Sweep => "sweep",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Row::Throughput => {
                "precopy of an idle guest without a zero page; limit: the bare copy over as many connections"
            }
            Row::Downtime => "precopy under load; limits: the bare copy, and a round trip with Ferry's save and load",
            Row::Handshake => {
                "downtime of an idle guest; limit: a round trip with Ferry's save and load, owned: and one fdatasync"
            }
            Row::Postcopy => {
                "missing pages and total time; limits: a minor fault of a plain thread and a round trip, one for each page asked for"
            }
            Row::Slowdown => "pages touched flat out while rounds go on; limit: the speed before",
            Row::Start => "from exec on; limit: a process that prints a byte, and an empty VM",
            Row::Converge => "a guest that dirties faster than the link; limit: its working set once through the link",
            Row::Growth => "precopy by memory and by vCPUs; limits as in downtime",
            Row::Local => "hand-over on one host; limit: a round trip with Ferry's save and load",
            Row::Sweep => "precopy by dirty rate; limits as in downtime",
        }
    }

    /// Measures it. What fails is in the notes.
    pub(crate) fn measure(self, bench: &Bench) -> Section {
        let mut section = Section::new(self.name(), self.title());
        let measure = match self {
            Row::Throughput => throughput::measure,
            Row::Downtime => downtime::measure,
            Row::Handshake => handshake::measure,
            Row::Postcopy => postcopy::measure,
            Row::Slowdown => slowdown::measure,
            Row::Start => start::measure,
            Row::Converge => converge::measure,
            Row::Growth => growth::measure,
            Row::Local => local::measure,
            Row::Sweep => sweep::measure,
        };
        measure(bench, &mut section);
        section
    }
}

impl Bench {
    /// Guest memory in bytes: as asked for, or a row's own.
    fn sizes(&self, own_mib: &[u64]) -> Vec<u64> {
        let mib = if self.sizes_mib.is_empty() { own_mib } else { &self.sizes_mib };
        mib.iter().map(|mib| mib << 20).collect()
    }

    /// The one size of a row that has only one.
    fn size(&self, own_mib: u64) -> u64 {
        self.sizes_mib.first().copied().unwrap_or(own_mib) << 20
    }

    /// Precopies of a guest by everybody, each with its limits.
    fn precopies(&self, case: &mut Case, guest: &Guest, plan: &Plan) {
        let guest = guest.clone().backed_by(&self.backing);
        for run in 1..=self.runs {
            let (mut bytes, mut state_ms) = (guest.working_set(), None);
            for peer in &self.peers {
                let measure = || migration::measure(peer, &guest, plan, &self.directory);
                let sample = case.attempt(peer.contender(), run, measure);
                if let Some(sample) = sample.filter(|_| peer.contender() == Contender::Ferry) {
                    (bytes, state_ms) = (sample.bytes, sample.state_ms);
                }
            }
            case.attempt(Contender::Limit, run, || limit::copy(bytes, 1));
            switchover_limit(case, run, state_ms);
        }
    }
}

/// No switchover is shorter than a round trip and what saving and loading the device state take,
/// as Ferry measured it just now.
fn switchover_limit(case: &mut Case, run: u32, state_ms: Option<f64>) {
    case.attempt(Contender::Limit, run, || {
        let trip_ms = median(limit::round_trips_us()?).map(|us| us / 1e3);
        let least_ms = trip_ms.zip(state_ms).map(|(trip, state)| trip + state);
        Ok(Derived::default().and(DOWNTIME, "ms", least_ms).and(GAP, "ms", least_ms))
    });
}

/// Bytes a second at which the working set takes a round.
fn held_up(guest: &Guest) -> u64 {
    guest.working_set() / ROUND_S
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_called_the_same_everywhere() {
        for row in Row::value_variants() {
            let value = row.to_possible_value().expect("no row is hidden");
            assert_eq!(value.get_name(), row.name());
        }
    }
}
