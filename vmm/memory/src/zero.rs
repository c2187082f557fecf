//! Finds which pages of guest memory are all zero.
//!
//! Called for every page that a migration sends, so it stops at the first difference, and reads in
//! wide steps.

use std::arch::x86_64::{__m128i, _mm_cmpeq_epi8, _mm_movemask_epi8, _mm_or_si128, _mm_setzero_si128};
use std::ptr;

use ferry_migration::pages::{CHUNK_PAGES, CHUNK_WORDS, PAGE_SIZE};

use crate::Memory;

const STEP: usize = size_of::<__m128i>();
const STEPS: usize = PAGE_SIZE as usize / STEP;
/// Steps read between two checks.
const LANES: usize = 8;

/// Those of `pages` in chunk `index` that are zero.
///
/// The guest may write them meanwhile: the result is then that of some moment in between, and the
/// dirty log has the write.
///
/// # Panics
/// When the machine has no such pages.
#[must_use]
pub fn zero_pages(memory: &Memory, index: u64, pages: &[u64; CHUNK_WORDS]) -> [u64; CHUNK_WORDS] {
    let (base, contiguous) = memory.host_pages(index * CHUNK_PAGES);
    assert!(contiguous >= CHUNK_PAGES, "chunk {index} is not whole");
    let mut zero = [0; CHUNK_WORDS];
    for (word, wanted) in pages.iter().enumerate() {
        let mut left = *wanted;
        while left != 0 {
            let bit = left.trailing_zeros() as usize;
            left &= left - 1;
            let page = base.wrapping_add((word * 64 + bit) * PAGE_SIZE as usize);
            // SAFETY: the page lies inside the chunk, which is mapped for as long as `memory` is
            // borrowed, and pages are aligned.
            zero[word] |= u64::from(unsafe { is_zero_page(page) }) << bit;
        }
    }
    zero
}

/// Whether the 4096 bytes at `page` are zero.
///
/// # Safety
/// `page` points to 4096 readable bytes and is aligned to 16.
unsafe fn is_zero_page(page: *const u8) -> bool {
    // SAFETY: `at` is below the number of steps, which are all inside the page. Nothing is assumed
    // about the values from one read to the next: each is volatile.
    let read = |at: usize| unsafe { ptr::read_volatile(page.cast::<__m128i>().add(at)) };
    if [0, STEPS / 2, STEPS - 1].into_iter().any(|at| !is_zero(read(at))) {
        return false;
    }
    (0..STEPS).step_by(LANES).all(|at| {
        let mut all = read(at);
        for lane in 1..LANES {
            // SAFETY: SSE2 belongs to every x86-64.
            all = unsafe { _mm_or_si128(all, read(at + lane)) };
        }
        is_zero(all)
    })
}

fn is_zero(value: __m128i) -> bool {
    // SAFETY: SSE2 belongs to every x86-64.
    unsafe { _mm_movemask_epi8(_mm_cmpeq_epi8(value, _mm_setzero_si128())) == 0xffff }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryConfig;
    use vm_memory::{Bytes, GuestAddress};

    #[repr(align(4096))]
    struct Page([u8; PAGE_SIZE as usize]);

    #[test]
    fn any_single_byte_makes_a_page_nonzero() {
        let mut page = Page([0; PAGE_SIZE as usize]);
        // SAFETY: the page is 4096 bytes, aligned.
        assert!(unsafe { is_zero_page(page.0.as_ptr()) });
        for at in 0..page.0.len() {
            page.0[at] = 1;
            // SAFETY: as above.
            assert!(!unsafe { is_zero_page(page.0.as_ptr()) }, "byte {at}");
            page.0[at] = 0;
        }
    }

    #[test]
    fn only_the_pages_that_are_asked_for_are_looked_at() {
        let memory = Memory::new(&MemoryConfig { size: 16 << 20, ..MemoryConfig::default() }).unwrap();
        memory.guest().write_obj(1u8, GuestAddress((512 + 65) * PAGE_SIZE)).unwrap();
        let mut pages = [0; CHUNK_WORDS];
        pages[1] = 0b110;
        let mut zero = [0; CHUNK_WORDS];
        zero[1] = 0b100;
        assert_eq!(zero_pages(&memory, 1, &pages), zero);
    }
}
