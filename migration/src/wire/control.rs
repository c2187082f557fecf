//! Control frames: a 24-byte header, a message in postcard, an attachment.

use crate::wire::{Message, WireError, preamble};

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 24;
const MAGIC: u16 = 0xfe44;
const WHAT: &str = "a control frame";

/// A frame's header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The message's kind, known to this build.
    pub kind: u8,
    /// The message's name.
    pub name: &'static str,
    /// Bytes of message, within the cap.
    pub body_len: usize,
    /// Bytes of attachment, within the cap.
    pub attachment_len: usize,
    crc: u32,
    covered: u32,
}

/// Builds the bytes of a frame up to its attachment, which follows unchanged.
///
/// # Errors
/// The message or the attachment is above the cap of its kind.
pub fn encode<M: Message>(message: &M, attachment: &[u8], session: u32, sequence: u32) -> Result<Vec<u8>, WireError> {
    let kind = message.kind();
    let (name, body_cap, attachment_cap) = M::limits(kind).expect("every message has limits");
    let body =
        postcard::to_stdvec(message).map_err(|error| WireError::Message { kind: name, why: error.to_string() })?;
    check_length(name, "message length", body.len() as u64, body_cap)?;
    check_length(name, "attachment length", attachment.len() as u64, attachment_cap)?;
    let mut out = vec![0; HEADER_LEN];
    out[..2].copy_from_slice(&MAGIC.to_le_bytes());
    out[2] = kind;
    out[4..8].copy_from_slice(&session.to_le_bytes());
    out[8..12].copy_from_slice(&sequence.to_le_bytes());
    out[12..16].copy_from_slice(&(body.len() as u32).to_le_bytes());
    out[16..20].copy_from_slice(&(attachment.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&out[..20]), &body), attachment);
    out[20..24].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&body);
    Ok(out)
}

/// Reads a header and checks everything but the checksum, which covers the message and the
/// attachment too.
///
/// # Errors
/// Not a frame of this migration, out of sequence, an unknown kind, or a length above the cap.
pub fn decode_header<M: Message>(bytes: &[u8; HEADER_LEN], session: u32, sequence: u32) -> Result<Header, WireError> {
    if let Some(found) = preamble::version_of(bytes) {
        // A destination of another version answers a preamble with its own.
        return Err(WireError::Version { found });
    }
    let magic = u16::from_le_bytes([bytes[0], bytes[1]]);
    if magic != MAGIC {
        return Err(WireError::NotFerry { found: format!("\"{}\" in place of a frame", bytes[..8].escape_ascii()) });
    }
    let kind = bytes[2];
    let Some((name, body_cap, attachment_cap)) = M::limits(kind) else {
        return Err(WireError::Field { what: WHAT, field: "kind", value: kind.into(), allowed: "no such message" });
    };
    let found_session = super::le_u32(&bytes[4..]);
    if found_session != session {
        return Err(WireError::Session { what: name, expected: session, found: found_session });
    }
    let found = super::le_u32(&bytes[8..]);
    if found != sequence {
        return Err(WireError::Sequence { what: name, expected: sequence, found });
    }
    let body_len = super::le_u32(&bytes[12..]);
    let attachment_len = super::le_u32(&bytes[16..]);
    check_length(name, "message length", body_len.into(), body_cap)?;
    check_length(name, "attachment length", attachment_len.into(), attachment_cap)?;
    Ok(Header {
        kind,
        name,
        body_len: body_len as usize,
        attachment_len: attachment_len as usize,
        crc: super::le_u32(&bytes[20..]),
        covered: crc32c::crc32c(&bytes[..20]),
    })
}

/// Decodes the message that follows `header`, after checking the checksum of the whole frame.
///
/// # Errors
/// A bad checksum, or a message that does not decode or is not of the header's kind.
pub fn decode_body<M: Message>(header: &Header, body: &[u8], attachment: &[u8]) -> Result<M, WireError> {
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(header.covered, body), attachment);
    if crc != header.crc {
        return Err(WireError::Checksum { what: header.name });
    }
    let error = |why: String| WireError::Message { kind: header.name, why };
    let (message, rest) = postcard::take_from_bytes::<M>(body).map_err(|e| error(e.to_string()))?;
    if !rest.is_empty() {
        return Err(error(format!("{} bytes left over", rest.len())));
    }
    if message.kind() != header.kind {
        return Err(error("it is another message than its header says".to_owned()));
    }
    Ok(message)
}

