//! Measures one migration by postcopy: the guest runs at the destination while its memory follows.
//!
//! What a missing page costs is told by two witnesses: the guest, which is the same one under
//! every VMM and times each touch of a page by itself, and the destination, as far as it keeps
//! figures. The guest cannot know why a touch took long: KVM also maps each page that is there
//! when it is first touched. As many of its longest stalls as pages were asked for are taken for
//! those that had to wait.

use std::path::Path;
use std::time::Instant;

use ferry_guest::lines::Stalls;
use serde::Serialize;
use serde_json::{Value, json};

use crate::account::{Measured, Reading};
use crate::error::BenchError;
use crate::machine::Guest;
use crate::migration::{
    DOWNTIME, FILL, GAP, MAX_BANDWIDTH, MIGRATE, Plan, REPORTS, SPANNING, TOTAL, WARM_UP, downtime_ms, state_ms,
};
use crate::peer::{Contender, Kind, Peer, Role};
use crate::process::Process;
use crate::serial::SerialLog;

/// So short that no VMM finds rounds to be enough.
const DOWNTIME_LIMIT_MS: u64 = 1;

/// A VMM and its way to do postcopy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way<'a> {
    peer: &'a Peer,
    preempt: bool,
    when: When,
    bandwidth: u64,
}

/// When the guest changes sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// After the first round: what was dirtied meanwhile is missing.
    FirstRound,
    /// At once: nearly everything is missing.
    AtOnce,
    /// When rounds stop paying, as Ferry finds by itself; the others are told after the first
    /// round.
    NoProgress,
}

/// What one migration by postcopy took.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// `total-time`, in milliseconds.
    pub total_ms: f64,
    /// From the command to the event of its end, by the bench's own clock, in milliseconds.
    pub observed_ms: f64,
    /// `downtime`, in milliseconds; Ferry gives it to the microsecond. Missing where it is longer
    /// than all: QEMU 7.2 forgets to note the stop.
    pub downtime_ms: Option<f64>,
    /// Ferry's saving and loading of the device state, in milliseconds.
    pub state_ms: Option<f64>,
    /// The longest gap between two touches of pages, in milliseconds, in the guest's reports that
    /// span the switchover.
    pub gap_ms: f64,
    /// The same in all reports from the switchover to the end.
    pub longest_gap_ms: f64,
    /// Touches that took long, by the guest's own clock, from the switchover to the end.
    pub stalls: Stalled,
    /// The longest of them, as many as pages were asked for.
    pub missing: Stalled,
    /// Waits for pages that were asked for, as the destination tells of them.
    pub waits: Waits,
    /// Page requests, as the source counts them.
    pub requests: u64,
    /// Bytes of RAM that were moved, as the source counts them.
    pub bytes: u64,
}

/// Stalls that the guest saw.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Stalled {
    /// How many.
    pub count: u64,
    /// All added up, in milliseconds.
    pub total_ms: f64,
    /// Shortest stall of a bucket, in microseconds, and how many fell into it; empty buckets are
    /// left out.
    pub buckets: Vec<(u64, u32)>,
    /// Half of them were no longer, in microseconds.
    pub p50_us: Option<f64>,
    /// 99 of 100 were no longer.
    pub p99_us: Option<f64>,
}

/// Waits that the destination saw; what it does not tell is missing.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Waits {
    /// All added up, in milliseconds. QEMU's vCPUs, each counted by itself.
    pub total_ms: Option<f64>,
    /// The mean, in microseconds.
    pub mean_us: Option<f64>,
    /// Half of them were no longer, in microseconds.
    pub p50_us: Option<f64>,
    /// 99 of 100 were no longer.
    pub p99_us: Option<f64>,
}

