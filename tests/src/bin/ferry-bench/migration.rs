//! Measures one migration: two processes of one kind, the guest loaded, `migrate` over loopback
//! TCP.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::account::{Measured, Reading};
use crate::error::BenchError;
use crate::machine::Guest;
use crate::peer::{Kind, Peer, Role};
use crate::process::Process;
use crate::serial::SerialLog;

/// Filling all of 8 GiB, on a slow machine.
pub(crate) const FILL: Duration = Duration::from_secs(240);
/// The longest migration that is worth waiting for.
pub(crate) const MIGRATE: Duration = Duration::from_secs(180);
/// A report is due ten times a second.
pub(crate) const REPORTS: Duration = Duration::from_secs(30);
/// Reports of the loaded guest before it is migrated: about a second at its pace.
pub(crate) const WARM_UP: usize = 10;
/// Reports on the destination, of which the first or, when the stop fell into the printing of one,
/// the second spans the switchover.
pub(crate) const SPANNING: usize = 2;
/// QEMU's own default, said to both.
const DOWNTIME_LIMIT_MS: u64 = 300;
/// No limit that a loopback link could reach; QEMU's default of 128 MiB/s is one.
pub(crate) const MAX_BANDWIDTH: u64 = 1 << 40;

/// How a guest is migrated.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    capabilities: Vec<&'static str>,
    both: Map<String, Value>,
    source: Map<String, Value>,
    ferry: Map<String, Value>,
    local: bool,
}

impl Plan {
    /// By precopy, with QEMU's `downtime-limit` and no limit of the bandwidth.
    pub(crate) fn precopy() -> Self {
        let limit = |name: &str, value: u64| (name.to_owned(), value.into());
        let source = [limit("downtime-limit", DOWNTIME_LIMIT_MS), limit("max-bandwidth", MAX_BANDWIDTH)];
        Plan { capabilities: vec![], both: Map::new(), source: Map::from_iter(source), ferry: Map::new(), local: false }
    }

    /// With a capability on both sides.
    pub(crate) fn with(mut self, capability: &'static str) -> Self {
        self.capabilities.push(capability);
        self
    }

    /// With a parameter on both sides.
    pub(crate) fn on_both(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.both.insert(name.to_owned(), value.into());
        self
    }

    /// With a parameter on the source.
    pub(crate) fn on_source(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.source.insert(name.to_owned(), value.into());
        self
    }

    /// With a parameter that only Ferry has, on the source.
    pub(crate) fn on_ferry(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.ferry.insert(name.to_owned(), value.into());
        self
    }

    /// Over a Unix socket, with the memory as a whole: only Ferry knows this.
    pub(crate) fn local(mut self) -> Self {
        self.local = true;
        self.on_ferry("x-ferry-local", true)
    }

    /// Tells both processes. To be called before the destination listens.
    pub(crate) fn apply(&self, peer: &Peer, source: &mut Process, destination: &mut Process) -> Result<(), BenchError> {
        if !self.capabilities.is_empty() {
            source.switch_on(&self.capabilities)?;
            destination.switch_on(&self.capabilities)?;
        }
        let mut parameters = self.source.clone();
        parameters.extend(self.both.clone());
        if peer.kind == Kind::Ferry {
            parameters.extend(self.ferry.clone());
        }
        source.execute("migrate-set-parameters", parameters.into())?;
        if !self.both.is_empty() {
            destination.execute("migrate-set-parameters", self.both.clone().into())?;
        }
        Ok(())
    }
}

/// What one migration took.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// `total-time`, in milliseconds.
    pub total_ms: f64,
    /// From the command to the event of its end, by the bench's own clock, in milliseconds.
    pub observed_ms: f64,
    /// `downtime`, in milliseconds; Ferry gives it to the microsecond.
    pub downtime_ms: f64,
    /// Ferry's saving and loading of the device state, in milliseconds: no downtime could do
    /// without.
    pub state_ms: Option<f64>,
    /// The longest gap between two touches of pages, in milliseconds, in the guest's reports that
    /// span the switchover.
    pub gap_ms: f64,
    /// The longest gap in the reports of the source from the command on.
    pub gap_before_ms: f64,
    /// Bytes of RAM that were moved, as the source counts them.
    pub bytes: u64,
    /// How often the dirty log was taken.
    pub rounds: u64,
    /// Ferry's handshake.
    pub handshake: Option<String>,
}

