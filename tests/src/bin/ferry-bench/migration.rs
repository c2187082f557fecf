//! Measures one migration: two processes of one kind, the guest loaded, `migrate` over loopback TCP.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use crate::error::BenchError;
use crate::machine::Guest;
use crate::peer::{Kind, Peer, Role};
use crate::process::Process;
use crate::serial::SerialLog;

/// Filling half of 8 GiB, on a slow machine.
pub const FILL: Duration = Duration::from_secs(120);
/// The longest migration that is worth waiting for.
pub const MIGRATE: Duration = Duration::from_secs(180);
/// A report is due ten times a second.
pub const REPORTS: Duration = Duration::from_secs(30);
/// Reports of the loaded guest before it is migrated: about a second at its pace.
pub const WARM_UP: usize = 10;
/// Reports on the destination, of which the first or, when the stop fell into the printing of one, the second spans the
/// switchover.
pub const SPANNING: usize = 2;
/// QEMU's own default, said to both.
const DOWNTIME_LIMIT_MS: u64 = 300;
/// No limit that a loopback link could reach; QEMU's default of 128 MiB/s is one.
pub const MAX_BANDWIDTH: u64 = 1 << 40;

/// What one migration took.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// `total-time`, in milliseconds.
    pub total_ms: f64,
    /// From the command to the event of its end, by the bench's own clock, in milliseconds.
    pub observed_ms: f64,
    /// `downtime`, in milliseconds; Ferry gives it to the microsecond.
    pub downtime_ms: f64,
    /// The longest gap between two touches of pages, in milliseconds, in the guest's reports that span the switchover.
    pub gap_ms: f64,
    /// The longest gap in the reports of the source from the command on.
    pub gap_before_ms: f64,
    /// Bytes of RAM that were moved, as the source counts them.
    pub bytes: u64,
    /// How often the dirty log was taken.
    pub rounds: u64,
}

impl Sample {
    /// Gigabytes (10⁹) a second.
    pub fn gigabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.total_ms
    }
}

/// Boots, loads, migrates, measures, and ends both processes.
pub fn measure(peer: &Peer, guest: &Guest, directory: &Path) -> Result<Sample, BenchError> {
    let mut source = Process::start(peer, guest, Role::Source, directory)?;
    let mut log = SerialLog::new(&source)?;
    let mut destination = Process::start(peer, guest, Role::Destination, directory)?;
    let uri = destination.listen()?;
    let parameters = json!({ "downtime-limit": DOWNTIME_LIMIT_MS, "max-bandwidth": MAX_BANDWIDTH });
    source.execute("migrate-set-parameters", parameters)?;
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

    let downtime_ms = match peer.kind {
        Kind::Ferry => source.number(&info, &["x-ferry-downtime-us"])? as f64 / 1e3,
        Kind::Qemu => source.number(&info, &["downtime"])? as f64,
    };
    Ok(Sample {
        total_ms: source.number(&info, &["total-time"])?.max(1) as f64,
        observed_ms: observed.as_secs_f64() * 1e3,
        downtime_ms,
        gap_ms: log.longest_gap_us(&left, SPANNING) as f64 / 1e3,
        gap_before_ms: gap_before_us as f64 / 1e3,
        bytes: source.number(&info, &["ram", "transferred"])?,
        rounds: source.number(&info, &["ram", "dirty-sync-count"])?,
    })
}
