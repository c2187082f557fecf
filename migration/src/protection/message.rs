//! The messages of a protection, on the control link that the first copy has used.
//!
//! As in [`crate::message`], bulky data travels as the frame's attachment, which the state
//! machines never see: device state, held outputs, audit hashes.

use serde::{Deserialize, Serialize};

use crate::message::Failure;
use crate::named::named;
use crate::wire::{MESSAGE_CAP, Message, STATE_CAP, WISHES_CAP};

/// Most bytes of serial input in one message.
pub const INPUT_CAP: u32 = 64 << 10;
/// Most bytes behind the device state of a checkpoint: held outputs 1 MiB, positions and audit
/// hashes 64 KiB.
pub const OUTPUTS_CAP: u32 = (1 << 20) + (64 << 10);

/// Primary to secondary.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ToSecondary {
    /// A sign of life.
    Heartbeat,
    /// Everything that belongs to this checkpoint has been sent. Attachment: sections, held
    /// outputs, positions, audit hashes.
    Checkpoint {
        /// Counts from 1.
        epoch: u64,
        /// The checkpoint is whole when every link has delivered the marker of this number.
        marker: u32,
        /// How many pages travel with it.
        pages: u64,
        /// The last disk write that belongs to it; 0 is none.
        disk_record: u64,
        /// The last epoch whose disk writes are in the primary's image for good.
        disk_applied: u64,
    },
    /// Serial input that the guest is about to read. Attachment: the bytes.
    Input {
        /// How many bytes the guest was given before these.
        position: u64,
    },
    /// The ownership record names the secondary as the guest's partner.
    Enrolled {
        /// The generation in which it does.
        generation: u64,
    },
    /// A planned failover: the last checkpoint is committed and the primary's guest is stopped.
    /// The secondary may take over at once. Attachment: the run state that the operator requests.
    Permit {
        /// As in `Enrolled`.
        generation: u64,
    },
    /// The primary goes on alone; a courtesy after its solo swap.
    Dismiss {
        /// Why, for the secondary's own report.
        reason: String,
    },
}

/// Secondary to primary.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ToPrimary {
    /// A sign of life.
    Heartbeat,
    /// The checkpoint is whole and verified: the secondary goes on from it, or from a later one.
    Committed {
        /// Which.
        epoch: u64,
        /// Microseconds from its first byte until it was whole.
        receive_us: u64,
        /// Microseconds for the verification, the trial load of device state included.
        verify_us: u64,
    },
    /// The checkpoint was refused. The secondary still goes on from the one before.
    CheckpointFailed {
        /// Which.
        epoch: u64,
        /// The device, and why.
        failure: Failure,
    },
    /// Planned failover: the secondary runs the guest.
    Started,
    /// Planned failover: the secondary has not taken over, and waits for another permit or for the
    /// loss of the link.
    NotStarted(Failure),
}

named!(ToSecondary, "message's name":
    ToSecondary::Heartbeat => "Heartbeat",
    ToSecondary::Checkpoint { .. } => "Checkpoint",
    ToSecondary::Input { .. } => "Input",
    ToSecondary::Enrolled { .. } => "Enrolled",
    ToSecondary::Permit { .. } => "Permit",
    ToSecondary::Dismiss { .. } => "Dismiss",
);

named!(ToPrimary, "message's name":
    ToPrimary::Heartbeat => "Heartbeat",
    ToPrimary::Committed { .. } => "Committed",
    ToPrimary::CheckpointFailed { .. } => "CheckpointFailed",
    ToPrimary::Started => "Started",
    ToPrimary::NotStarted(_) => "NotStarted",
);

impl Message for ToSecondary {
    fn kind(&self) -> u8 {
        match self {
            ToSecondary::Heartbeat => 129,
            ToSecondary::Checkpoint { .. } => 130,
            ToSecondary::Input { .. } => 131,
            ToSecondary::Enrolled { .. } => 132,
            ToSecondary::Permit { .. } => 133,
            ToSecondary::Dismiss { .. } => 134,
        }
    }

    fn limits(kind: u8) -> Option<(&'static str, u32, u32)> {
        Some(match kind {
            129 => ("Heartbeat", MESSAGE_CAP, 0),
            130 => ("Checkpoint", MESSAGE_CAP, STATE_CAP + OUTPUTS_CAP),
            131 => ("Input", MESSAGE_CAP, INPUT_CAP),
            132 => ("Enrolled", MESSAGE_CAP, 0),
            133 => ("Permit", MESSAGE_CAP, WISHES_CAP),
            134 => ("Dismiss", MESSAGE_CAP, 0),
            _ => return None,
        })
    }
}

impl Message for ToPrimary {
    fn kind(&self) -> u8 {
        match self {
            ToPrimary::Heartbeat => 193,
            ToPrimary::Committed { .. } => 194,
            ToPrimary::CheckpointFailed { .. } => 195,
            ToPrimary::Started => 196,
            ToPrimary::NotStarted(_) => 197,
        }
    }

    fn limits(kind: u8) -> Option<(&'static str, u32, u32)> {
        Some(match kind {
            193 => ("Heartbeat", MESSAGE_CAP, 0),
            194 => ("Committed", MESSAGE_CAP, 0),
            195 => ("CheckpointFailed", MESSAGE_CAP, 0),
            196 => ("Started", MESSAGE_CAP, 0),
            197 => ("NotStarted", MESSAGE_CAP, 0),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::control;

    fn there_and_back<M: Message + PartialEq + std::fmt::Debug>(message: &M, name: &str) {
        let frame = control::encode(message, b"", 7, 3).unwrap();
        let (header, body) = frame.split_first_chunk().unwrap();
        let header = control::decode_header::<M>(header, 7, 3).unwrap();
        assert_eq!(header.name, name);
        assert_eq!(control::decode_body::<M>(&header, body, b"").unwrap(), *message);
    }

    #[test]
    fn every_message_travels_under_its_name() {
        let failure = Failure { device: "serial/0".to_owned(), reason: "no".to_owned() };
        let down = [
            ToSecondary::Heartbeat,
            ToSecondary::Checkpoint { epoch: 3, marker: 4, pages: 5, disk_record: 6, disk_applied: 2 },
            ToSecondary::Input { position: 9 },
            ToSecondary::Enrolled { generation: 5 },
            ToSecondary::Permit { generation: 5 },
            ToSecondary::Dismiss { reason: "unprotect".to_owned() },
        ];
        let up = [
            ToPrimary::Heartbeat,
            ToPrimary::Committed { epoch: 3, receive_us: 1, verify_us: 2 },
            ToPrimary::CheckpointFailed { epoch: 3, failure: failure.clone() },
            ToPrimary::Started,
            ToPrimary::NotStarted(failure),
        ];
        assert_eq!((down.len(), up.len()), (ToSecondary::NAMES.len(), ToPrimary::NAMES.len()));
        down.iter().for_each(|message| there_and_back(message, message.name()));
        up.iter().for_each(|message| there_and_back(message, message.name()));
    }

    #[test]
    fn kinds_of_a_protection_are_those_of_no_migration() {
        use crate::message::{ToDestination, ToSource};
        for kind in 0..=u8::MAX {
            let known = [
                ToSecondary::limits(kind).is_some(),
                ToPrimary::limits(kind).is_some(),
                ToDestination::limits(kind).is_some(),
                ToSource::limits(kind).is_some(),
            ];
            assert!(known.into_iter().filter(|known| *known).count() <= 1, "{kind}");
        }
    }
}
