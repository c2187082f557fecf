//! Page requests, which a destination in postcopy sends to its source on the urgent link.
//!
//! A request names one page that a vCPU, a device or KVM itself is waiting for. The answer is a
//! bulk frame on the same link, unless the page is on its way on a bulk link already. Requests
//! carry no sequence number: a repeated request is harmless, and a link that loses or repeats bytes
//! fails the checksum.

use crate::wire::WireError;

/// Length in bytes.
pub const REQUEST_LEN: usize = 24;
const MAGIC: u32 = 0x5145_5246;
const WHAT: &str = "a page request";

/// The bytes that ask for `page`.
#[must_use]
pub fn encode(page: u64, session: u32) -> [u8; REQUEST_LEN] {
    let mut out = [0; REQUEST_LEN];
    out[..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4..8].copy_from_slice(&session.to_le_bytes());
    out[8..16].copy_from_slice(&page.to_le_bytes());
    let crc = crc32c::crc32c(&out[..20]);
    out[20..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Reads what [`encode`] wrote, for a machine of `pages` pages.
///
/// # Errors
/// A bad checksum, another migration, or a page that the machine does not have.
pub fn decode(bytes: &[u8; REQUEST_LEN], session: u32, pages: u64) -> Result<u64, WireError> {
    if super::le_u32(&bytes[20..]) != crc32c::crc32c(&bytes[..20]) || super::le_u32(bytes) != MAGIC {
        return Err(WireError::Checksum { what: WHAT });
    }
    let found = super::le_u32(&bytes[4..]);
    if found != session {
        return Err(WireError::Session { what: WHAT, expected: session, found });
    }
    let page = u64::from(super::le_u32(&bytes[8..])) | u64::from(super::le_u32(&bytes[12..])) << 32;
    if page >= pages {
        return Err(WireError::Field { what: WHAT, field: "page", value: page, allowed: "outside of guest memory" });
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_back_what_was_written(page in 0u64..1 << 32) {
            prop_assert_eq!(decode(&encode(page, 7), 7, 1 << 32), Ok(page));
        }

        #[test]
        fn any_flipped_bit_is_noticed(bit in 0usize..REQUEST_LEN * 8) {
            let mut bytes = encode(77, 7);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&bytes, 7, 1 << 32).is_err());
        }
    }

    #[test]
    fn a_page_outside_of_the_machine_is_refused() {
        assert!(decode(&encode(512, 7), 7, 512).is_err());
        assert!(decode(&encode(1, 8), 7, 512).is_err());
    }
}
