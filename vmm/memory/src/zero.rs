//! Tells whether a page of guest memory is all zero.
//!
//! Called for every page that a migration sends, so it gives up at the first byte that says no,
//! and reads the rest in wide steps that the compiler turns into vector instructions.

use std::ptr;

const PAGE: usize = 4096;
const LANES: usize = 16;

/// Whether the 4096 bytes at `page` are zero.
///
/// The guest may write them meanwhile: the answer is then that of some moment in between, and the
/// dirty log tells of the write.
///
/// # Safety
/// `page` points to 4096 readable bytes and is aligned to 8.
#[must_use]
pub unsafe fn is_zero_page(page: *const u8) -> bool {
    let words = page.cast::<u64>();
    let count = PAGE / size_of::<u64>();
    for at in [0, count / 2, count - 1] {
        // SAFETY: `at` is below 512 words, which the caller vouches for.
        if unsafe { ptr::read_volatile(words.add(at)) } != 0 {
            return false;
        }
    }
    let mut at = 0;
    while at < count {
        // SAFETY: 16 words from `at` on are inside the page, as `count` is a multiple of 16. A
        // plain unaligned copy into a local array: nothing is assumed about the values from one
        // read to the next.
        let lanes: [u64; LANES] = unsafe { ptr::read_unaligned(words.add(at).cast()) };
        if lanes.iter().fold(0, |all, lane| all | lane) != 0 {
            return false;
        }
        at += LANES;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(4096))]
    struct Page([u8; PAGE]);

    #[test]
    fn any_single_byte_makes_a_page_nonzero() {
        let mut page = Page([0; PAGE]);
        // SAFETY: the page is 4096 bytes, aligned.
        assert!(unsafe { is_zero_page(page.0.as_ptr()) });
        for at in 0..PAGE {
            page.0[at] = 1;
            // SAFETY: as above.
            assert!(!unsafe { is_zero_page(page.0.as_ptr()) }, "byte {at}");
            page.0[at] = 0;
        }
    }
}