impl Measured for Sample {
    fn readings(&self) -> Vec<Reading> {
        vec![
            Reading::new(TOTAL, "ms", self.total_ms),
            Reading::new("by the bench's clock", "ms", self.observed_ms),
            Reading::perhaps(DOWNTIME, "ms", self.downtime_ms),
            Reading::new(GAP, "ms", self.gap_ms),
            Reading::new("longest until the end", "ms", self.longest_gap_ms),
            Reading::new("pages asked for", "", self.requests as f64),
            Reading::perhaps(ONE_P50, "µs", self.missing.p50_us),
            Reading::perhaps(ONE_P99, "µs", self.missing.p99_us),
            Reading::new(ALL, "ms", self.missing.total_ms),
            Reading::new("guest: with other stalls", "ms", self.stalls.total_ms),
            Reading::perhaps("destination: one, p50", "µs", self.waits.p50_us),
            Reading::perhaps("destination: one, p99", "µs", self.waits.p99_us),
            Reading::perhaps("destination: one, mean", "µs", self.waits.mean_us),
            Reading::perhaps("destination: all", "ms", self.waits.total_ms),
            Reading::new("moved", "GB", self.bytes as f64 / 1e9),
        ]
    }
}

/// Names of figures that have limits or are plotted.
pub(crate) const ONE_P50: &str = "guest: one, p50";
/// As above.
pub(crate) const ONE_P99: &str = "guest: one, p99";
/// The stalls of all missing pages.
pub(crate) const ALL: &str = "guest: all";

impl<'a> Way<'a> {
    /// All ways that these VMMs have.
    pub(crate) fn all(peers: &'a [Peer], when: When) -> Vec<Self> {
        let ways = |peer: &'a Peer| {
            let ways: &[bool] = if peer.kind == Kind::Qemu { &[false, true] } else { &[false] };
            ways.iter().map(move |preempt| Way { peer, preempt: *preempt, when, bandwidth: MAX_BANDWIDTH })
        };
        peers.iter().flat_map(ways).collect()
    }

    /// The same with a slower link, in bytes a second.
    pub(crate) fn limited_to(self, bandwidth: u64) -> Self {
        Way { bandwidth, ..self }
    }

    /// Whose values these are.
    pub(crate) fn contender(&self) -> Contender {
        if self.preempt { Contender::Preempt } else { self.peer.contender() }
    }

    fn capabilities(&self, role: Role) -> Vec<&'static str> {
        let mut names = vec!["postcopy-ram"];
        names.extend(self.preempt.then_some("postcopy-preempt"));
        // Ferry always keeps these figures.
        names.extend((self.peer.kind == Kind::Qemu && role == Role::Destination).then_some("postcopy-blocktime"));
        names
    }

    fn plan(&self) -> Plan {
        let plan =
            Plan::precopy().on_source("downtime-limit", DOWNTIME_LIMIT_MS).on_source("max-bandwidth", self.bandwidth);
        match (self.peer.kind, self.when) {
            (Kind::Ferry, When::FirstRound) => plan.on_ferry("x-ferry-postcopy-when", "first-round"),
            (Kind::Ferry, When::NoProgress) => plan.on_ferry("x-ferry-postcopy-when", "no-progress"),
            (Kind::Ferry, When::AtOnce) => plan,
            // QEMU lifts the limit in postcopy unless told otherwise.
            (Kind::Qemu, _) => plan.on_source("max-postcopy-bandwidth", self.bandwidth),
        }
    }
}

/// Boots, loads, migrates, switches to postcopy, measures, and ends both processes.
pub(crate) fn measure(way: &Way<'_>, guest: &Guest, directory: &Path) -> Result<Sample, BenchError> {
    let mut source = Process::start(way.peer, guest, Role::Source, directory)?;
    let mut log = SerialLog::new(&source)?;
    let mut destination = Process::start(way.peer, guest, Role::Destination, directory)?;
    source.switch_on(&way.capabilities(Role::Source))?;
    destination.switch_on(&way.capabilities(Role::Destination))?;
    way.plan().apply(way.peer, &mut source, &mut destination)?;
    let uri = destination.listen()?;
    log.wait_ready(&mut source, guest.cpus, FILL)?;
    log.wait_reports(&mut source, guest.cpus, WARM_UP, REPORTS)?;

    let began = Instant::now();
    begin(way, &mut source, &uri)?;
    let info = source.wait_completed(MIGRATE)?;
    let observed = began.elapsed();
    log.read(&source)?;
    let left = log.position();
    log.moved_to(&destination)?;
    let arrived = destination.wait_completed(MIGRATE)?;
    log.wait_reports(&mut destination, guest.cpus, SPANNING, REPORTS)?;

    let downtime_ms = downtime_ms(way.peer, &source, &info)?;
    let waits = if way.peer.kind == Kind::Ferry { ferry_waits(&arrived) } else { qemu_waits(&arrived) };
    let total_ms = source.number(&info, &["total-time"])?.max(1) as f64;
    let requests = source.number(&info, &["ram", "postcopy-requests"])?;
    let stalls = log.stalls(&left);
    Ok(Sample {
        total_ms,
        observed_ms: observed.as_secs_f64() * 1e3,
        downtime_ms: Some(downtime_ms).filter(|ms| *ms <= total_ms),
        state_ms: state_ms(&info),
        gap_ms: log.longest_gap_us(&left, SPANNING) as f64 / 1e3,
        longest_gap_ms: log.longest_gap_us(&left, usize::MAX) as f64 / 1e3,
        stalls: stalled(&stalls),
        missing: stalled(&stalls.longest(requests)),
        waits,
        requests,
        bytes: source.number(&info, &["ram", "transferred"])?,
    })
}

