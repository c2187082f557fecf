//! The preamble: the first 40 bytes of every connection from source to destination.
//!
//! It makes a foreign connection recognisable at once, and ties each link to one migration.

use crate::message::{PROTOCOL_VERSION, takes_version};
use crate::wire::WireError;

/// Length in bytes.
pub const PREAMBLE_LEN: usize = 40;
const MAGIC: &[u8; 8] = b"FERRYMIG";

/// Which link of a migration a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkRole {
    /// Messages, both ways.
    Control,
    /// Pages, source to destination; numbered from 0.
    Bulk(u8),
    /// Postcopy: page requests to the source, and the pages asked for back.
    Urgent,
}

/// How a connection introduces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Preamble {
    /// Random, new for each migration.
    pub migration_id: u128,
    /// Counts the connections of the migration, from 0: a recover makes the next. Links of an
    /// earlier one are refused.
    pub connection: u32,
    /// Which link.
    pub link: LinkRole,
}

impl Preamble {
    /// The bytes to send.
    #[must_use]
    pub fn encode(&self) -> [u8; PREAMBLE_LEN] {
        let (role, index) = match self.link {
            LinkRole::Control => (0, 0),
            LinkRole::Bulk(index) => (1, index),
            LinkRole::Urgent => (2, 0),
        };
        let mut out = [0; PREAMBLE_LEN];
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        out[10] = role;
        out[11] = index;
        out[12..16].copy_from_slice(&self.connection.to_le_bytes());
        out[16..32].copy_from_slice(&self.migration_id.to_le_bytes());
        let crc = crc32c::crc32c(&out[..36]);
        out[36..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads what `encode` wrote.
    ///
    /// # Errors
    /// Not Ferry, a version that is not taken, a bad checksum or an unknown role.
    pub fn decode(bytes: &[u8; PREAMBLE_LEN]) -> Result<Self, WireError> {
        if &bytes[..8] != MAGIC {
            let found = bytes[..8].escape_ascii().to_string();
            return Err(WireError::NotFerry { found: format!("\"{found}\"") });
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if !takes_version(version) {
            return Err(WireError::Version { found: version });
        }
        if super::le_u32(&bytes[36..]) != crc32c::crc32c(&bytes[..36]) {
            return Err(WireError::Checksum { what: "the preamble" });
        }
        let link = match (bytes[10], bytes[11]) {
            (0, 0) => LinkRole::Control,
            (1, index) => LinkRole::Bulk(index),
            (2, 0) => LinkRole::Urgent,
            (role, _) => {
                return Err(WireError::Field {
                    what: "the preamble",
                    field: "role",
                    value: role.into(),
                    allowed: "0 is control, 1 is bulk, 2 is urgent",
                });
            }
        };
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[16..32]);
        let connection = super::le_u32(&bytes[12..]);
        Ok(Preamble { migration_id: u128::from_le_bytes(id), connection, link })
    }
}

/// The version that a preamble announces, if `bytes` begin with one.
#[must_use]
pub fn version_of(bytes: &[u8]) -> Option<u16> {
    let rest = bytes.strip_prefix(MAGIC)?;
    Some(u16::from_le_bytes([*rest.first()?, *rest.get(1)?]))
}

/// The part of a migration id that every frame repeats.
#[must_use]
pub fn session(migration_id: u128) -> u32 {
    migration_id as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_back_what_was_written(migration_id: u128, connection: u32, index: u8, role in 0u8..3) {
            let link = [LinkRole::Control, LinkRole::Urgent, LinkRole::Bulk(index)][usize::from(role)];
            let preamble = Preamble { migration_id, connection, link };
            prop_assert_eq!(Preamble::decode(&preamble.encode()), Ok(preamble));
        }

        #[test]
        fn any_flipped_bit_is_noticed(bit in 0usize..PREAMBLE_LEN * 8) {
            let mut bytes = Preamble { migration_id: 7, connection: 9, link: LinkRole::Bulk(3) }.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Preamble::decode(&bytes).is_err());
        }
    }

    #[test]
    fn links_of_the_version_before_are_taken_and_no_others() {
        use crate::message::OLDEST_VERSION;
        let preamble = Preamble { migration_id: 7, connection: 0, link: LinkRole::Control };
        for (version, taken) in [
            (OLDEST_VERSION - 1, false),
            (OLDEST_VERSION, true),
            (PROTOCOL_VERSION, true),
            (PROTOCOL_VERSION + 1, false),
        ] {
            let mut bytes = preamble.encode();
            bytes[8..10].copy_from_slice(&version.to_le_bytes());
            let crc = crc32c::crc32c(&bytes[..36]);
            bytes[36..].copy_from_slice(&crc.to_le_bytes());
            let expected = if taken { Ok(preamble) } else { Err(WireError::Version { found: version }) };
            assert_eq!(Preamble::decode(&bytes), expected);
        }
    }

    #[test]
    fn another_protocol_is_named() {
        let mut bytes = [0; PREAMBLE_LEN];
        bytes[..16].copy_from_slice(b"GET / HTTP/1.1\r\n");
        let error = Preamble::decode(&bytes).unwrap_err().to_string();
        assert!(error.contains("GET / HT"), "{error}");
    }
}
