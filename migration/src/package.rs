//! The attachment of a package: device state, and in postcopy the pages that remain.
//!
//! Four bytes give the length of the sections; behind them comes the bitmap of remaining pages as
//! runs ([`PageBitmap::encode`]), empty when none remain.

use crate::pages::{BitmapError, PageBitmap};
use crate::section::{self, Section, SectionError};

/// Why a package was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackageError {
    /// It ends before the length it announces.
    #[error("the package ends inside its device state")]
    Truncated,
    /// The device state is damaged.
    #[error(transparent)]
    Sections(#[from] SectionError),
    /// The remaining pages are damaged.
    #[error(transparent)]
    Remaining(#[from] BitmapError),
}

/// Joins sections that [`section::encode`] framed with the remaining pages.
#[must_use]
pub fn encode(sections: &[u8], remaining: Option<&PageBitmap>) -> Vec<u8> {
    let runs = remaining.map(PageBitmap::encode).unwrap_or_default();
    let mut out = Vec::with_capacity(4 + sections.len() + runs.len());
    out.extend_from_slice(&(sections.len() as u32).to_le_bytes());
    out.extend_from_slice(sections);
    out.extend_from_slice(&runs);
    out
}

/// Reads what [`encode`] wrote, for a machine of `pages` pages.
///
/// # Errors
/// The part that is damaged.
pub fn decode(bytes: &[u8], pages: u64) -> Result<(Vec<Section>, PageBitmap), PackageError> {
    let (head, rest) = bytes.split_first_chunk::<4>().ok_or(PackageError::Truncated)?;
    let len = u32::from_le_bytes(*head) as usize;
    let (sections, runs) = rest.split_at_checked(len).ok_or(PackageError::Truncated)?;
    Ok((section::decode(sections)?, PageBitmap::decode(runs, pages)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_back_what_was_written(payload: Vec<u8>, first in 0u64..900, len in 1u64..100) {
            let sections = vec![Section { device: "serial".into(), instance: 0, version: 1, payload }];
            let mut remaining = PageBitmap::new(1000);
            remaining.set_range(first, len);
            let bytes = encode(&section::encode(&sections), Some(&remaining));
            prop_assert_eq!(decode(&bytes, 1000), Ok((sections, remaining)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes, 1000);
        }
    }

    #[test]
    fn a_length_beyond_the_end_is_refused() {
        assert_eq!(decode(&[9, 0, 0, 0, 1], 10), Err(PackageError::Truncated));
        assert_eq!(decode(&[], 10), Err(PackageError::Truncated));
    }
}
