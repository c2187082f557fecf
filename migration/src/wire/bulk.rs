//! Bulk frames: the pages of one chunk, or a marker.
//!
//! A chunk's frame carries two bitmaps of 512 bits: pages that follow as data, in ascending order,
//! and pages that are all zero. A packed (compressed) chunk's pages follow as one block of LZ4 (its
//! block format), which is shorter than they are. A marker shows that everything before it on this
//! link has been sent; the package names the marker to wait for.

use crate::pages::{CHUNK_PAGES, CHUNK_WORDS, PAGE_SIZE};
use crate::wire::WireError;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 160;
const MAGIC: u32 = 0x4745_5046;
const KIND_CHUNK: u32 = 1;
const KIND_MARKER: u32 = 2;
const KIND_SWITCH: u32 = 3;
const KIND_PACKED: u32 = 4;
const WHAT: &str = "a bulk frame";

/// The content of a bulk frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Pages of a chunk.
    Chunk(Chunk),
    /// The same, as one compressed block of so many bytes.
    Packed(Chunk, u32),
    /// Everything sent before this has now been received on this link.
    Marker(u32),
    /// The same, and pages that follow are postcopy's: they are placed one by one while the guest
    /// may be running.
    Switch(u32),
}

/// The pages that a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Which chunk, from 0.
    pub index: u32,
    /// Pages that follow as data.
    pub data: [u64; CHUNK_WORDS],
    /// Pages that are all zero.
    pub zero: [u64; CHUNK_WORDS],
}

impl Chunk {
    /// Bytes of page data: what follows the header of a chunk that is not packed.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        count(&self.data) * PAGE_SIZE
    }

    /// Pages in it, as data or all zero.
    #[must_use]
    pub fn pages(&self) -> u64 {
        count(&self.data) + count(&self.zero)
    }
}

fn count(words: &[u64; CHUNK_WORDS]) -> u64 {
    words.iter().map(|w| u64::from(w.count_ones())).sum()
}