fn check_length(what: &'static str, field: &'static str, value: u64, cap: u32) -> Result<(), WireError> {
    if value > cap.into() {
        return Err(WireError::Field { what, field, value, allowed: "above the cap for this message" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Failure, Handshake, ToDestination, ToSource};
    use proptest::prelude::*;

    fn round_trip<M: Message>(message: &M, attachment: &[u8]) -> Result<M, WireError> {
        let bytes = encode(message, attachment, 9, 3).unwrap();
        let header = decode_header::<M>(bytes[..HEADER_LEN].try_into().unwrap(), 9, 3)?;
        assert_eq!(header.body_len, bytes.len() - HEADER_LEN);
        decode_body(&header, &bytes[HEADER_LEN..], attachment)
    }

    fn all_to_destination() -> Vec<(ToDestination, usize)> {
        vec![
            (ToDestination::Hello { version: 1, generation: 2, postcopy: true, handshake: Handshake::Owned }, 40),
            (ToDestination::Heartbeat, 0),
            (ToDestination::Rehearse, 40),
            (ToDestination::Package { generation: 2, marker: 1, postcopy: true }, 40),
            (ToDestination::Permit { generation: 2 }, 0),
            (ToDestination::Cancel { reason: "operator".into() }, 0),
            (ToDestination::Drained, 0),
            (ToDestination::Recover { generation: 2 }, 0),
        ]
    }

    fn all_to_source() -> Vec<ToSource> {
        let failure = Failure { device: "fault/0".into(), reason: "told to".into() };
        vec![
            ToSource::HelloAck { record_shared: true },
            ToSource::DrainedAck,
            ToSource::MarkerReached { marker: 3 },
            ToSource::RecoverAck,
            ToSource::RecoverRefused { reason: "another".into() },
            ToSource::Refused { reason: "memory".into() },
            ToSource::Heartbeat,
            ToSource::Rehearsed,
            ToSource::RehearsalFailed(failure.clone()),
            ToSource::Ready { load_us: 1, pages_us: 2 },
            ToSource::LoadFailed(failure.clone()),
            ToSource::Started { start_us: 3, permit_us: 4 },
            ToSource::NotStarted(failure),
        ]
    }

    #[test]
    fn every_message_reads_back() {
        for (message, attachment) in all_to_destination() {
            assert_eq!(round_trip(&message, &vec![7; attachment]), Ok(message));
        }
        for message in all_to_source() {
            assert_eq!(round_trip(&message, &[]), Ok(message));
        }
    }

    #[test]
    fn a_preamble_in_place_of_an_answer_tells_the_version() {
        let mut bytes = [0; HEADER_LEN];
        bytes[..10].copy_from_slice(b"FERRYMIG\x09\x00");
        assert_eq!(decode_header::<ToSource>(&bytes, 9, 0), Err(WireError::Version { found: 9 }));
    }

    #[test]
    fn an_attachment_where_none_belongs_is_refused() {
        assert!(encode(&ToDestination::Drained, &[1], 0, 0).is_err());
        let permit = ToDestination::Permit { generation: 1 };
        assert!(encode(&permit, &[1; 2], 0, 0).is_ok());
        assert!(encode(&permit, &vec![1; crate::wire::WISHES_CAP as usize + 1], 0, 0).is_err());
        assert!(encode(&ToDestination::Rehearse, &vec![0; crate::wire::STATE_CAP as usize + 1], 0, 0).is_err());
    }

    #[test]
    fn repeated_lost_and_foreign_frames_are_named() {
        let bytes = encode(&ToSource::Heartbeat, &[], 9, 3).unwrap();
        let header: &[u8; HEADER_LEN] = bytes[..HEADER_LEN].try_into().unwrap();
        assert!(matches!(decode_header::<ToSource>(header, 9, 4), Err(WireError::Sequence { .. })));
        assert!(matches!(decode_header::<ToSource>(header, 8, 3), Err(WireError::Session { .. })));
        assert!(matches!(decode_header::<ToDestination>(header, 9, 3), Err(WireError::Field { .. })));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(which in 0usize..8, seed: u32) {
            let (message, len) = all_to_destination().swap_remove(which);
            let mut attachment = vec![7; len];
            let mut bytes = encode(&message, &attachment, 9, 3).unwrap();
            let bits = (bytes.len() + len) * 8;
            let bit = seed as usize % bits;
            if bit / 8 < bytes.len() { bytes[bit / 8] ^= 1 << (bit % 8) } else { attachment[bit / 8 - bytes.len()] ^= 1 << (bit % 8) }
            let read = decode_header::<ToDestination>(bytes[..HEADER_LEN].try_into().unwrap(), 9, 3).and_then(|header| {
                if header.body_len != bytes.len() - HEADER_LEN || header.attachment_len != len {
                    return Err(WireError::Checksum { what: "the lengths differ, so the checksum does" });
                }
                decode_body::<ToDestination>(&header, &bytes[HEADER_LEN..], &attachment)
            });
            // Byte 3 is reserved and covered by the checksum like every other.
            prop_assert!(read.is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: [u8; HEADER_LEN], body: Vec<u8>) {
            if let Ok(header) = decode_header::<ToDestination>(&bytes, 9, 3) {
                let _ = decode_body::<ToDestination>(&header, &body, &[]);
            }
        }
    }
}
