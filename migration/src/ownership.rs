//! Who may run a guest: the ownership record, its bytes, and the rules of its changes.
//!
//! A record names one process as the owner of one guest. It has no lease and no clock: only a
//! compare-and-swap changes it. Everything here is pure. The state machines and the explorer use
//! [`Handover`] and [`judge`]; the backends in `ferry-record` keep the bytes of [`mod@file`] on
//! storage that both sides see. `docs/ownership-record.md` has the tables.

use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

pub mod custody;
pub mod file;
pub mod handover;
pub mod partnership;
pub mod slot;
pub mod swap;

pub use handover::{Handover, Standing};
pub use partnership::Partnership;
pub use swap::{Change, Expected, RuleError, Swap, Verdict, judge};

/// Who owns a guest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// The guest's name. A record never changes its guest.
    pub vm: Name,
    /// Which run of the guest this is: one more with every change of the owner.
    pub generation: u64,
    /// The process that may run the guest.
    pub owner: OwnerId,
    /// The migration that last changed or announced something here; 0 before the first.
    pub migration_id: u128,
    /// No migration is under way: the owner runs the guest, or keeps it stopped with its disk
    /// locked, or is dead. While this is false, a stopped process without any lock may hold the
    /// newest state of the guest.
    pub settled: bool,
    /// A number that the source wrote for the destination to read back, which proves that both see
    /// the same record; 0 is none.
    pub nonce: u64,
    /// The process that may take the guest over when it cannot reach the owner: it holds a
    /// committed checkpoint of the guest. Only a swap removes it.
    pub partner: Option<OwnerId>,
}

/// A ferry process, identified by a random number.
///
/// Two are the same if their numbers are; the label is for people and is not compared.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OwnerId {
    /// Random, new for each process.
    pub id: u128,
    /// Where to look for it, for example `host:pid`.
    pub label: Name,
}

impl PartialEq for OwnerId {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for OwnerId {}

impl Hash for OwnerId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:08x})", self.label, self.id >> 96)
    }
}

/// A name in a record: 1 to 64 bytes of UTF-8 without control characters, so that it fits its
/// field and one line.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Most bytes in a name.
    pub const MAX_BYTES: usize = 64;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > Name::MAX_BYTES {
            return Err(NameError::Length { bytes: text.len() });
        }
        if text.contains(char::is_control) {
            return Err(NameError::Control { text: text.escape_debug().to_string() });
        }
        Ok(Name(text))
    }
}

impl TryFrom<&str> for Name {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        Name::try_from(text.to_owned())
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

/// The text cannot be a name in a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, or too long.
    #[error("a name of {bytes} bytes does not fit an ownership record: use 1 to {max} bytes", max = Name::MAX_BYTES)]
    Length {
        /// Its length.
        bytes: usize,
    },
    /// It would break the line that it is printed on.
    #[error("the name '{text}' holds control characters: use printable ones")]
    Control {
        /// The text, escaped.
        text: String,
    },
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An owner whose label tells its number.
    pub(crate) fn owner(id: u128) -> OwnerId {
        OwnerId { id, label: name(&format!("host:{id}")) }
    }

    pub(crate) fn name(text: &str) -> Name {
        Name::try_from(text).expect("tests use good names")
    }

    /// A record of guest `vm` in migration 7.
    pub(crate) fn record(generation: u64, owner_id: u128) -> Record {
        let (owner, vm) = (owner(owner_id), name("vm"));
        Record { vm, generation, owner, migration_id: 7, settled: false, nonce: 0, partner: None }
    }

    #[test]
    fn a_label_is_not_identity() {
        let named = OwnerId { id: 1, label: name("elsewhere:9") };
        assert_eq!(owner(1), named);
        assert_ne!(owner(1), owner(2));
    }

    #[test]
    fn names_fit_their_field_and_one_line() {
        assert!(Name::try_from("").is_err());
        assert!(Name::try_from("é".repeat(32)).is_ok());
        assert_eq!(Name::try_from("é".repeat(33)), Err(NameError::Length { bytes: 66 }));
        assert!(Name::try_from("a\nb").unwrap_err().to_string().contains("a\\nb"));
    }

    #[test]
    fn a_name_from_the_peer_is_checked() {
        let long = postcard::to_stdvec(&"x".repeat(65)).unwrap();
        assert!(postcard::from_bytes::<Name>(&long).is_err());
        let good = postcard::to_stdvec(&name("vm")).unwrap();
        assert_eq!(postcard::from_bytes::<Name>(&good), Ok(name("vm")));
    }
}