/// Ferry knows by itself when the first round is over; QEMU is told then.
fn begin(way: &Way<'_>, source: &mut Process, uri: &str) -> Result<(), BenchError> {
    source.execute("migrate", json!({ "uri": uri }))?;
    if way.when != When::AtOnce {
        if way.peer.kind == Kind::Ferry {
            return Ok(());
        }
        source.wait_round(2, MIGRATE)?;
    }
    source.execute("migrate-start-postcopy", json!({})).map(drop)
}

fn stalled(stalls: &Stalls) -> Stalled {
    Stalled {
        count: stalls.count(),
        total_ms: stalls.total_us as f64 / 1e3,
        buckets: (0..).map(Stalls::floor_us).zip(stalls.counts).filter(|(_, count)| *count > 0).collect(),
        p50_us: stalls.percentile_us(50),
        p99_us: stalls.percentile_us(99),
    }
}

fn ferry_waits(info: &Value) -> Waits {
    let waits = &info["x-ferry-postcopy"]["waits"];
    // Of no wait it says 0.
    let of_one = |name: &str| waits[name].as_f64().filter(|_| waits["count"] != 0);
    Waits {
        total_ms: waits["total-us"].as_f64().map(|us| us / 1e3),
        mean_us: mean_us(info),
        p50_us: of_one("p50-us"),
        p99_us: of_one("p99-us"),
    }
}

/// QEMU knows each vCPU's sum, in whole milliseconds, and from 10.1 on the mean. Its powers of two
/// are too coarse for percentiles.
fn qemu_waits(info: &Value) -> Waits {
    let sum = |vcpus: &Vec<Value>| vcpus.iter().filter_map(Value::as_f64).sum();
    let total_ms = info["postcopy-vcpu-blocktime"].as_array().map(sum);
    Waits { total_ms, mean_us: mean_us(info), ..Waits::default() }
}

fn mean_us(info: &Value) -> Option<f64> {
    info["postcopy-latency"].as_f64().map(|ns| ns / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_asked_only_for_what_it_tells() {
        let ferry = json!({
            "postcopy-latency": 41_500,
            "x-ferry-postcopy": { "waits": { "count": 2, "total-us": 83, "p50-us": 40, "p99-us": 43 } },
        });
        let waits = ferry_waits(&ferry);
        assert_eq!((waits.total_ms, waits.mean_us), (Some(0.083), Some(41.5)));
        assert_eq!((waits.p50_us, waits.p99_us), (Some(40.0), Some(43.0)));

        let none = json!({ "x-ferry-postcopy": { "waits": { "count": 0, "total-us": 0, "p50-us": 0, "p99-us": 0 } } });
        let waits = ferry_waits(&none);
        assert_eq!((waits.total_ms, waits.p50_us, waits.p99_us), (Some(0.0), None, None));

        let old = json!({ "postcopy-blocktime": 9, "postcopy-vcpu-blocktime": [9, 12] });
        let waits = qemu_waits(&old);
        assert_eq!((waits.total_ms, waits.mean_us, waits.p50_us), (Some(21.0), None, None));
        let waits = qemu_waits(&json!({ "postcopy-latency": 256_000, "postcopy-latency-dist": [0, 1] }));
        assert_eq!((waits.total_ms, waits.mean_us, waits.p99_us), (None, Some(256.0), None));
    }
}
