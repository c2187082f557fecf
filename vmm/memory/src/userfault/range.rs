//! The registered ranges of guest memory: the chunks around missing pages, and the mapping that
//! each lies in.
//!
//! Only these raise faults. Elsewhere the guest touches memory at full speed, with huge pages.

use std::sync::Arc;

use ferry_migration::pages::{CHUNK_PAGES, PAGE_SIZE, PageBitmap};
use rustix::mm::{Advice, madvise};

use crate::mapping::Mapping;
use crate::{Backing, Memory};

/// Most ranges: each costs the kernel a mapping of its own, and some microseconds while the guest
/// is stopped.
const MOST_RANGES: usize = 256;

/// Contiguous pages in one mapping, which lives at least as long.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) first_page: u64,
    pub(super) pages: u64,
    host: *mut u8,
    _mapping: Arc<Mapping>,
}

// SAFETY: the pointer only names an address in a mapping that the range keeps; it is dereferenced
// nowhere.
unsafe impl Send for Range {}
// SAFETY: as above.
unsafe impl Sync for Range {}

impl Range {
    /// Where a page of this range is mapped.
    pub(super) fn host(&self, page: u64) -> *mut u8 {
        debug_assert!((self.first_page..self.last_page() + 1).contains(&page));
        self.host.wrapping_add(((page - self.first_page) * PAGE_SIZE) as usize)
    }

    /// Where the range begins.
    pub(super) fn start(&self) -> *mut u8 {
        self.host
    }

    pub(super) fn len(&self) -> usize {
        (self.pages * PAGE_SIZE) as usize
    }

    pub(super) fn last_page(&self) -> u64 {
        self.first_page + self.pages - 1
    }

    pub(super) fn advise(&self, advice: Advice) {
        // SAFETY: the range is guest memory of a mapping that it holds, and advice about huge
        // pages changes no contents.
        if let Err(error) = unsafe { madvise(self.start().cast(), self.len(), advice) } {
            tracing::debug!(%error, ?advice, "the host takes no advice about huge pages");
        }
    }
}

/// A huge page is present or missing as a whole, and the host may build one from the pages that a
/// discard has left, with zeros in the gaps.
pub(super) fn refuse_huge_pages(memory: &Memory, ranges: &[Range]) {
    if memory.backing() == Backing::Anon {
        ranges.iter().for_each(|range| range.advise(Advice::LinuxNoHugepage));
    }
}

/// Ranges that cover all `missing` pages of `memory`, ascending, in whole chunks.
pub(super) fn cover(memory: &Memory, missing: &PageBitmap) -> Vec<Range> {
    let chunks: Vec<u64> =
        (0..missing.chunks()).filter(|chunk| missing.chunk(*chunk).iter().any(|w| *w != 0)).collect();
    let mut ranges = Vec::new();
    for region in &memory.regions {
        let Some(mapping) = &region.mapping else { continue };
        let end = region.first_page + region.pages;
        let inside = |chunk: &&u64| (region.first_page..end).contains(&(**chunk * CHUNK_PAGES));
        for (first, count) in join(chunks.iter().filter(inside).copied(), MOST_RANGES) {
            let first_page = first * CHUNK_PAGES;
            ranges.push(Range {
                first_page,
                pages: (count * CHUNK_PAGES).min(end - first_page),
                host: region.host().wrapping_add(((first_page - region.first_page) * PAGE_SIZE) as usize),
                _mapping: mapping.clone(),
            });
        }
    }
    ranges
}

/// Runs of ascending numbers as (first, count), not more than `most`: the smallest gaps are
/// included to get there.
fn join(numbers: impl Iterator<Item = u64> + Clone, most: usize) -> Vec<(u64, u64)> {
    let mut gap = 0;
    loop {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for number in numbers.clone() {
            match runs.last_mut() {
                Some((first, count)) if number <= *first + *count + gap => *count = number - *first + 1,
                _ => runs.push((number, 1)),
            }
        }
        if runs.len() <= most {
            return runs;
        }
        gap = gap * 2 + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryConfig;

    #[test]
    fn small_gaps_close_first() {
        let numbers = || [1, 2, 3, 5, 9, 20, 21].into_iter();
        assert_eq!(join(numbers(), 9), [(1, 3), (5, 1), (9, 1), (20, 2)]);
        assert_eq!(join(numbers(), 3), [(1, 5), (9, 1), (20, 2)]);
        assert_eq!(join(numbers(), 2), [(1, 9), (20, 2)]);
        assert_eq!(join(numbers(), 1), [(1, 21)]);
        assert_eq!(join([].into_iter(), 1), []);
    }

    #[test]
    fn every_missing_page_is_covered_and_no_range_crosses_the_hole() {
        let memory = Memory::new(&MemoryConfig { size: (3 << 30) + (4 << 20), ..MemoryConfig::default() }).unwrap();
        let high = (3u64 << 30) / PAGE_SIZE;
        let mut missing = PageBitmap::new(memory.pages());
        for page in [0, 511, 5000, high - 1, high, memory.pages() - 1] {
            missing.set(page);
        }
        let ranges = cover(&memory, &missing);
        let spans: Vec<_> = ranges.iter().map(|range| (range.first_page, range.pages)).collect();
        assert_eq!(spans, [(0, 512), (4608, 512), (high - 512, 512), (high, 1024)]);
        assert_eq!(ranges[3].host(high + 7), memory.host_pages(high + 7).0);
        assert_eq!(ranges[2].host(high - 1), memory.host_pages(high - 1).0);
    }
}
