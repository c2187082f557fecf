//! Makes outdated pages truly missing, so that the next access waits.
//!
//! Precopy has left old contents in pages that the guest has written since. Arming calls this with
//! the vCPUs of the source stopped, so it must be quick: it looks into the page table first and
//! touches nothing that is missing already, and it hands the kernel many ranges at once. The driver
//! may call it before, while the source still runs, to leave less for later.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use ferry_migration::pages::{PAGE_SIZE, PageBitmap};
use rustix::mm::{Advice, madvise};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::error::UserfaultError;
use super::range::{Range, cover};
use crate::{Memory, populated};

/// If at most one page in this many is outdated, a scan of the page table takes longer than to
/// discard without one.
const FEW: u64 = 64;
/// Ranges that one system call takes (IOV_MAX).
const BATCH: usize = 1024;

/// Drops `outdated` pages from the page table. A memfd keeps their old contents in the page cache,
/// to be overwritten; anonymous memory frees them. No thread may use these pages meanwhile.
///
/// # Errors
/// When the list is of another machine or the host refuses.
pub fn discard_outdated(memory: &Memory, outdated: &PageBitmap) -> Result<(), UserfaultError> {
    super::check_pages(memory, outdated)?;
    let ranges = cover(memory, outdated);
    super::range::refuse_huge_pages(memory, &ranges);
    discard_in(&ranges, outdated)
}

pub(super) fn discard_in(ranges: &[Range], outdated: &PageBitmap) -> Result<(), UserfaultError> {
    let Some((first, last)) = ranges.first().zip(ranges.last()) else { return Ok(()) };
    discard_all(ranges, outdated).map_err(|source| UserfaultError::Discard {
        first: first.first_page,
        last: last.last_page(),
        source,
    })
}

fn discard_all(ranges: &[Range], outdated: &PageBitmap) -> io::Result<()> {
    let mut dropper = Dropper::new()?;
    let covered: u64 = ranges.iter().map(|range| range.pages).sum();
    if outdated.count() * FEW <= covered {
        for range in ranges {
            let mut result = Ok(());
            each_run(outdated, range.first_page, range.last_page() + 1, |first, count| {
                if result.is_ok() {
                    result = dropper.add(range.host(first), count);
                }
            });
            result?;
        }
        return dropper.finish();
    }
    let pagemap = File::open("/proc/self/pagemap")?;
    for range in ranges {
        let mut result = Ok(());
        populated::in_page_table(&pagemap, range.start(), range.len() as u64, |at, len| {
            let first = range.first_page + at / PAGE_SIZE;
            each_run(outdated, first, first + len / PAGE_SIZE, |first, count| {
                if result.is_ok() {
                    result = dropper.add(range.host(first), count);
                }
            });
        })?;
        result?;
    }
    dropper.finish()
}

/// Calls `found` with (first page, count) of each run of `pages` in `first..end`.
fn each_run(pages: &PageBitmap, first: u64, end: u64, mut found: impl FnMut(u64, u64)) {
    let words = pages.words();
    let next = |mut page: u64, set: bool| {
        while page < end {
            let word = words[(page / 64) as usize];
            let rest = if set { word } else { !word } >> (page % 64);
            if rest != 0 {
                return (page + u64::from(rest.trailing_zeros())).min(end);
            }
            page = (page / 64 + 1) * 64;
        }
        end
    };
    let mut page = next(first, true);
    while page < end {
        let after = next(page, false);
        found(page, after - page);
        page = next(after, true);
    }
}

/// Collects ranges of this process and gives them up in batches.
struct Dropper {
    this_process: OwnedFd,
    ranges: Vec<libc::iovec>,
    in_batches: bool,
}

impl Dropper {
    fn new() -> io::Result<Self> {
        let this_process = pidfd_open(getpid(), PidfdFlags::empty())?;
        Ok(Dropper { this_process, ranges: Vec::with_capacity(BATCH), in_batches: true })
    }

    fn add(&mut self, start: *mut u8, pages: u64) -> io::Result<()> {
        self.ranges.push(libc::iovec { iov_base: start.cast(), iov_len: (pages * PAGE_SIZE) as usize });
        if self.ranges.len() == BATCH { self.finish() } else { Ok(()) }
    }

    fn finish(&mut self) -> io::Result<()> {
        if self.in_batches && !self.batch() {
            // Before Linux 6.13 the call does not take this advice.
            self.in_batches = false;
        }
        if !self.in_batches {
            for range in &self.ranges {
                // SAFETY: the range is guest memory of a mapping that the caller holds, and its
                // contents are given up.
                unsafe { madvise(range.iov_base, range.iov_len, Advice::LinuxDontNeed)? };
            }
        }
        self.ranges.clear();
        Ok(())
    }

    /// `process_madvise(2)` on all ranges; false unless it did all.
    fn batch(&self) -> bool {
        let bytes: usize = self.ranges.iter().map(|range| range.iov_len).sum();
        // SAFETY: the ranges are guest memory of a mapping that the caller holds, and their
        // contents are given up.
        let done = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                self.this_process.as_raw_fd(),
                self.ranges.as_ptr(),
                self.ranges.len(),
                libc::MADV_DONTNEED,
                0,
            )
        };
        usize::try_from(done) == Ok(bytes)
    }
}
