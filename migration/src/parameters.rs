//! The parameters of a migration: QEMU's under QEMU's names, and Ferry's own.
//!
//! QMP reads and writes these unchanged (`migrate-set-parameters`, `query-migrate-parameters`); the
//! runtime takes a copy when a migration starts and watches `max-bandwidth` and `downtime-limit`
//! for changes while it runs.

use serde::{Deserialize, Serialize};

use crate::message::Handshake;

mod given;

pub use self::given::{Given, OwnSettings};

/// Most bulk links that a destination accepts.
pub const BULK_LINKS_MAX: u8 = 32;

/// Most that vCPUs may be throttled, in percent of their time: the guest must make progress.
pub const CPU_THROTTLE_MAX: u64 = 99;

/// Least `max-bandwidth` that is a limit, in bytes a second. A figure meant in MiB a second or
/// megabits a second is far below it, and would hold a migration for hours.
pub const MAX_BANDWIDTH_LEAST: u64 = 64 << 10;

/// What to do when precopy does not converge within its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnLimit {
    /// The migration fails and the guest runs on at the source.
    #[default]
    Fail,
    /// The switchover happens with any expected downtime.
    Switch,
}

/// When a migration that may use postcopy starts it by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PostcopyWhen {
    /// Only on the command `migrate-start-postcopy`.
    #[default]
    Manual,
    /// When the first round has ended.
    FirstRound,
    /// When rounds stop paying before the expected downtime is within `downtime-limit`.
    NoProgress,
}

/// How pages are compressed on bulk links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Each chunk that shrinks is sent as one block of LZ4.
    Lz4,
}

/// How the destination's image of a writable disk relates to the source's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskSharing {
    /// The same file, which the two sides prove to each other.
    #[default]
    Shared,
    /// Another file, or one without a proof: the operator guarantees that both have the same
    /// content and that no other guest uses it.
    Copied,
}

/// All parameters, with their defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Parameters {
    /// Bytes a second that page data may use, [`MAX_BANDWIDTH_LEAST`] at least; 0 is no limit
    /// (QEMU: `max-bandwidth`).
    pub max_bandwidth: u64,
    /// Longest downtime to aim for, in milliseconds (QEMU: `downtime-limit`).
    pub downtime_limit: u64,
    /// Where `auto-converge` begins: percentage of their time that vCPUs lose (QEMU:
    /// `cpu-throttle-initial`).
    pub cpu_throttle_initial: u64,
    /// By how much it rises each time, in percent of their time (QEMU: `cpu-throttle-increment`).
    pub cpu_throttle_increment: u64,
    /// Where it ends, in percent of their time (QEMU: `max-cpu-throttle`).
    pub max_cpu_throttle: u64,
    /// Throttling begins or rises when the guest dirties more than this percentage of the bytes
    /// that a round sent, before compression (QEMU: `throttle-trigger-threshold`).
    pub throttle_trigger_threshold: u64,
    /// Rounds after which precopy stops waiting to converge; 0 is no limit.
    #[serde(rename = "x-ferry-max-rounds")]
    pub max_rounds: u64,
    /// Milliseconds after which precopy stops waiting to converge; 0 is no limit.
    #[serde(rename = "x-ferry-max-precopy-ms")]
    pub max_precopy_ms: u64,
    /// What happens at one of these limits.
    #[serde(rename = "x-ferry-on-limit")]
    pub on_limit: OnLimit,
    /// Milliseconds that connecting and `Hello` may take together.
    #[serde(rename = "x-ferry-setup-timeout-ms")]
    pub setup_timeout_ms: u64,
    /// Milliseconds that the destination may take from the package to `Ready`, and from the permit
    /// to `Started`.
    #[serde(rename = "x-ferry-load-timeout-ms")]
    pub load_timeout_ms: u64,
    /// Milliseconds without a sign of life after which the peer counts as lost.
    #[serde(rename = "x-ferry-heartbeat-timeout-ms")]
    pub heartbeat_timeout_ms: u64,
    /// When postcopy starts by itself, where the capability `postcopy-ram` allows it.
    #[serde(rename = "x-ferry-postcopy-when")]
    pub postcopy_when: PostcopyWhen,
    /// What ends the switchover; `None` (on the wire `auto`): `owned` where there is an ownership
    /// record, else `setup`.
    #[serde(rename = "x-ferry-handshake", with = "asked_handshake")]
    pub handshake: Option<Handshake>,
    /// Load the device state on the destination once while the source still runs.
    #[serde(rename = "x-ferry-rehearsal")]
    pub rehearsal: bool,
    /// Bulk links that share the pages where the capability `multifd` is on (QEMU:
    /// `multifd-channels`).
    pub multifd_channels: u64,
    /// How pages are compressed on bulk links. Answers to page requests never are.
    #[serde(rename = "x-ferry-compression")]
    pub compression: Compression,
    /// Hand the memory over as a whole to a process on this host, over a Unix socket, without
    /// copying a page.
    #[serde(rename = "x-ferry-local")]
    pub local: bool,
    /// How the destination's image of a writable disk relates to the source's.
    #[serde(rename = "x-ferry-disk")]
    pub disk: DiskSharing,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters {
            max_bandwidth: 0,
            downtime_limit: 300,
            cpu_throttle_initial: 20,
            cpu_throttle_increment: 10,
            max_cpu_throttle: CPU_THROTTLE_MAX,
            throttle_trigger_threshold: 50,
            max_rounds: 0,
            max_precopy_ms: 0,
            on_limit: OnLimit::Fail,
            setup_timeout_ms: 10_000,
            load_timeout_ms: 3_000,
            heartbeat_timeout_ms: 5_000,
            postcopy_when: PostcopyWhen::Manual,
            handshake: None,
            rehearsal: true,
            multifd_channels: 2,
            compression: Compression::None,
            local: false,
            disk: DiskSharing::Shared,
        }
    }
}

