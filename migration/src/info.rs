//! What a management client reads about a migration: QEMU's `query-migrate` fields under QEMU's
//! names.
//!
//! The runtime fills a [`MigrationInfo`] as it goes; the QMP server serialises it as it stands.
//! Names and meanings follow QEMU's `qapi/migration.json` (`MigrationInfo`, `MigrationStats`,
//! `MigrationStatus`); Ferry's own fields carry `x-ferry-`.

use serde::{Deserialize, Serialize};

use crate::message::Handshake;

/// Where a migration stands, as `query-migrate` and the `MIGRATION` event show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// No migration has been started.
    #[default]
    None,
    /// Connecting and comparing the two machines.
    Setup,
    /// Precopy rounds; the guest runs on the source.
    Active,
    /// vCPUs stopped, final state being sent (precopy).
    Device,
    /// vCPUs stopped, package sent; the destination is guaranteed not to have started, and page
    /// requests are served.
    PostcopySetup,
    /// The destination runs the guest; pages follow.
    PostcopyActive,
    /// The link broke during `postcopy-active`; the guest runs until it needs a missing page.
    PostcopyPaused,
    /// Reconnecting a paused postcopy.
    PostcopyRecover,
    /// The destination has the guest.
    Completed,
    /// The migration failed; the guest is where it was before, running if it was running.
    Failed,
    /// A cancel was accepted and is being carried out.
    Cancelling,
    /// Cancelled; the guest is where it was before, running if it was running.
    Cancelled,
    /// The permit may have been delivered. The source does not know whether the destination runs,
    /// and stays stopped.
    Uncertain,
}

impl Status {
    /// Whether a migration in this status is still going on.
    #[must_use]
    pub fn is_active(self) -> bool {
        !matches!(self, Status::None | Status::Completed | Status::Failed | Status::Cancelled)
    }

    /// The name as QMP shows it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::None => "none",
            Status::Setup => "setup",
            Status::Active => "active",
            Status::Device => "device",
            Status::PostcopySetup => "postcopy-setup",
            Status::PostcopyActive => "postcopy-active",
            Status::PostcopyPaused => "postcopy-paused",
            Status::PostcopyRecover => "postcopy-recover",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Cancelling => "cancelling",
            Status::Cancelled => "cancelled",
            Status::Uncertain => "uncertain",
        }
    }
}

/// QEMU's `MigrationStats`: bytes unless a name says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RamStats {
    /// Bytes sent so far, headers included.
    pub transferred: u64,
    /// Bytes of guest RAM still to send in this round.
    pub remaining: u64,
    /// Bytes of guest RAM.
    pub total: u64,
    /// All-zero pages, sent as bits.
    pub duplicate: u64,
    /// Pages sent as data.
    pub normal: u64,
    /// Bytes of pages sent as data.
    pub normal_bytes: u64,
    /// Pages a second that the guest dirtied in the last round.
    pub dirty_pages_rate: u64,
    /// Megabits a second over the last round.
    pub mbps: f64,
    /// How often the dirty log was taken: the number of rounds begun.
    pub dirty_sync_count: u64,
    /// Bytes in a page.
    pub page_size: u64,
    /// Pages a second over the last round.
    pub pages_per_second: u64,
    /// Bytes sent during precopy rounds.
    pub precopy_bytes: u64,
    /// Bytes sent while the vCPUs were stopped.
    pub downtime_bytes: u64,
    /// Bytes sent while the destination ran the guest.
    pub postcopy_bytes: u64,
    /// Pages that the destination requested.
    pub postcopy_requests: u64,
}

/// How the guest's memory arrives in postcopy. The counts of pages are live on both sides; waits
/// are known only to the destination, where they happen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PostcopyStats {
    /// `minor` or `missing`: how the destination's host reports a missing page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault_mode: Option<String>,
    /// Pages that are here (seen from the source: sent), of those that were missing at the
    /// switchover.
    pub received_pages: u64,
    /// Pages that are still missing (seen from the source: to be sent).
    pub missing_pages: u64,
    /// Bytes that travelled as answers to page requests.
    pub urgent_bytes: u64,
    /// Bytes that travelled in the background stream.
    pub background_bytes: u64,
    /// Waits of the guest, its devices and KVM, once there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits: Option<PageWaits>,
}

