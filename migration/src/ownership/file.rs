//! Two slots in one file: which of them counts, and where the next write goes.
//!
//! A write never touches the newest record: it goes to the other slot, and counts once that slot
//! is whole. So a write that is torn anywhere leaves the record before it. Nothing is ever written
//! over bytes that are not understood.

use crate::ownership::Record;
use crate::ownership::slot::{self, FORMAT_VERSION, SLOT_LEN, Slot};

/// Where each slot begins. Storage writes in units of up to 4 KiB, so the two never share one.
pub const SLOT_OFFSETS: [u64; 2] = [0, 4096];
/// Length of the file in bytes; it never changes.
pub const FILE_LEN: usize = 8192;

/// The record that counts, and where the next goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Newest {
    /// The record.
    pub record: Record,
    /// The number of the write that made it.
    pub sequence: u64,
    /// Which slot it is in, 0 or 1.
    pub slot: usize,
}

/// The bytes of one write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotWrite {
    /// From the start of the file.
    pub offset: u64,
    /// What to write there, at once.
    pub bytes: [u8; SLOT_LEN],
}

/// Why a file does not yield a record. Nothing may be written to it then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Something else is kept there.
    #[error("slot {slot} holds no ownership record: it begins with \"{found}\"")]
    Foreign {
        /// 0 or 1.
        slot: usize,
        /// Its first bytes.
        found: String,
    },
    /// A later Ferry wrote it.
    #[error("slot {slot} has format version {version}, and this build reads version {FORMAT_VERSION}")]
    Newer {
        /// 0 or 1.
        slot: usize,
        /// The version found.
        version: u16,
    },
    /// No slot is whole.
    #[error("no slot is whole (slot 0: {}; slot 1: {})", slots[0], slots[1])]
    Unreadable {
        /// The content of slots 0 and 1.
        slots: Box<[Slot; 2]>,
    },
    /// Both slots are whole, but no series of writes leaves them so.
    #[error("the slots contradict each other (slot 0: {}; slot 1: {})", slots[0], slots[1])]
    Conflict {
        /// The content of slots 0 and 1.
        slots: Box<[Slot; 2]>,
    },
    /// The file is shorter or longer than it was created.
    #[error("it is {found} bytes long where {FILE_LEN} are right")]
    Length {
        /// Its length, as far as it was read.
        found: usize,
    },
    /// The write number would overflow.
    #[error("its write number has reached its end, which no series of writes does")]
    Exhausted,
}

/// The record in a file's bytes.
///
/// # Errors
/// When something else is there, a later Ferry wrote it, or no record can be trusted.
pub fn read(bytes: &[u8]) -> Result<Newest, FormatError> {
    let [first, second] = SLOT_OFFSETS.map(|offset| slot::decode(bytes.get(offset as usize..).unwrap_or_default()));
    let newest = choose(first, second)?;
    if bytes.len() != FILE_LEN {
        return Err(FormatError::Length { found: bytes.len() });
    }
    Ok(newest)
}

/// The newest of two slots.
///
/// # Errors
/// As [`read`].
pub fn choose(first: Slot, second: Slot) -> Result<Newest, FormatError> {
    for (slot, content) in [&first, &second].into_iter().enumerate() {
        if let Slot::Foreign { found } = content {
            return Err(FormatError::Foreign { slot, found: found.clone() });
        }
        if let Slot::Newer { version } = *content {
            return Err(FormatError::Newer { slot, version });
        }
    }
    match (first, second) {
        (Slot::Filled { sequence: a, record: older }, Slot::Filled { sequence: b, record: newer }) if a < b => {
            succeed(Newest { record: older, sequence: a, slot: 0 }, Newest { record: newer, sequence: b, slot: 1 })
        }
        (Slot::Filled { sequence: a, record: newer }, Slot::Filled { sequence: b, record: older }) if a > b => {
            succeed(Newest { record: older, sequence: b, slot: 1 }, Newest { record: newer, sequence: a, slot: 0 })
        }
        (first @ Slot::Filled { .. }, second @ Slot::Filled { .. }) => {
            Err(FormatError::Conflict { slots: Box::new([first, second]) })
        }
        (Slot::Filled { sequence, record }, _) => Ok(Newest { record, sequence, slot: 0 }),
        (_, Slot::Filled { sequence, record }) => Ok(Newest { record, sequence, slot: 1 }),
        (first, second) => Err(FormatError::Unreadable { slots: Box::new([first, second]) }),
    }
}

/// `newer` counts if it can have followed `older`: a guest keeps its name, and a generation never
/// goes back.
fn succeed(older: Newest, newer: Newest) -> Result<Newest, FormatError> {
    let (was, is) = (&older.record, &newer.record);
    let same_reign = was.generation == is.generation && was.owner == is.owner;
    if was.vm == is.vm && (same_reign || was.generation < is.generation) {
        return Ok(newer);
    }
    let in_order = if older.slot == 0 { [older, newer] } else { [newer, older] };
    let slots = in_order.map(|n| Slot::Filled { sequence: n.sequence, record: n.record });
    Err(FormatError::Conflict { slots: Box::new(slots) })
}

/// The first bytes of a file that holds `record`.
#[must_use]
pub fn create(record: &Record) -> Vec<u8> {
    let mut bytes = vec![0; FILE_LEN];
    bytes[..SLOT_LEN].copy_from_slice(&slot::encode(1, record));
    bytes
}

impl Newest {
    /// The write that makes `record` the newest.
    ///
    /// # Errors
    /// [`FormatError::Exhausted`].
    pub fn next(&self, record: &Record) -> Result<SlotWrite, FormatError> {
        let sequence = self.sequence.checked_add(1).ok_or(FormatError::Exhausted)?;
        let offset = SLOT_OFFSETS[1 - self.slot];
        Ok(SlotWrite { offset, bytes: slot::encode(sequence, record) })
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
