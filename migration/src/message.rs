//! What the two sides say to each other on the control link.
//!
//! The state machines send and receive these values; [`crate::wire`] turns them into frames. They are small and hashable, so
//! that an explorer can hold many of them: everything bulky (a machine description, device state) travels as the frame's
//! *attachment*, which the runtime fills and reads and the state machines never see.

use serde::{Deserialize, Serialize};

/// The protocol's version. Both sides must have the same one.
pub const PROTOCOL_VERSION: u16 = 1;

/// A device that could not be saved, loaded or started, as it travels in messages and ends in `error-desc`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[error("{device}: {reason}")]
pub struct Failure {
    /// The device, for example `virtio-blk/0`.
    pub device: String,
    /// What went wrong and what can be done.
    pub reason: String,
}

/// Source to destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ToDestination {
    /// The first message. Attachment: [`crate::greeting::Greeting`].
    Hello {
        /// [`PROTOCOL_VERSION`] of the source.
        version: u16,
        /// Which run of the guest this is; the destination takes over as the next one.
        generation: u64,
    },
    /// A sign of life.
    Heartbeat,
    /// Load this state on trial. Attachment: sections.
    Rehearse,
    /// The final device state; the source's vCPUs are stopped. Attachment: sections.
    Package {
        /// As in `Hello`.
        generation: u64,
        /// Load only when every bulk link has delivered the marker of this number.
        marker: u32,
    },
    /// The destination may run the guest. From here on the source does not resume by itself.
    Permit {
        /// As in `Hello`.
        generation: u64,
    },
    /// The source gives the migration up and keeps the guest.
    Cancel {
        /// Why, for the destination's own report.
        reason: String,
    },
}

/// Destination to source: the return path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ToSource {
    /// The machines match; send pages.
    HelloAck,
    /// The machines do not match.
    Refused {
        /// The first item that differs, and how.
        reason: String,
    },
    /// A sign of life.
    Heartbeat,
    /// The rehearsal's state loaded, `post_load` included.
    Rehearsed,
    /// A device refused the rehearsal's state.
    RehearsalFailed(Failure),
    /// Everything that can fail has been done; waiting for the permit.
    Ready {
        /// Microseconds from the package's arrival to the end of loading, and of that the wait for the last pages.
        load_us: u64,
        /// Microseconds from the package's arrival until the last pages were there.
        pages_us: u64,
    },
    /// A device did not load; the destination will not run the guest.
    LoadFailed(Failure),
    /// The destination's vCPUs run.
    Started {
        /// Microseconds from the permit's arrival to the first `KVM_RUN`.
        start_us: u64,
    },
    /// The destination has not run the guest and never will in this migration, permit or not.
    NotStarted(Failure),
}

impl ToDestination {
    /// The message's name, for errors and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            ToDestination::Hello { .. } => "Hello",
            ToDestination::Heartbeat => "Heartbeat",
            ToDestination::Rehearse => "Rehearse",
            ToDestination::Package { .. } => "Package",
            ToDestination::Permit { .. } => "Permit",
            ToDestination::Cancel { .. } => "Cancel",
        }
    }
}

impl ToSource {
    /// The message's name, for errors and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            ToSource::HelloAck => "HelloAck",
            ToSource::Refused { .. } => "Refused",
            ToSource::Heartbeat => "Heartbeat",
            ToSource::Rehearsed => "Rehearsed",
            ToSource::RehearsalFailed(_) => "RehearsalFailed",
            ToSource::Ready { .. } => "Ready",
            ToSource::LoadFailed(_) => "LoadFailed",
            ToSource::Started { .. } => "Started",
            ToSource::NotStarted(_) => "NotStarted",
        }
    }
}
