//! One slot of an ownership record, byte for byte: 512 bytes, little-endian, closed by a CRC-32C.
//!
//! [`super::file`] puts two of them into a file. A slot is one disk sector, so hardware rarely
//! tears it; a torn slot still holds bytes that [`decode`] distinguishes from a record.

use std::fmt;

use crate::ownership::{Name, OwnerId, Record};

/// Length of a slot's content in bytes.
pub const SLOT_LEN: usize = 512;
/// The newest version of the format. Later versions keep the magic, the version and the checksum
/// where they are.
pub const FORMAT_VERSION: u16 = 2;
/// The version of a record without a partner: every build of Ferry reads it.
const WITHOUT_PARTNER: u16 = 1;

const MAGIC: &[u8; 8] = b"FERRYOWN";
const VERSION: usize = 8;
const FLAGS: usize = 10;
const VM_LEN: usize = 11;
const LABEL_LEN: usize = 12;
const PARTNER_LEN: usize = 13;
const SEQUENCE: usize = 16;
const GENERATION: usize = 24;
const NONCE: usize = 32;
const MIGRATION: usize = 40;
const OWNER: usize = 56;
const VM: usize = 72;
const LABEL: usize = 136;
const PARTNER: usize = 200;
const PARTNER_LABEL: usize = 216;
const UNUSED: usize = 280;
const CRC: usize = 508;

const SETTLED: u8 = 1;

/// The content of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// Zeros: never written.
    Empty,
    /// A record, whole.
    Filled {
        /// Orders the slots: the higher is the newer.
        sequence: u64,
        /// The record.
        record: Record,
    },
    /// An incomplete write, or bit rot.
    Torn(Tear),
    /// Not an ownership record.
    Foreign {
        /// How it begins.
        found: String,
    },
    /// Whole, and written by a later Ferry.
    Newer {
        /// Its format version.
        version: u16,
    },
}

/// Why a slot is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tear {
    /// The bytes end before the slot does.
    CutOff,
    /// The checksum does not match.
    Checksum,
    /// The checksum matches, but this field is impossible.
    Field(&'static str),
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Slot::Empty => f.write_str("empty"),
            Slot::Filled { sequence, record } => {
                write!(f, "write {sequence}, generation {} of {}", record.generation, record.owner)
            }
            Slot::Torn(Tear::CutOff) => f.write_str("cut off"),
            Slot::Torn(Tear::Checksum) => f.write_str("checksum does not match"),
            Slot::Torn(Tear::Field(field)) => write!(f, "impossible {field}"),
            Slot::Foreign { found } => write!(f, "no record, begins with \"{found}\""),
            Slot::Newer { version } => write!(f, "format {version}"),
        }
    }
}

