//! What travels beside `Hello`: who is being migrated, and the machine that must be matched.
//!
//! In a local hand-over the memory itself is announced behind it, and taken in the attachment of `HelloAck`: a destination that
//! does not know of it passes over what it does not read, and answers without one.

use serde::{Deserialize, Serialize};

use crate::description::MachineDescription;
use crate::ownership::Handover;

/// Most bulk links that a destination takes.
pub const BULK_LINKS_MAX: u8 = 32;

/// The attachment of `Hello`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The guest's name, for reports on the destination.
    pub vm: String,
    /// The machine as the guest sees it.
    pub machine: MachineDescription,
    /// Bulk links that the source opens beside the control link.
    pub bulk_links: u8,
    /// Chunks of memory that hold something, one bit for each, as an encoded bitmap: the destination may make room for them ahead. Empty: not
    /// known.
    pub filled_chunks: Vec<u8>,
    /// The ownership record's part, if the source has one.
    pub record: Option<Announced>,
    /// Milliseconds without a sign of life after which either side gives the other up.
    pub heartbeat_timeout_ms: u64,
}

/// What a destination needs to take part in a hand-over by the ownership record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// Who hands over what.
    pub handover: Handover,
    /// The number that the destination must find in its own view of the record.
    pub nonce: u64,
}

/// Guest memory that is handed over as a whole: its descriptor comes with `Hello`, and no page is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedMemory {
    /// Bytes of the file behind the descriptor: all of guest RAM, its ranges one after the other.
    pub bytes: u64,
}

impl Greeting {
    /// The attachment of `Hello`, with the memory that is handed over, if it is.
    ///
    /// # Panics
    /// Never: it is plain data.
    #[must_use]
    pub fn encode(&self, passed: Option<&PassedMemory>) -> Vec<u8> {
        let mut bytes = postcard::to_stdvec(self).expect("a greeting is plain data");
        bytes.extend(passed.map(PassedMemory::encode).unwrap_or_default());
        bytes
    }

    /// Reads the attachment of `Hello`. What follows the memory is of a later version, and none of this one's business.
    ///
    /// # Errors
    /// When it does not decode.
    pub fn decode(bytes: &[u8]) -> postcard::Result<(Self, Option<PassedMemory>)> {
        match postcard::take_from_bytes(bytes)? {
            (greeting, []) => Ok((greeting, None)),
            (greeting, rest) => Ok((greeting, Some(postcard::from_bytes(rest)?))),
        }
    }
}

impl PassedMemory {
    /// The attachment of a `HelloAck` that takes this memory.
    ///
    /// # Panics
    /// Never: it is plain data.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a size is plain data")
    }

    /// Whether this attachment of `HelloAck` takes this memory.
    #[must_use]
    pub fn is_taken_by(&self, attachment: &[u8]) -> bool {
        attachment == self.encode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting() -> Greeting {
        let machine = MachineDescription {
            memory: vec![],
            page_size: 4096,
            vcpus: 1,
            cpuid: vec![],
            msrs: vec![],
            devices: vec![],
        };
        Greeting {
            vm: "guest".to_owned(),
            machine,
            bulk_links: 1,
            filled_chunks: vec![],
            record: None,
            heartbeat_timeout_ms: 5000,
        }
    }

    #[test]
    fn memory_that_is_announced_is_read_by_those_that_know_of_it() {
        let (greeting, passed) = (greeting(), PassedMemory { bytes: 16 << 30 });
        let bytes = greeting.encode(Some(&passed));
        assert_eq!(Greeting::decode(&bytes), Ok((greeting.clone(), Some(passed))));
        assert_eq!(Greeting::decode(&greeting.encode(None)), Ok((greeting.clone(), None)));
        // What a destination does that was written before there was anything behind the greeting.
        assert_eq!(postcard::from_bytes(&bytes), Ok(greeting.clone()));
        let mut later = bytes.clone();
        later.extend([7; 9]);
        assert_eq!(Greeting::decode(&later), Ok((greeting, Some(passed))));
        assert!(Greeting::decode(&bytes[..bytes.len() - 1]).is_err(), "half of an announcement is none");
    }

    #[test]
    fn memory_is_taken_only_by_who_says_so() {
        let passed = PassedMemory { bytes: 4 << 30 };
        assert!(passed.is_taken_by(&passed.encode()));
        assert!(!passed.is_taken_by(&[]), "a destination that does not know of it");
        assert!(!passed.is_taken_by(&PassedMemory { bytes: 2 << 30 }.encode()));
        let longest = PassedMemory { bytes: u64::MAX }.encode();
        assert!(longest.len() <= crate::wire::TAKEN_CAP as usize);
    }
}
