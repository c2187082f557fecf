//! A hash over all guest memory, so that a test can say "both sides hold the same" in one line.
//!
//! Pages that the host never allocated are zero and stay unread: reading them would allocate
//! memory. QMP's `x-ferry-memory-hash` returns it for a stopped guest.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::{fmt, io};

use ferry_migration::pages::{CHUNK_PAGES, PAGE_SIZE, PageBitmap, runs};
use vm_memory::{Bytes, GuestAddress};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::Memory;

/// Most threads: memory bandwidth soon limits reading.
const MAX_THREADS: usize = 8;

/// The hash of guest memory: equal if and only if all pages are (but for a chance of 2^-128).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryHash {
    /// The sum of the XXH3 hashes of all pages that hold anything but zeros, each seeded with its
    /// page number.
    pub sum: u128,
    /// Bytes of guest RAM.
    pub bytes: u64,
    /// Pages that hold anything but zeros.
    pub nonzero_pages: u64,
}

impl fmt::Display for MemoryHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.sum)
    }
}

/// Hashes all of `memory`, reading only the pages that the host has allocated.
///
/// # Errors
/// When the host does not report which pages it has allocated.
pub fn hash(memory: &Memory) -> io::Result<MemoryHash> {
    let populated = memory.populated()?;
    let next_chunk = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
    let parts = thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| hash_chunks(memory, &populated, &next_chunk))).collect();
        let join = |worker: ScopedJoinHandle<'_, _>| worker.join().unwrap_or_else(|panic| resume_unwind(panic));
        workers.into_iter().map(join).collect::<io::Result<Vec<(u128, u64)>>>()
    })?;
    let mut total = MemoryHash { sum: 0, bytes: memory.pages() * PAGE_SIZE, nonzero_pages: 0 };
    for (sum, pages) in parts {
        total.sum = total.sum.wrapping_add(sum);
        total.nonzero_pages += pages;
    }
    Ok(total)
}

/// Takes chunks until none is left; returns the sum of their pages' hashes, and how many pages
/// were not zero.
fn hash_chunks(memory: &Memory, populated: &PageBitmap, next_chunk: &AtomicU64) -> io::Result<(u128, u64)> {
    let mut bytes = [0u8; PAGE_SIZE as usize];
    let (mut sum, mut nonzero_pages) = (0u128, 0);
    loop {
        let chunk = next_chunk.fetch_add(1, Ordering::Relaxed);
        if chunk >= populated.chunks() {
            return Ok((sum, nonzero_pages));
        }
        for (first, count) in runs(&populated.chunk(chunk)) {
            for page in (first..first + count).map(|bit| chunk * CHUNK_PAGES + u64::from(bit)) {
                let address = GuestAddress(memory.guest_address(page));
                memory.guest().read_slice(&mut bytes, address).map_err(io::Error::other)?;
                if bytes.iter().any(|byte| *byte != 0) {
                    sum = sum.wrapping_add(xxh3_128_with_seed(&bytes, page));
                    nonzero_pages += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backing, MemoryConfig};

    fn hash_after(backing: Backing, writes: &[(u64, u8)]) -> MemoryHash {
        let memory = Memory::new(&MemoryConfig { size: 16 << 20, backing, prealloc: false }).unwrap();
        for (at, value) in writes {
            memory.guest().write_obj(*value, GuestAddress(*at)).unwrap();
        }
        hash(&memory).unwrap()
    }

    #[test]
    fn zero_pages_count_the_same_whether_allocated_or_not() {
        let written = hash_after(Backing::Anon, &[(0x5000, 7), (0x6000, 0)]);
        assert_eq!(written, hash_after(Backing::Memfd, &[(0x5000, 7)]));
        assert_eq!((written.nonzero_pages, written.bytes), (1, 16 << 20));
        assert_eq!(hash_after(Backing::Memfd, &[(0, 0)]).sum, 0);
    }

    #[test]
    fn every_byte_and_its_place_matter() {
        let writes = [&[][..], &[(0, 1)], &[(0, 2)], &[(1, 1)], &[(4096, 1)], &[(5 << 20, 1)], &[(0, 1), (4096, 1)]];
        let hashes = writes.map(|writes| hash_after(Backing::Memfd, writes));
        for (i, a) in hashes.iter().enumerate() {
            for b in &hashes[i + 1..] {
                assert_ne!(a.sum, b.sum);
            }
        }
        assert_eq!(hashes[0].to_string().len(), 32);
    }

    #[test]
    fn hashing_allocates_nothing() {
        let memory = Memory::new(&MemoryConfig { size: 16 << 20, backing: Backing::Memfd, prealloc: false }).unwrap();
        hash(&memory).unwrap();
        assert!(memory.populated().unwrap().is_empty());
    }
}