/// Waits for pages that had to be requested, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PageWaits {
    /// How many have ended.
    pub count: u64,
    /// All of them added up.
    pub total_us: u64,
    /// The longest.
    pub longest_us: u64,
    /// The median.
    pub p50_us: u64,
    /// The 99th percentile.
    pub p99_us: u64,
    /// Accesses that were resolved without the source, because the page was here or is zero.
    pub local: u64,
    /// Missing pages that a vCPU or a device has accessed and still waits for.
    pub pending: u64,
}

/// Named parts of the downtime, in microseconds; their sum is the switchover as the source saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Downtime {
    /// Stopping the vCPUs, draining the devices, releasing the disk.
    pub stop_us: u64,
    /// Sending the pages that were dirty at the stop.
    pub last_pages_us: u64,
    /// Saving device and vCPU state.
    pub device_save_us: u64,
    /// Sending the package until the destination began to load it.
    pub package_transfer_us: u64,
    /// Loading on the destination, as it reported.
    pub load_us: u64,
    /// One-way latency of the permit: half of the latencies of `Ready` and the permit together.
    pub permit_us: u64,
    /// From the permit to the first guest instruction, as the destination reported.
    pub start_us: u64,
}

impl Downtime {
    /// The whole switchover in microseconds.
    #[must_use]
    pub fn total_us(&self) -> u64 {
        self.stop_us
            + self.last_pages_us
            + self.device_save_us
            + self.package_transfer_us
            + self.load_us
            + self.permit_us
            + self.start_us
    }
}

/// QEMU's `MigrationInfo`: times in milliseconds. A field that has no value yet is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationInfo {
    /// Where the migration stands; left out, as QEMU does, when none was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Page counters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram: Option<RamStats>,
    /// Since the start; final once the migration ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_time: Option<u64>,
    /// From the start to the first page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setup_time: Option<u64>,
    /// Measured downtime of a completed migration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime: Option<u64>,
    /// What the downtime would be if the switchover began now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_downtime: Option<u64>,
    /// Percentage of their time for which vCPUs are throttled, while `auto-converge` throttles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_throttle_percentage: Option<u64>,
    /// The highest percentage in this migration.
    #[serde(rename = "x-ferry-cpu-throttle-highest", skip_serializing_if = "Option::is_none")]
    pub x_ferry_cpu_throttle_highest: Option<u64>,
    /// Why the migration failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_desc: Option<String>,
    /// Parts of the downtime, in microseconds.
    #[serde(rename = "x-ferry-downtime", skip_serializing_if = "Option::is_none")]
    pub x_ferry_downtime: Option<Downtime>,
    /// The whole downtime in microseconds, where `downtime` is too coarse.
    #[serde(rename = "x-ferry-downtime-us", skip_serializing_if = "Option::is_none")]
    pub x_ferry_downtime_us: Option<u64>,
    /// `outgoing` or `incoming`.
    #[serde(rename = "x-ferry-direction", skip_serializing_if = "Option::is_none")]
    pub x_ferry_direction: Option<String>,
    /// The handshake in force.
    #[serde(rename = "x-ferry-handshake", skip_serializing_if = "Option::is_none")]
    pub x_ferry_handshake: Option<Handshake>,
    /// Why it is not the expected one, if it is not.
    #[serde(rename = "x-ferry-handshake-why", skip_serializing_if = "Option::is_none")]
    pub x_ferry_handshake_why: Option<String>,
    /// True if the memory was handed over as a whole; left out otherwise.
    #[serde(rename = "x-ferry-local", default, skip_serializing_if = "std::ops::Not::not")]
    pub x_ferry_local: bool,
    /// Destination: the mean wait for a page that was requested, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postcopy_latency: Option<u64>,
    /// Destination: how many of these waits took 2^n to 2^(n+1) microseconds, from n = 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postcopy_latency_dist: Option<Vec<u64>>,
    /// How postcopy goes, once it has begun.
    #[serde(rename = "x-ferry-postcopy", skip_serializing_if = "Option::is_none")]
    pub x_ferry_postcopy: Option<PostcopyStats>,
}
