//! What rounds cost the guest: how many pages it touches a second, flat out, before and during
//! them.

use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::{Bench, held_up};
use crate::account::{Measured, Reading, Section};
use crate::error::BenchError;
use crate::limit::Derived;
use crate::machine::Guest;
use crate::migration::{FILL, MIGRATE, Plan, REPORTS, WARM_UP};
use crate::peer::{Contender, Peer, Role};
use crate::process::Process;
use crate::serial::SerialLog;

const OWN_MIB: u64 = 1024;
/// Reports that the speed before is taken from: about two seconds.
const BEFORE: usize = 20;
/// The round whose beginning ends the measurement: three have passed.
const LAST_ROUND: u64 = 4;
/// So short that rounds go on.
const DOWNTIME_LIMIT_MS: u64 = 1;

const KEPT: &str = "speed kept";
const DURING: &str = "pages a second, in rounds";

/// How fast one guest was.
#[derive(Clone, Copy, Debug, Serialize)]
struct Sample {
    /// Pages touched a second before the migration.
    before: f64,
    /// The same from the beginning of the first round to the end of the third.
    during: f64,
}

impl Measured for Sample {
    fn readings(&self) -> Vec<Reading> {
        vec![
            Reading::new(KEPT, "%", self.during / self.before * 100.0),
            Reading::new("pages a second, before", "k", self.before / 1e3),
            Reading::new(DURING, "k", self.during / 1e3),
        ]
    }
}

pub(super) fn measure(bench: &Bench, section: &mut Section) {
    for size in bench.sizes(&[OWN_MIB]) {
        let guest = Guest::flat_out(size, 1).backed_by(&bench.backing);
        let case = section.case(format!("{}, link of {} MiB/s", guest.title(), held_up(&guest) >> 20));
        for run in 1..=bench.runs {
            let mut before = None;
            for peer in &bench.peers {
                let sample = case.attempt(peer.contender(), run, || one(peer, &guest, &bench.directory));
                before = before.or(sample.map(|sample| sample.before));
            }
            case.attempt(Contender::Limit, run, || {
                let unslowed = before.map(|_| 100.0);
                Ok(Derived::default().and(KEPT, "%", unslowed).and(DURING, "k", before.map(|pages| pages / 1e3)))
            });
        }
    }
}

/// Boots, loads, lets rounds begin, measures, and ends both processes in the middle of it.
fn one(peer: &Peer, guest: &Guest, directory: &Path) -> Result<Sample, BenchError> {
    let mut source = Process::start(peer, guest, Role::Source, directory)?;
    let mut log = SerialLog::new(&source)?;
    let mut destination = Process::start(peer, guest, Role::Destination, directory)?;
    let plan =
        Plan::precopy().on_source("downtime-limit", DOWNTIME_LIMIT_MS).on_source("max-bandwidth", held_up(guest));
    plan.apply(peer, &mut source, &mut destination)?;
    let uri = destination.listen()?;
    log.wait_ready(&mut source, guest.cpus, FILL)?;
    log.wait_reports(&mut source, guest.cpus, WARM_UP, REPORTS)?;

    let warm = log.position();
    log.wait_reports(&mut source, guest.cpus, BEFORE, REPORTS)?;
    let before = log.pages_per_second(&warm);
    let begun = log.position();
    source.execute("migrate", json!({ "uri": uri }))?;
    source.wait_round(LAST_ROUND, MIGRATE)?;
    log.read(&source)?;
    let during = log.pages_per_second(&begun);
    before
        .zip(during)
        .map(|(before, during)| Sample { before, during })
        .ok_or_else(|| source.late("two reports of every vCPU within three rounds", MIGRATE))
}
