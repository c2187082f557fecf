//! One saved device state inside a package: a tag and opaque bytes.
//!
//! The machine fills sections when it saves and hands them to the device of the same name when it
//! loads; this crate carries and checks the frame around them, never the payload.

use serde::{Deserialize, Serialize};

/// A saved state, tagged with the device and version that may load it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// The kind of device, for example `virtio-blk` or `vcpu`.
    pub device: String,
    /// Which device of that kind, from 0.
    pub instance: u32,
    /// The version of the state's format.
    pub version: u32,
    /// The state, in the device's own encoding.
    pub payload: Vec<u8>,
}

impl Section {
    /// The name that messages use: `virtio-blk/0`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.device, self.instance)
    }
}

/// Why the sections of a package were not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectionError {
    /// The bytes end inside a section.
    #[error("the device state ends inside section {at} ({name})")]
    Truncated {
        /// Counted from 0.
        at: usize,
        /// The section's name as far as it is known.
        name: String,
    },
    /// A section failed its checksum.
    #[error("the state of {name} failed its checksum")]
    Checksum {
        /// The section.
        name: String,
    },
    /// A section's name is empty, too long, or has illegal characters.
    #[error("section {at} has no valid device name")]
    Name {
        /// Counted from 0.
        at: usize,
    },
    /// More sections than a machine can have devices.
    #[error("{count} sections of device state: at most {MAX_SECTIONS} are possible")]
    TooMany {
        /// How many were announced.
        count: u32,
    },
    /// Bytes are left after the last section.
    #[error("{count} bytes follow the last section of device state")]
    Trailing {
        /// How many.
        count: usize,
    },
}

/// Most sections in a package.
pub const MAX_SECTIONS: u32 = 256;
const MAX_NAME: usize = 32;

/// Frames sections for a message's attachment: a count, then for each its tag, its length, its
/// bytes and a CRC-32C.
#[must_use]
pub fn encode(sections: &[Section]) -> Vec<u8> {
    let mut out = Vec::with_capacity(sections.iter().map(|s| s.payload.len() + 64).sum());
    out.extend_from_slice(&(sections.len() as u32).to_le_bytes());
    for section in sections {
        let from = out.len();
        out.push(section.device.len() as u8);
        out.extend_from_slice(section.device.as_bytes());
        out.extend_from_slice(&section.instance.to_le_bytes());
        out.extend_from_slice(&section.version.to_le_bytes());
        out.extend_from_slice(&(section.payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&section.payload);
        let crc = crc32c::crc32c(&out[from..]);
        out.extend_from_slice(&crc.to_le_bytes());
    }
    out
}

/// Reads what [`encode`] wrote. Allocates no more than `bytes` holds.
///
/// # Errors
/// The first section that is cut off, corrupt or misnamed.
pub fn decode(bytes: &[u8]) -> Result<Vec<Section>, SectionError> {
    let mut rest = bytes;
    let count = take_u32(&mut rest).ok_or_else(|| truncated(0, ""))?;
    if count > MAX_SECTIONS {
        return Err(SectionError::TooMany { count });
    }
    let sections = (0..count as usize).map(|at| decode_one(&mut rest, at)).collect::<Result<_, _>>()?;
    if !rest.is_empty() {
        return Err(SectionError::Trailing { count: rest.len() });
    }
    Ok(sections)
}

fn decode_one(rest: &mut &[u8], at: usize) -> Result<Section, SectionError> {
    let whole = *rest;
    let name_len = take(rest, 1).ok_or_else(|| truncated(at, ""))?[0] as usize;
    let name = take(rest, name_len).ok_or_else(|| truncated(at, ""))?;
    let legal = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    if name.is_empty() || name.len() > MAX_NAME || !name.iter().all(legal) {
        return Err(SectionError::Name { at });
    }
    let device = String::from_utf8_lossy(name).into_owned();
    let mut word = || take_u32(rest).ok_or_else(|| truncated(at, &device));
    let (instance, version, len) = (word()?, word()?, word()?);
    let payload = take(rest, len as usize).ok_or_else(|| truncated(at, &device))?.to_vec();
    let covered = &whole[..whole.len() - rest.len()];
    let crc = take_u32(rest).ok_or_else(|| truncated(at, &device))?;
    let section = Section { device, instance, version, payload };
    if crc != crc32c::crc32c(covered) {
        return Err(SectionError::Checksum { name: section.name() });
    }
    Ok(section)
}

fn truncated(at: usize, name: &str) -> SectionError {
    SectionError::Truncated { at, name: if name.is_empty() { "unknown".to_owned() } else { name.to_owned() } }
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(len)?;
    *rest = left;
    Some(taken)
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    take(rest, 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn section() -> impl Strategy<Value = Section> {
        ("[a-z][a-z0-9-]{0,20}", any::<u32>(), any::<u32>(), any::<Vec<u8>>())
            .prop_map(|(device, instance, version, payload)| Section { device, instance, version, payload })
    }

    proptest! {
        #[test]
        fn reads_back_what_was_written(sections in proptest::collection::vec(section(), 0..8)) {
            prop_assert_eq!(decode(&encode(&sections)), Ok(sections));
        }

        #[test]
        fn cut_or_flipped_is_noticed(sections in proptest::collection::vec(section(), 1..4), seed: u64) {
            let whole = encode(&sections);
            let cut = &whole[..seed as usize % whole.len()];
            prop_assert!(decode(cut).is_err());
            let mut flipped = whole.clone();
            // The count itself is covered by the frame's checksum.
            let bit = 32 + (seed as usize) % ((whole.len() - 4) * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&flipped).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
