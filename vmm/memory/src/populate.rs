//! Has the host allocate guest memory before its first use: the first touch of a page costs several
//! times as much as filling it.
//!
//! Called when memory is made with `prealloc=on`, and chunk by chunk by the destination's driver,
//! which knows the chunks that will come.

use std::io;
use std::ops::Range;

use ferry_migration::pages::{CHUNK_PAGES, PAGE_SIZE};
use rustix::mm::{Advice, madvise};

use super::Memory;

/// More threads than this would wait for each other in the kernel.
const THREADS_MOST: usize = 8;

/// Populates one chunk. Existing contents do not change.
///
/// # Errors
/// When the host has no memory, or is older than Linux 5.14.
pub fn chunk(memory: &Memory, chunk: u64) -> io::Result<()> {
    let first = chunk * CHUNK_PAGES;
    let (base, _) = memory.host_pages(first);
    let len = (memory.pages() - first).min(CHUNK_PAGES) * PAGE_SIZE;
    // SAFETY: the chunk is a live mapping of guest memory, and populating it changes no byte of
    // it.
    Ok(unsafe { madvise(base.cast(), len as usize, Advice::LinuxPopulateWrite) }?)
}

/// Populates these chunks with as many threads as the host has processors.
pub(super) fn in_parallel(memory: &Memory, chunks: Range<u64>) -> io::Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(THREADS_MOST));
    std::thread::scope(|scope| {
        let share = |number: usize| chunks.clone().skip(number).step_by(threads).try_for_each(|at| chunk(memory, at));
        let others: Vec<_> = (1..threads).map(|number| scope.spawn(move || share(number))).collect();
        let own = share(0);
        let joined = |thread: std::thread::ScopedJoinHandle<'_, io::Result<()>>| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread that populates memory ended unexpectedly")))
        };
        others.into_iter().map(joined).fold(own, Result::and)
    })
}