/// The bytes of `record` as write number `sequence`.
#[must_use]
pub fn encode(sequence: u64, record: &Record) -> [u8; SLOT_LEN] {
    let mut out = [0; SLOT_LEN];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, MAGIC);
    let version = if record.partner.is_some() { FORMAT_VERSION } else { WITHOUT_PARTNER };
    put(VERSION, &version.to_le_bytes());
    put(FLAGS, &[if record.settled { SETTLED } else { 0 }]);
    put(SEQUENCE, &sequence.to_le_bytes());
    put(GENERATION, &record.generation.to_le_bytes());
    put(NONCE, &record.nonce.to_le_bytes());
    put(MIGRATION, &record.migration_id.to_le_bytes());
    put(OWNER, &record.owner.id.to_le_bytes());
    let mut names = vec![(VM_LEN, VM, &record.vm), (LABEL_LEN, LABEL, &record.owner.label)];
    if let Some(partner) = &record.partner {
        put(PARTNER, &partner.id.to_le_bytes());
        names.push((PARTNER_LEN, PARTNER_LABEL, &partner.label));
    }
    for (len_at, at, name) in names {
        // A name is at most 64 bytes long, which its field and its length byte hold.
        put(len_at, &[name.as_str().len() as u8]);
        put(at, name.as_str().as_bytes());
    }
    let crc = crc32c::crc32c(&out[..CRC]);
    out[CRC..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Classifies the bytes of a slot. Accepts any bytes, even fewer than a slot has; bytes after it
/// are ignored.
#[must_use]
pub fn decode(bytes: &[u8]) -> Slot {
    let Some(slot) = bytes.first_chunk::<SLOT_LEN>() else {
        let seen = bytes.len().min(MAGIC.len());
        return if bytes[..seen] == MAGIC[..seen] { Slot::Torn(Tear::CutOff) } else { foreign(bytes) };
    };
    if !slot.starts_with(MAGIC) {
        return unnamed(slot);
    }
    if array::<4>(slot, CRC) != crc32c::crc32c(&slot[..CRC]).to_le_bytes() {
        return Slot::Torn(Tear::Checksum);
    }
    match u16::from_le_bytes(array(slot, VERSION)) {
        0 => Slot::Torn(Tear::Field("format version")),
        version @ WITHOUT_PARTNER..=FORMAT_VERSION => {
            fields(slot, version).unwrap_or_else(|field| Slot::Torn(Tear::Field(field)))
        }
        version => Slot::Newer { version },
    }
}

/// A slot without the magic: never written, torn in its first write, or something else.
fn unnamed(slot: &[u8; SLOT_LEN]) -> Slot {
    if slot.iter().all(|byte| *byte == 0) {
        return Slot::Empty;
    }
    if is_part_of_first_write(slot) { Slot::Torn(Tear::Checksum) } else { foreign(slot) }
}

/// Whether a partial write of this format over zeros can have left these bytes: each constant is
/// written or still zero, and values may be anything.
fn is_part_of_first_write(slot: &[u8; SLOT_LEN]) -> bool {
    let begun = slot.iter().zip(MAGIC).all(|(found, written)| *found == 0 || found == written);
    let version = u16::from_le_bytes(array(slot, VERSION));
    begun && version <= FORMAT_VERSION && slot[FLAGS] & !SETTLED == 0 && unused(slot, version).all(|byte| *byte == 0)
}

/// The bytes that this version of the format leaves at 0; of an unwritten version, those that
/// every version does.
fn unused(slot: &[u8; SLOT_LEN], version: u16) -> impl Iterator<Item = &u8> {
    let (first, from) = if version == WITHOUT_PARTNER { (PARTNER_LEN, PARTNER) } else { (PARTNER_LEN + 1, UNUSED) };
    slot[first..SEQUENCE].iter().chain(&slot[from..CRC])
}

fn foreign(bytes: &[u8]) -> Slot {
    Slot::Foreign { found: bytes[..bytes.len().min(MAGIC.len())].escape_ascii().to_string() }
}

fn fields(slot: &[u8; SLOT_LEN], version: u16) -> Result<Slot, &'static str> {
    if unused(slot, version).any(|byte| *byte != 0) {
        return Err("unused bytes");
    }
    let settled = match slot[FLAGS] {
        0 => false,
        SETTLED => true,
        _ => return Err("flags"),
    };
    let record = Record {
        vm: name(slot, VM_LEN, VM).ok_or("guest name")?,
        generation: u64::from_le_bytes(array(slot, GENERATION)),
        owner: OwnerId {
            id: u128::from_le_bytes(array(slot, OWNER)),
            label: name(slot, LABEL_LEN, LABEL).ok_or("owner label")?,
        },
        migration_id: u128::from_le_bytes(array(slot, MIGRATION)),
        settled,
        nonce: u64::from_le_bytes(array(slot, NONCE)),
        partner: match version {
            WITHOUT_PARTNER => None,
            _ => Some(OwnerId {
                id: u128::from_le_bytes(array(slot, PARTNER)),
                label: name(slot, PARTNER_LEN, PARTNER_LABEL).ok_or("partner's label")?,
            }),
        },
    };
    Ok(Slot::Filled { sequence: u64::from_le_bytes(array(slot, SEQUENCE)), record })
}

fn name(slot: &[u8; SLOT_LEN], len_at: usize, at: usize) -> Option<Name> {
    let (text, rest) = slot[at..at + Name::MAX_BYTES].split_at_checked(slot[len_at].into())?;
    if rest.iter().any(|byte| *byte != 0) {
        return None;
    }
    Name::try_from(std::str::from_utf8(text).ok()?).ok()
}

fn array<const N: usize>(slot: &[u8; SLOT_LEN], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&slot[at..at + N]);
    out
}

#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;
