//! A hash over all guest memory, so that a test can say "both sides hold the same" in one line.
//!
//! Pages that the host never allocated are zero and stay unread: looking at them would take memory for them. Called by
//! [`super::Process`] for `x-ferry-memory-hash`, on a stopped guest.

use std::fmt;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use ferry_devices::GuestMemory;
use ferry_migration::description::RamRange;
use ferry_migration::pages::{CHUNK_PAGES, PAGE_SIZE, PageBitmap, runs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Threads at most: reading memory is soon limited by the memory.
const MAX_THREADS: usize = 8;

/// The hash of guest memory: equal exactly (but for a chance of 2^-128) when all pages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryHash {
    /// The sum of the XXH3 hashes of all pages that hold something else than zeros, each seeded with its page number.
    pub sum: u128,
    /// Bytes of guest RAM.
    pub bytes: u64,
    /// Pages that hold something else than zeros.
    pub nonzero_pages: u64,
}

impl fmt::Display for MemoryHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.sum)
    }
}

/// Hashes `memory`, whose RAM lies at `ranges`, reading only the pages in `populated`.
///
/// # Errors
/// When a page cannot be read, which means that `ranges` do not describe `memory`.
pub fn hash(memory: &GuestMemory, ranges: &[RamRange], populated: &PageBitmap) -> Result<MemoryHash, GuestMemoryError> {
    let next_chunk = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
    let parts = thread::scope(|scope| {
        let hash_some = || hash_chunks(memory, ranges, populated, &next_chunk);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(hash_some)).collect();
        let join = |worker: thread::ScopedJoinHandle<'_, _>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().map(join).collect::<Result<Vec<(u128, u64)>, _>>()
    })?;
    let mut total = MemoryHash { sum: 0, bytes: ranges.iter().map(|range| range.len).sum(), nonzero_pages: 0 };
    for (sum, pages) in parts {
        total.sum = total.sum.wrapping_add(sum);
        total.nonzero_pages += pages;
    }
    Ok(total)
}

/// Takes chunks until none is left; returns the sum of their pages' hashes, and how many pages were not zero.
fn hash_chunks(
    memory: &GuestMemory,
    ranges: &[RamRange],
    populated: &PageBitmap,
    next_chunk: &AtomicU64,
) -> Result<(u128, u64), GuestMemoryError> {
    let mut page_bytes = [0u8; PAGE_SIZE as usize];
    let (mut sum, mut nonzero) = (0u128, 0);
    loop {
        let chunk = next_chunk.fetch_add(1, Ordering::Relaxed);
        if chunk >= populated.chunks() {
            return Ok((sum, nonzero));
        }
        for (first, count) in runs(&populated.chunk(chunk)) {
            for page in (first..first + count).map(|bit| chunk * CHUNK_PAGES + u64::from(bit)) {
                memory.read_slice(&mut page_bytes, address(ranges, page))?;
                if page_bytes.iter().any(|byte| *byte != 0) {
                    sum = sum.wrapping_add(xxh3_128_with_seed(&page_bytes, page));
                    nonzero += 1;
                }
            }
        }
    }
}

/// The guest physical address of a page; one that no range holds gives an address that cannot be read.
fn address(ranges: &[RamRange], page: u64) -> GuestAddress {
    let mut offset = page * PAGE_SIZE;
    for range in ranges {
        if offset < range.len {
            return GuestAddress(range.start + offset);
        }
        offset -= range.len;
    }
    GuestAddress(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGES: [RamRange; 2] = [RamRange { start: 0, len: 3 << 20 }, RamRange { start: 1 << 32, len: 2 << 20 }];
    const PAGES: u64 = 5 * 256;

    fn memory(writes: &[(u64, u8)]) -> GuestMemory {
        let ranges = RANGES.map(|range| (GuestAddress(range.start), range.len as usize));
        let memory = GuestMemory::from_ranges(&ranges).unwrap();
        for (at, value) in writes {
            memory.write_obj(*value, GuestAddress(*at)).unwrap();
        }
        memory
    }

    fn full(writes: &[(u64, u8)]) -> MemoryHash {
        hash(&memory(writes), &RANGES, &PageBitmap::full(PAGES)).unwrap()
    }

    #[test]
    fn zero_pages_count_the_same_whether_allocated_or_not() {
        let mut populated = PageBitmap::new(PAGES);
        populated.set(3 * 256);
        let writes = [(1 << 32, 7)];
        assert_eq!(hash(&memory(&writes), &RANGES, &populated).unwrap(), full(&writes));
        assert_eq!(full(&writes).nonzero_pages, 1);
        assert_eq!(full(&[]).sum, 0);
    }

    #[test]
    fn every_byte_and_its_place_matter() {
        let hashes =
            [&[][..], &[(0, 1)], &[(0, 2)], &[(1, 1)], &[(4096, 1)], &[(1 << 32, 1)], &[(0, 1), (4096, 1)]].map(full);
        for (i, a) in hashes.iter().enumerate() {
            for b in &hashes[i + 1..] {
                assert_ne!(a.sum, b.sum);
            }
        }
        assert_eq!(full(&[(9, 9)]).to_string().len(), 32);
    }

    #[test]
    fn a_page_outside_of_memory_is_an_error() {
        assert!(hash(&memory(&[]), &RANGES, &PageBitmap::full(PAGES + 1)).is_err());
    }
}