/// The capabilities (QEMU's `MigrationCapability`) that Ferry has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// Send `MIGRATION` and `MIGRATION_PASS`.
    Events,
    /// Migrations may switch to postcopy.
    PostcopyRam,
    /// Several bulk links share the pages, see [`Parameters::multifd_channels`].
    Multifd,
    /// Migrations may throttle a guest that writes faster than the link carries, see
    /// [`Parameters::cpu_throttle_initial`].
    AutoConverge,
}

impl Capability {
    /// Every one, in the order in which clients see them.
    pub const ALL: [Capability; 4] =
        [Capability::Events, Capability::PostcopyRam, Capability::Multifd, Capability::AutoConverge];
}

/// A handshake, or `auto`.
mod asked_handshake {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::message::Handshake;

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Asked {
        Auto,
        None,
        Pong,
        Setup,
        Owned,
    }

    pub(super) fn serialize<S: Serializer>(handshake: &Option<Handshake>, serializer: S) -> Result<S::Ok, S::Error> {
        match handshake {
            None => Asked::Auto,
            Some(Handshake::None) => Asked::None,
            Some(Handshake::Pong) => Asked::Pong,
            Some(Handshake::Setup) => Asked::Setup,
            Some(Handshake::Owned) => Asked::Owned,
        }
        .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Handshake>, D::Error> {
        Ok(match Asked::deserialize(deserializer)? {
            Asked::Auto => None,
            Asked::None => Some(Handshake::None),
            Asked::Pong => Some(Handshake::Pong),
            Asked::Setup => Some(Handshake::Setup),
            Asked::Owned => Some(Handshake::Owned),
        })
    }
}

/// A parameter has a value out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("parameter '{name}' is {value}: {allowed}")]
pub struct ParameterError {
    name: &'static str,
    value: u64,
    allowed: &'static str,
}

impl Parameters {
    /// Checks every value.
    ///
    /// # Errors
    /// The first parameter that is out of its range.
    pub fn check(&self) -> Result<(), ParameterError> {
        let within = |name, value: u64, least: u64, most: u64, allowed| {
            if (least..=most).contains(&value) { Ok(()) } else { Err(ParameterError { name, value, allowed }) }
        };
        if self.max_bandwidth != 0 {
            let allowed = "the unit is bytes a second: 0 for no limit, or from 65536 (64 KiB/s)";
            within("max-bandwidth", self.max_bandwidth, MAX_BANDWIDTH_LEAST, u64::MAX, allowed)?;
        }
        // QEMU's MAX_MIGRATE_DOWNTIME is 2000 s.
        within("downtime-limit", self.downtime_limit, 0, 2_000_000, "from 0 to 2000000 milliseconds")?;
        within("cpu-throttle-initial", self.cpu_throttle_initial, 1, CPU_THROTTLE_MAX, "from 1 to 99 percent")?;
        within("cpu-throttle-increment", self.cpu_throttle_increment, 1, CPU_THROTTLE_MAX, "from 1 to 99 percent")?;
        let least = self.cpu_throttle_initial;
        let allowed = "from cpu-throttle-initial to 99 percent";
        within("max-cpu-throttle", self.max_cpu_throttle, least, CPU_THROTTLE_MAX, allowed)?;
        within("throttle-trigger-threshold", self.throttle_trigger_threshold, 1, 100, "from 1 to 100 percent")?;
        within("x-ferry-setup-timeout-ms", self.setup_timeout_ms, 10, 600_000, "from 10 to 600000 milliseconds")?;
        within("x-ferry-load-timeout-ms", self.load_timeout_ms, 10, 600_000, "from 10 to 600000 milliseconds")?;
        within(
            "x-ferry-heartbeat-timeout-ms",
            self.heartbeat_timeout_ms,
            100,
            600_000,
            "from 100 to 600000 milliseconds",
        )?;
        within("multifd-channels", self.multifd_channels, 1, BULK_LINKS_MAX.into(), "from 1 to 32")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_fine() {
        assert_eq!(Parameters::default().check(), Ok(()));
    }

    #[test]
    fn what_cannot_work_is_named() {
        let error = Parameters { downtime_limit: 2_000_001, ..Parameters::default() }.check().unwrap_err();
        assert_eq!(error.to_string(), "parameter 'downtime-limit' is 2000001: from 0 to 2000000 milliseconds");
        assert!(Parameters { load_timeout_ms: 0, ..Parameters::default() }.check().is_err());
        assert!(Parameters { heartbeat_timeout_ms: 1, ..Parameters::default() }.check().is_err());
    }

    #[test]
    fn a_bandwidth_in_another_unit_is_refused() {
        let check = |max_bandwidth| Parameters { max_bandwidth, ..Parameters::default() }.check();
        for (value, fine) in [(0, true), (1, false), (100, false), (65_535, false), (65_536, true), (u64::MAX, true)] {
            assert_eq!(check(value).is_ok(), fine, "{value}");
        }
        let text = check(100).unwrap_err().to_string();
        let expected =
            "parameter 'max-bandwidth' is 100: the unit is bytes a second: 0 for no limit, or from 65536 (64 KiB/s)";
        assert_eq!(text, expected);
        assert!(text.contains(&MAX_BANDWIDTH_LEAST.to_string()));
    }

    #[test]
    fn throttling_has_qemus_ranges() {
        let fine = |change: &dyn Fn(&mut Parameters)| {
            let mut parameters = Parameters::default();
            change(&mut parameters);
            parameters.check().is_ok()
        };
        for (value, percent, threshold) in [(0, false, false), (1, true, true), (99, true, true), (100, false, true)] {
            assert_eq!(fine(&|all| all.cpu_throttle_initial = value), percent, "{value}");
            assert_eq!(fine(&|all| all.cpu_throttle_increment = value), percent, "{value}");
            assert_eq!(fine(&|all| all.throttle_trigger_threshold = value), threshold, "{value}");
        }
        assert!(!fine(&|all| all.throttle_trigger_threshold = 101));
        for (value, allowed) in [(19, false), (20, true), (99, true), (100, false)] {
            assert_eq!(fine(&|all| all.max_cpu_throttle = value), allowed, "{value}: it begins at 20");
        }
        let error = Parameters { max_cpu_throttle: 10, ..Parameters::default() }.check().unwrap_err();
        assert_eq!(error.to_string(), "parameter 'max-cpu-throttle' is 10: from cpu-throttle-initial to 99 percent");
    }
}
