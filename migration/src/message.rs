//! The messages of the control link.
//!
//! The state machines send and receive these values; [`crate::wire`] turns them into frames. They
//! are small and hashable, so that an explorer can hold many of them: everything bulky (a machine
//! description, device state) travels as the frame's *attachment*, which the runtime fills and
//! reads and the state machines never see.

use serde::{Deserialize, Serialize};

use crate::named::named;

/// The protocol version of this build's source.
pub const PROTOCOL_VERSION: u16 = 5;
/// The oldest source version that a destination accepts. Since then, only the data behind the
/// greeting has changed.
pub const OLDEST_VERSION: u16 = 4;

/// Whether a destination of this build accepts a source of this version.
#[must_use]
pub fn takes_version(version: u16) -> bool {
    (OLDEST_VERSION..=PROTOCOL_VERSION).contains(&version)
}

/// A device that could not be saved, loaded or started, as it travels in messages and ends in
/// `error-desc`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[error("{device}: {reason}")]
pub struct Failure {
    /// The device, for example `virtio-blk/0`.
    pub device: String,
    /// What went wrong and what can be done.
    pub reason: String,
}

/// How a switchover decides which side runs the guest. See `docs/protocol.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Handshake {
    /// Package and run in one go, as QEMU before 10.2. A failed load loses the guest. For
    /// comparison only.
    None,
    /// The destination's answer after loading is taken as proof that it runs. A lost answer makes
    /// two runners. For comparison only.
    Pong,
    /// The destination starts only with the source's permit. Safe; a link lost at the wrong moment
    /// leaves it uncertain which side owns the guest until an operator resolves it.
    #[default]
    Setup,
    /// The permit, and an ownership record that both sides see. Safe, and decided while the record
    /// can be reached.
    Owned,
}

impl Handshake {
    /// The name as QMP shows it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Handshake::None => "none",
            Handshake::Pong => "pong",
            Handshake::Setup => "setup",
            Handshake::Owned => "owned",
        }
    }
}

/// Source to destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ToDestination {
    /// The first message. Attachment: [`crate::greeting::Greeting`] with what follows it.
    Hello {
        /// [`PROTOCOL_VERSION`] of the source.
        version: u16,
        /// Which run of the guest this is; the destination takes over as the next one.
        generation: u64,
        /// Whether the migration may switch to postcopy, so that the destination needs
        /// userfaultfd.
        postcopy: bool,
        /// What ends the switchover; `Owned` holds only if the destination sees the same ownership
        /// record.
        handshake: Handshake,
    },
    /// A sign of life.
    Heartbeat,
    /// Load this state on trial. Attachment: sections.
    Rehearse,
    /// The final device state; the source's vCPUs are stopped. Attachment: sections, and in
    /// postcopy the remaining pages.
    Package {
        /// As in `Hello`.
        generation: u64,
        /// Load only when every bulk link has delivered the marker of this number.
        marker: u32,
        /// Pages remain: they come while the destination runs.
        postcopy: bool,
    },
    /// The destination may run the guest. From here on the source does not resume by itself.
    /// Attachment: the run state that the operator requests.
    Permit {
        /// As in `Hello`.
        generation: u64,
    },
    /// Postcopy: every remaining page has been sent.
    Drained,
    /// Postcopy, on a new link after a break: go on. The destination answers with its received
    /// bitmap.
    Recover {
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
    /// The machines match; send pages. Attachment, where memory was handed over:
    /// [`crate::greeting::PassedMemory`], as it was announced.
    HelloAck {
        /// Whether this side read the source's nonce from its own view of the ownership record.
        record_shared: bool,
    },
    /// The machines do not match.
    Refused {
        /// The first item that differs, and how.
        reason: String,
    },
    /// A sign of life.
    Heartbeat,
    /// Every bulk link has delivered this marker: everything sent before it is in guest memory.
    MarkerReached {
        /// The marker's number.
        marker: u32,
    },
    /// The rehearsal's state loaded, `post_load` included.
    Rehearsed,
    /// A device refused the rehearsal's state.
    RehearsalFailed(Failure),
    /// Everything that can fail has been done; waiting for the permit.
    Ready {
        /// Microseconds from the package's arrival to the end of loading, including the wait for
        /// the last pages.
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
        /// Microseconds from the sending of `Ready` to the permit's arrival; 0 if no permit was
        /// awaited.
        permit_us: u64,
    },
    /// Postcopy: every page is here; the source may free its memory.
    DrainedAck,
    /// Postcopy, on a new link: go on with the pages that are missing. Attachment: the received
    /// bitmap.
    RecoverAck,
    /// The destination is not in the postcopy that the source wants to recover.
    RecoverRefused {
        /// Why, and what it is doing.
        reason: String,
    },
    /// The destination has not run the guest and never will in this migration, permit or not.
    NotStarted(Failure),
}

named!(ToDestination, "message's name":
    ToDestination::Hello { .. } => "Hello",
    ToDestination::Heartbeat => "Heartbeat",
    ToDestination::Rehearse => "Rehearse",
    ToDestination::Package { .. } => "Package",
    ToDestination::Permit { .. } => "Permit",
    ToDestination::Drained => "Drained",
    ToDestination::Recover { .. } => "Recover",
    ToDestination::Cancel { .. } => "Cancel",
);

named!(ToSource, "message's name":
    ToSource::HelloAck { .. } => "HelloAck",
    ToSource::Refused { .. } => "Refused",
    ToSource::Heartbeat => "Heartbeat",
    ToSource::MarkerReached { .. } => "MarkerReached",
    ToSource::Rehearsed => "Rehearsed",
    ToSource::RehearsalFailed(_) => "RehearsalFailed",
    ToSource::Ready { .. } => "Ready",
    ToSource::LoadFailed(_) => "LoadFailed",
    ToSource::Started { .. } => "Started",
    ToSource::DrainedAck => "DrainedAck",
    ToSource::RecoverAck => "RecoverAck",
    ToSource::RecoverRefused { .. } => "RecoverRefused",
    ToSource::NotStarted(_) => "NotStarted",
);