/// The bytes of a header.
#[must_use]
pub fn encode(frame: &Frame, session: u32, sequence: u32) -> [u8; HEADER_LEN] {
    let mut out = [0; HEADER_LEN];
    out[..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4..8].copy_from_slice(&session.to_le_bytes());
    out[8..12].copy_from_slice(&sequence.to_le_bytes());
    let (kind, value) = match frame {
        Frame::Chunk(chunk) => {
            put_chunk(&mut out, chunk);
            (KIND_CHUNK, chunk.index)
        }
        Frame::Packed(chunk, len) => {
            put_chunk(&mut out, chunk);
            out[20..24].copy_from_slice(&len.to_le_bytes());
            (KIND_PACKED, chunk.index)
        }
        Frame::Marker(number) => (KIND_MARKER, *number),
        Frame::Switch(number) => (KIND_SWITCH, *number),
    };
    out[12..16].copy_from_slice(&kind.to_le_bytes());
    out[16..20].copy_from_slice(&value.to_le_bytes());
    let crc = crc32c::crc32c(&out[..156]);
    out[156..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Reads a header and checks it against the machine: `pages` is how many it has.
///
/// # Errors
/// A bad checksum, another migration, out of sequence, or pages that the machine does not have.
pub fn decode(bytes: &[u8; HEADER_LEN], session: u32, sequence: u32, pages: u64) -> Result<Frame, WireError> {
    if super::le_u32(bytes) != MAGIC {
        return Err(WireError::NotFerry { found: format!("\"{}\" in place of pages", bytes[..8].escape_ascii()) });
    }
    if super::le_u32(&bytes[156..]) != crc32c::crc32c(&bytes[..156]) {
        return Err(WireError::Checksum { what: WHAT });
    }
    let found_session = super::le_u32(&bytes[4..]);
    if found_session != session {
        return Err(WireError::Session { what: WHAT, expected: session, found: found_session });
    }
    let found = super::le_u32(&bytes[8..]);
    if found != sequence {
        return Err(WireError::Sequence { what: WHAT, expected: sequence, found });
    }
    let value = super::le_u32(&bytes[16..]);
    match super::le_u32(&bytes[12..]) {
        KIND_MARKER => Ok(Frame::Marker(value)),
        KIND_SWITCH => Ok(Frame::Switch(value)),
        kind @ (KIND_CHUNK | KIND_PACKED) => {
            let chunk = Chunk { index: value, data: get_words(&bytes[24..88]), zero: get_words(&bytes[88..152]) };
            check_chunk(&chunk, pages)?;
            if kind == KIND_CHUNK {
                return Ok(Frame::Chunk(chunk));
            }
            let len = super::le_u32(&bytes[20..]);
            if len == 0 || u64::from(len) >= chunk.data_bytes() {
                let allowed = "more than nothing and less than the pages is expected";
                return Err(WireError::Field { what: WHAT, field: "packed length", value: len.into(), allowed });
            }
            Ok(Frame::Packed(chunk, len))
        }
        kind => Err(WireError::Field { what: WHAT, field: "kind", value: kind.into(), allowed: "1 to 4 is expected" }),
    }
}

fn check_chunk(chunk: &Chunk, pages: u64) -> Result<(), WireError> {
    let error = |field, value, allowed| Err(WireError::Field { what: WHAT, field, value, allowed });
    let first = u64::from(chunk.index) * CHUNK_PAGES;
    let mut highest = None;
    for (at, (data, zero)) in chunk.data.iter().zip(&chunk.zero).enumerate() {
        if data & zero != 0 {
            return error("bitmap", data & zero, "a page is either data or zero");
        }
        if data | zero != 0 {
            highest = Some(at as u64 * 64 + 63 - u64::from((data | zero).leading_zeros()));
        }
    }
    match highest {
        None => error("bitmap", 0, "a chunk without pages is never sent"),
        Some(bit) if first + bit >= pages => error("page", first + bit, "outside of guest memory"),
        Some(_) => Ok(()),
    }
}

fn put_chunk(out: &mut [u8; HEADER_LEN], chunk: &Chunk) {
    put_words(&mut out[24..88], &chunk.data);
    put_words(&mut out[88..152], &chunk.zero);
}

fn put_words(out: &mut [u8], words: &[u64; CHUNK_WORDS]) {
    for (bytes, word) in out.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
}

fn get_words(bytes: &[u8]) -> [u64; CHUNK_WORDS] {
    let mut words = [0; CHUNK_WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_back_what_was_written(index in 0u32..100, data: [u64; 8], zero: [u64; 8]) {
            let zero = std::array::from_fn(|at| zero[at] & !data[at]);
            let frame = Frame::Chunk(Chunk { index, data, zero });
            prop_assume!(data != [0; 8] || zero != [0; 8]);
            prop_assert_eq!(decode(&encode(&frame, 5, 6), 5, 6, 100 * CHUNK_PAGES), Ok(frame));
        }

        #[test]
        fn packed_pages_are_shorter_than_the_pages(data: [u64; 8], len: u32) {
            let chunk = Chunk { index: 0, data, zero: [0; 8] };
            prop_assume!(data != [0; 8]);
            for len in [len, len % (CHUNK_PAGES * PAGE_SIZE) as u32, chunk.data_bytes() as u32 - 1, chunk.data_bytes() as u32] {
                let frame = Frame::Packed(chunk, len);
                let read = decode(&encode(&frame, 5, 6), 5, 6, CHUNK_PAGES);
                if len > 0 && u64::from(len) < chunk.data_bytes() {
                    prop_assert_eq!(read, Ok(frame));
                } else {
                    let refused = matches!(read, Err(WireError::Field { field: "packed length", .. }));
                    prop_assert!(refused, "{:?}", read);
                }
            }
        }

        #[test]
        fn any_flipped_bit_is_noticed(bit in 0usize..HEADER_LEN * 8) {
            let mut bytes = encode(&Frame::Chunk(Chunk { index: 0, data: [1; 8], zero: [2; 8] }), 5, 6);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&bytes, 5, 6, CHUNK_PAGES).is_err());
        }
    }

    #[test]
    fn markers_read_back() {
        for frame in [Frame::Marker(7), Frame::Switch(8)] {
            assert_eq!(decode(&encode(&frame, 5, 6), 5, 6, 1), Ok(frame));
        }
    }

    #[test]
    fn pages_that_the_machine_lacks_are_refused() {
        let mut zero = [0; 8];
        zero[1] = 1;
        let bytes = encode(&Frame::Chunk(Chunk { index: 2, data: [0; 8], zero }), 5, 6);
        assert!(decode(&bytes, 5, 6, 2 * CHUNK_PAGES + 65).is_ok());
        assert!(matches!(decode(&bytes, 5, 6, 2 * CHUNK_PAGES + 64), Err(WireError::Field { field: "page", .. })));
    }

    #[test]
    fn a_page_cannot_be_data_and_zero() {
        let bytes = encode(&Frame::Chunk(Chunk { index: 0, data: [1; 8], zero: [1; 8] }), 5, 6);
        assert!(matches!(decode(&bytes, 5, 6, CHUNK_PAGES), Err(WireError::Field { field: "bitmap", .. })));
    }
}
