//! The attachment of `Hello`: the guest's name, and the machine that the destination must match.
//!
//! In a local hand-over the memory is announced behind it, and accepted in the attachment of
//! `HelloAck`. Then follow the [`Identity`], which a source of version 4 does not send, and the
//! hand-overs through which the guest has come ([`Identity::through`]). Further bytes are of a
//! later version and are ignored.

use serde::{Deserialize, Serialize};

use crate::description::MachineDescription;
use crate::identity::Identity;
use crate::ownership::Handover;

/// The attachment of `Hello`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The guest's name, which must equal the destination's.
    pub vm: String,
    /// The machine as the guest sees it.
    pub machine: MachineDescription,
    /// Bulk links that the source opens beside the control link.
    pub bulk_links: u8,
    /// Chunks of memory that are populated, one bit for each, as an encoded bitmap: the destination
    /// may populate them ahead. Empty: not known.
    pub filled_chunks: Vec<u8>,
    /// The announced hand-over, if the source has an ownership record.
    pub record: Option<Announced>,
    /// Milliseconds without a sign of life after which either side counts the other as lost.
    pub heartbeat_timeout_ms: u64,
}

/// What a destination needs to take part in a hand-over by the ownership record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// The hand-over.
    pub handover: Handover,
    /// The number that the destination must find in its own view of the record.
    pub nonce: u64,
}

/// Guest memory that is handed over as a whole: its descriptor comes with `Hello`, and no page is
/// sent.
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
    pub fn encode(&self, passed: Option<&PassedMemory>, identity: Option<&Identity>) -> Vec<u8> {
        const PLAIN: &str = "a greeting is plain data";
        let mut bytes = postcard::to_stdvec(self).expect(PLAIN);
        match (passed, identity) {
            (Some(passed), _) => bytes.extend(passed.encode()),
            // 0 stands for no memory handed over: a memory file is never empty.
            (None, Some(_)) => bytes.extend(PassedMemory { bytes: 0 }.encode()),
            (None, None) => {}
        }
        if let Some(identity) = identity {
            bytes.extend(postcard::to_stdvec(identity).expect(PLAIN));
            bytes.extend(postcard::to_stdvec(&identity.through).expect(PLAIN));
        }
        bytes
    }

    /// Reads the attachment of `Hello`. Bytes after the hand-overs are of a later version and are
    /// ignored.
    ///
    /// # Errors
    /// When it does not decode.
    pub fn decode(bytes: &[u8]) -> postcard::Result<(Self, Option<PassedMemory>, Option<Identity>)> {
        let (greeting, rest) = postcard::take_from_bytes(bytes)?;
        if rest.is_empty() {
            return Ok((greeting, None, None));
        }
        let (passed, rest) = postcard::take_from_bytes::<PassedMemory>(rest)?;
        if rest.is_empty() {
            return Ok((greeting, Some(passed), None));
        }
        let (mut identity, rest) = postcard::take_from_bytes::<Identity>(rest)?;
        if !rest.is_empty() {
            let (through, _later) = postcard::take_from_bytes(rest)?;
            identity.through = through;
        }
        Ok((greeting, Some(passed).filter(|passed| passed.bytes > 0), Some(identity)))
    }
}

impl PassedMemory {
    /// The attachment of a `HelloAck` that accepts this memory.
    ///
    /// # Panics
    /// Never: it is plain data.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a size is plain data")
    }

    /// Whether this attachment of `HelloAck` accepts this memory.
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
    fn what_follows_the_greeting_is_read_by_its_content() {
        let (greeting, passed) = (greeting(), PassedMemory { bytes: 16 << 30 });
        let identity = crate::identity::tests::identity();
        for passed in [None, Some(passed)] {
            for identity in [None, Some(identity.clone())] {
                let bytes = greeting.encode(passed.as_ref(), identity.as_ref());
                assert_eq!(Greeting::decode(&bytes), Ok((greeting.clone(), passed, identity.clone())));
                // What a destination does that was written before there was anything behind the
                // greeting.
                assert_eq!(postcard::from_bytes(&bytes), Ok(greeting.clone()));
                if identity.is_some() {
                    let mut later = bytes.clone();
                    later.extend([7; 9]);
                    assert_eq!(Greeting::decode(&later), Ok((greeting.clone(), passed, identity.clone())));
                }
                if passed.is_some() || identity.is_some() {
                    assert!(Greeting::decode(&bytes[..bytes.len() - 1]).is_err(), "half of an announcement is none");
                }
            }
        }
    }

    #[test]
    fn no_memory_at_all_is_not_taken_for_none_where_nothing_follows() {
        let nothing = PassedMemory { bytes: 0 };
        let bytes = greeting().encode(Some(&nothing), None);
        assert_eq!(Greeting::decode(&bytes), Ok((greeting(), Some(nothing), None)));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, tail: Vec<u8>) {
            let _ = Greeting::decode(&bytes);
            let mut behind = greeting().encode(None, None);
            behind.push(0);
            behind.extend(tail);
            if let Ok((_, _, Some(identity))) = Greeting::decode(&behind) {
                let _ = identity.check_form();
            }
        }
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