impl Measured for Sample {
    fn readings(&self) -> Vec<Reading> {
        vec![
            Reading::new(TOTAL, "ms", self.total_ms),
            Reading::new("by the bench's clock", "ms", self.observed_ms),
            Reading::new(DOWNTIME, "ms", self.downtime_ms),
            Reading::new(GAP, "ms", self.gap_ms),
            Reading::new("longest before the stop", "ms", self.gap_before_ms),
            Reading::new(RATE, "GB", self.bytes as f64 / 1e6 / self.total_ms),
            Reading::new("moved", "GB", self.bytes as f64 / 1e9),
            Reading::new("rounds", "", self.rounds as f64),
        ]
    }
}

/// Names of figures that have limits or are plotted.
pub(crate) const TOTAL: &str = "total time";
/// As `query-migrate` gives it.
pub(crate) const DOWNTIME: &str = "downtime";
/// The guest's own word.
pub(crate) const GAP: &str = "guest's longest gap";
/// Bytes moved by total time.
pub(crate) const RATE: &str = "moved a second";

/// Boots, loads, migrates, measures, and ends both processes.
pub(crate) fn measure(peer: &Peer, guest: &Guest, plan: &Plan, directory: &Path) -> Result<Sample, BenchError> {
    let mut source = Process::start(peer, guest, Role::Source, directory)?;
    let mut log = SerialLog::new(&source)?;
    let mut destination = Process::start(peer, guest, Role::Destination, directory)?;
    plan.apply(peer, &mut source, &mut destination)?;
    let uri = if plan.local { destination.listen_at(&socket(directory))? } else { destination.listen()? };
    log.wait_ready(&mut source, guest.cpus, FILL)?;
    log.wait_reports(&mut source, guest.cpus, WARM_UP, REPORTS)?;

    let begun = log.position();
    let began = Instant::now();
    source.execute("migrate", json!({ "uri": uri }))?;
    let info = source.wait_completed(MIGRATE)?;
    let observed = began.elapsed();
    log.read(&source)?;
    let gap_before_us = log.longest_gap_us(&begun, usize::MAX);
    let left = log.position();
    log.moved_to(&destination)?;
    log.wait_reports(&mut destination, guest.cpus, SPANNING, REPORTS)?;

    Ok(Sample {
        total_ms: source.number(&info, &["total-time"])?.max(1) as f64,
        observed_ms: observed.as_secs_f64() * 1e3,
        downtime_ms: downtime_ms(peer, &source, &info)?,
        state_ms: state_ms(&info),
        gap_ms: log.longest_gap_us(&left, SPANNING) as f64 / 1e3,
        gap_before_ms: gap_before_us as f64 / 1e3,
        bytes: source.number(&info, &["ram", "transferred"])?,
        rounds: source.number(&info, &["ram", "dirty-sync-count"])?,
        handshake: info["x-ferry-handshake"].as_str().map(str::to_owned),
    })
}

/// Where a local hand-over goes; a run before may have left its socket.
fn socket(directory: &Path) -> String {
    let path = directory.join("local");
    let _ = std::fs::remove_file(&path);
    format!("unix:{}", path.display())
}

/// The downtime as the source tells it, as finely as it does.
pub(crate) fn downtime_ms(peer: &Peer, source: &Process, info: &Value) -> Result<f64, BenchError> {
    match peer.kind {
        Kind::Ferry => Ok(source.number(info, &["x-ferry-downtime-us"])? as f64 / 1e3),
        Kind::Qemu => Ok(source.number(info, &["downtime"])? as f64),
    }
}

/// What saving and loading the device state took, where the source tells it.
pub(crate) fn state_ms(info: &Value) -> Option<f64> {
    let part = |name: &str| info["x-ferry-downtime"][name].as_f64();
    Some((part("device-save-us")? + part("load-us")?) / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_gathers_what_it_is_told() {
        let plan = Plan::precopy().with("multifd").on_both("multifd-channels", 2).on_source("max-bandwidth", 5);
        assert_eq!(plan.capabilities, ["multifd"]);
        assert_eq!(plan.both["multifd-channels"], 2);
        assert_eq!((&plan.source["max-bandwidth"], &plan.source["downtime-limit"]), (&json!(5), &json!(300)));
    }

    #[test]
    fn saving_and_loading_are_told_by_those_who_tell() {
        let ferry = json!({ "x-ferry-downtime": { "device-save-us": 250, "load-us": 500, "stop-us": 9 } });
        assert_eq!(state_ms(&ferry), Some(0.75));
        assert_eq!(state_ms(&json!({ "downtime": 3 })), None);
    }
}
