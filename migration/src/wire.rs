//! Frames: how messages and pages look on a link, byte for byte. See `docs/protocol.md` for the
//! tables.
//!
//! Four formats, all little-endian, each with a CRC-32C that is checked before the content is used:
//! - the *preamble* (40 bytes) opens every connection and names its link and its migration;
//! - a *control frame* is a 24-byte header, a message, and an attachment;
//! - a *bulk frame* is a 160-byte header, then the pages that its first bitmap names (on bulk
//!   links and on the urgent link);
//! - a *page request* is 24 bytes on the urgent link, destination to source.
//!
//! Decoding never allocates: the runtime reads a header, gets lengths that are within the cap for
//! the message's kind, and only then allocates.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::message::{OLDEST_VERSION, PROTOCOL_VERSION, ToDestination, ToSource};

pub mod bulk;
pub mod control;
pub mod preamble;
pub mod request;

/// Why bytes from the peer were not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The connection did not begin as a Ferry link does.
    #[error(
        "the peer does not speak Ferry's migration protocol (the connection began with {found}); check the address and that the peer is ferry"
    )]
    NotFerry {
        /// The bytes found, as text.
        found: String,
    },
    /// The peer is a Ferry of another protocol version.
    #[error(
        "the peer speaks version {found} of the migration protocol, this build speaks {PROTOCOL_VERSION} and takes guests from \
         {OLDEST_VERSION} on; run the same ferry on both sides, or the newer one at the destination"
    )]
    Version {
        /// The peer's version.
        found: u16,
    },
    /// A frame failed its checksum.
    #[error("{what} failed its checksum: the link corrupts data")]
    Checksum {
        /// Which frame.
        what: &'static str,
    },
    /// A frame's header holds an illegal value.
    #[error("{what}: {field} is {value}, {allowed}")]
    Field {
        /// Which frame.
        what: &'static str,
        /// Which field.
        field: &'static str,
        /// The value found.
        value: u64,
        /// What would have been accepted.
        allowed: &'static str,
    },
    /// The pages of a compressed chunk could not be decompressed.
    #[error("the pages of chunk {chunk} do not unpack: {why}; the link corrupts data")]
    Packed {
        /// Which chunk.
        chunk: u32,
        /// What is wrong with the block.
        why: String,
    },
    /// A message did not decode.
    #[error("message {kind} does not decode: {why}")]
    Message {
        /// The message's name.
        kind: &'static str,
        /// The error of postcard.
        why: String,
    },
    /// A frame came twice, or one is missing.
    #[error("{what} is frame {found} where {expected} was expected: a frame was lost, repeated or replayed")]
    Sequence {
        /// Which frame.
        what: &'static str,
        /// The number expected.
        expected: u32,
        /// The number found.
        found: u32,
    },
    /// A frame belongs to another migration.
    #[error("{what} belongs to another migration (session {found:#010x}, this one is {expected:#010x})")]
    Session {
        /// Which frame.
        what: &'static str,
        /// This migration.
        expected: u32,
        /// The frame's.
        found: u32,
    },
}

/// A message that can travel on the control link in one direction.
pub trait Message: Serialize + DeserializeOwned {
    /// A number that names the message on the wire.
    fn kind(&self) -> u8;
    /// The name and the caps of a kind: (name, most bytes of message, most bytes of attachment).
    fn limits(kind: u8) -> Option<(&'static str, u32, u32)>;
}

/// Most bytes of device state in one message: 16 vCPUs need about 200 KiB.
pub const STATE_CAP: u32 = 16 << 20;
/// Most bytes of a page bitmap as runs: 16 GiB with every second page takes two bytes a run.
pub const BITMAP_CAP: u32 = 16 << 20;
/// Most bytes of a machine description.
pub const GREETING_CAP: u32 = 1 << 20;
/// Most bytes of the `HelloAck` attachment (`PassedMemory`).
pub const TAKEN_CAP: u32 = 16;
/// Most bytes of the run state that an operator requests.
pub const WISHES_CAP: u32 = 16;
/// Most bytes of a message without its attachment; reasons are texts for people.
pub const MESSAGE_CAP: u32 = 16 << 10;

impl Message for ToDestination {
    fn kind(&self) -> u8 {
        match self {
            ToDestination::Hello { .. } => 1,
            ToDestination::Heartbeat => 2,
            ToDestination::Rehearse => 3,
            ToDestination::Package { .. } => 4,
            ToDestination::Permit { .. } => 5,
            ToDestination::Cancel { .. } => 6,
            ToDestination::Drained => 7,
            ToDestination::Recover { .. } => 8,
        }
    }

    fn limits(kind: u8) -> Option<(&'static str, u32, u32)> {
        Some(match kind {
            1 => ("Hello", MESSAGE_CAP, GREETING_CAP),
            2 => ("Heartbeat", MESSAGE_CAP, 0),
            3 => ("Rehearse", MESSAGE_CAP, STATE_CAP),
            4 => ("Package", MESSAGE_CAP, STATE_CAP),
            5 => ("Permit", MESSAGE_CAP, WISHES_CAP),
            6 => ("Cancel", MESSAGE_CAP, 0),
            7 => ("Drained", MESSAGE_CAP, 0),
            8 => ("Recover", MESSAGE_CAP, 0),
            _ => return None,
        })
    }
}

impl Message for ToSource {
    fn kind(&self) -> u8 {
        match self {
            ToSource::HelloAck { .. } => 65,
            ToSource::Refused { .. } => 66,
            ToSource::Heartbeat => 67,
            ToSource::Rehearsed => 68,
            ToSource::RehearsalFailed(_) => 69,
            ToSource::Ready { .. } => 70,
            ToSource::LoadFailed(_) => 71,
            ToSource::Started { .. } => 72,
            ToSource::NotStarted(_) => 73,
            ToSource::DrainedAck => 74,
            ToSource::RecoverAck => 75,
            ToSource::RecoverRefused { .. } => 76,
            ToSource::MarkerReached { .. } => 77,
        }
    }

    fn limits(kind: u8) -> Option<(&'static str, u32, u32)> {
        Some(match kind {
            65 => ("HelloAck", MESSAGE_CAP, TAKEN_CAP),
            66 => ("Refused", MESSAGE_CAP, 0),
            67 => ("Heartbeat", MESSAGE_CAP, 0),
            68 => ("Rehearsed", MESSAGE_CAP, 0),
            69 => ("RehearsalFailed", MESSAGE_CAP, 0),
            70 => ("Ready", MESSAGE_CAP, 0),
            71 => ("LoadFailed", MESSAGE_CAP, 0),
            72 => ("Started", MESSAGE_CAP, 0),
            73 => ("NotStarted", MESSAGE_CAP, 0),
            74 => ("DrainedAck", MESSAGE_CAP, 0),
            75 => ("RecoverAck", MESSAGE_CAP, BITMAP_CAP),
            76 => ("RecoverRefused", MESSAGE_CAP, 0),
            77 => ("MarkerReached", MESSAGE_CAP, 0),
            _ => return None,
        })
    }
}

/// Reads the first four bytes of a slice that is known to have them.
fn le_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
