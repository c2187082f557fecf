//! Postcopy: the guest runs before all of its memory is here, and waits only for the pages that it
//! touches too early.
//!
//! The destination's driver arms guest memory with the set of missing pages before the guest runs,
//! and disarms it when all have arrived. From then on three kinds of threads meet here: a thread
//! that touches a missing page (for a vCPU, KVM, a device or one of our own system calls) sleeps in
//! the kernel (`userfaultfd(2)`); [`Faults::serve`] reads the fault and calls a [`PageSource`]; a
//! [`Landing`] for each link puts pages in place as they arrive.
//!
//! ```text
//!   arm ──▶ armed ──guest_started──▶ running ──disarm──▶ disarmed      every page is here
//!             │                         │
//!          release                     drop: accesses to missing pages wait indefinitely
//!             ▼                         (zeros would corrupt the guest)
//!          released   accesses to missing pages find zeros; the attempt has failed
//! ```
//!
//! How a page is placed depends on the backing. Anonymous memory raises *missing* faults, and
//! `UFFDIO_COPY` copies from the landing's buffer. A memfd raises *minor* faults as well: contents
//! go to the page cache with `pwrite`, where the guest cannot see them yet, and `UFFDIO_CONTINUE`
//! maps them. Either way a page appears whole, and a link that breaks within a page leaves no
//! trace. Reading from the link straight into a second mapping of the memfd would save the copy,
//! but costs a page fault and the clearing of each page instead, and was slower in every case
//! measured; so was `UFFDIO_MOVE`.

mod arrivals;
mod blocktime;
mod discard;
mod ending;
mod error;
mod handler;
mod kernel;
mod landing;
mod open;
mod range;
mod serve;
mod waiting;

#[cfg(test)]
mod figures;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vcpu_tests;

use std::fs::File;
use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use ferry_migration::pages::{PAGE_SIZE, PageBitmap};
use rustix::fs::{FallocateFlags, fallocate};
use userfaultfd::{RegisterMode, Uffd};

use crate::{Backing, Memory};
use arrivals::Arrivals;
use blocktime::Counters;
use kernel::Stopped;
use range::Range;
use waiting::Waiting;

pub use blocktime::{BUCKETS, Blocktime};
pub use discard::discard_outdated;
pub use error::UserfaultError;
use handler::{Handler, Next};
pub use landing::{LANDING_PAGES, Landing};
pub use open::{before_open, support};
pub use serve::{PageSource, ServeError};

/// Received neighbours that are mapped along with a page that a thread waits for.
const MAP_AROUND: u64 = 8;
/// Name of a read of faults in the rules of the fault device, which the reading thread checks
/// first.
pub const HEAR: &str = "USERFAULTFD_READ";
/// Contents of a page that was never written.
static ZERO_PAGE: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];

/// Guest memory with missing pages.
#[derive(Debug)]
pub struct Faults {
    uffd: Arc<Uffd>,
    ranges: Vec<Range>,
    memfd: Option<File>,
    arrivals: Arrivals,
    waiting: Waiting,
    counters: Counters,
    phase: RwLock<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Armed,
    Running,
    Disarmed,
    Released,
    /// The guest does not run any more, and lacks pages for good.
    GivenUp,
}

impl Faults {
    /// Makes every access to a page of `missing` wait until the page is placed. Their contents from
    /// precopy are discarded. Other pages do not change.
    ///
    /// Prerequisite: no vCPU and no device uses guest memory yet.
    ///
    /// # Errors
    /// When the host lacks a feature that is needed, or `missing` is of another machine. Nothing
    /// waits then; missing pages may have been discarded.
    pub fn arm(memory: &Memory, missing: &PageBitmap) -> Result<Arc<Self>, UserfaultError> {
        Self::arm_after(memory, missing, &PageBitmap::new(memory.pages()))
    }

    /// As [`Faults::arm`], when [`discard_outdated`] has discarded some pages before and nothing
    /// has been put there since.
    ///
    /// # Errors
    /// As there.
    pub fn arm_after(
        memory: &Memory,
        missing: &PageBitmap,
        discarded: &PageBitmap,
    ) -> Result<Arc<Self>, UserfaultError> {
        check_pages(memory, missing)?;
        check_pages(memory, discarded)?;
        let mut outdated = missing.clone();
        outdated.subtract(discarded);
        let backing = memory.backing();
        let uffd = Arc::new(open::open(backing)?);
        let memfd = memory.memfd().map(|memfd| memfd.try_clone()).transpose().map_err(UserfaultError::Open)?;
        let ranges = range::cover(memory, missing);
        range::refuse_huge_pages(memory, &ranges);
        discard::discard_in(&ranges, &outdated)?;
        let faults = Faults {
            uffd,
            ranges,
            memfd,
            arrivals: Arrivals::new(missing),
            waiting: Waiting::new(missing.pages()),
            counters: Counters::default(),
            phase: RwLock::new(Phase::Armed),
        };
        for range in &faults.ranges {
            // On failure the drop unregisters the ranges before.
            faults.register(range, backing)?;
        }
        Ok(Arc::new(faults))
    }

    fn register(&self, range: &Range, backing: Backing) -> Result<(), UserfaultError> {
        let mode = match backing {
            Backing::Anon => RegisterMode::MISSING,
            // A hole raises a missing fault; without this mode the kernel would fill it with zeros.
            Backing::Memfd => RegisterMode::MISSING | RegisterMode::MINOR,
        };
        self.uffd.register_with_mode(range.start().cast(), range.len(), mode).map(drop).map_err(|error| {
            UserfaultError::Register {
                first: range.first_page,
                last: range.last_page(),
                backing,
                source: open::errno(&error),
            }
        })
    }

    /// Called before the first vCPU runs: from now on no access may find zeros in place of missing
    /// pages.
    ///
    /// # Errors
    /// When the pages have been released, so that the guest must not run.
    pub fn guest_started(&self) -> Result<(), UserfaultError> {
        let mut phase = self.phase.write().unwrap_or_else(PoisonError::into_inner);
        match *phase {
            Phase::Released => return Err(UserfaultError::Ended),
            Phase::Armed => *phase = Phase::Running,
            Phase::Running | Phase::Disarmed | Phase::GivenUp => {}
        }
        Ok(())
    }

    /// The start that [`Faults::guest_started`] announced has failed: the guest never runs here,
    /// and its pages can be released.
    pub fn guest_not_started(&self) {
        let mut phase = self.phase.write().unwrap_or_else(PoisonError::into_inner);
        if *phase == Phase::Running {
            *phase = Phase::Armed;
        }
    }

    /// Unregisters memory when every page is here: it is as fast as any other again. A second call
    /// has no effect.
    ///
    /// # Errors
    /// When pages are missing, or have been released.
    pub fn disarm(&self) -> Result<(), UserfaultError> {
        let mut phase = self.phase.write().unwrap_or_else(PoisonError::into_inner);
        match (*phase, self.remaining()) {
            (Phase::Released, _) => return Err(UserfaultError::Ended),
            (_, 0) => {}
            (_, remaining) => return Err(UserfaultError::Incomplete { remaining }),
        }
        if *phase != Phase::Disarmed {
            self.unwatch();
            *phase = Phase::Disarmed;
        }
        Ok(())
    }

    /// Releases the pages after a failed attempt: accesses that wait go on and find zeros, or what
    /// precopy left in a memfd. Nothing can be placed any more, and the memory can be discarded
    /// and used again. Dropping does the same.
    ///
    /// # Errors
    /// When the guest runs: it would find zeros in place of its memory.
    pub fn release(&self) -> Result<(), UserfaultError> {
        let mut phase = self.phase.write().unwrap_or_else(PoisonError::into_inner);
        match *phase {
            Phase::Running | Phase::GivenUp => {
                return Err(UserfaultError::GuestRuns { remaining: self.remaining() });
            }
            Phase::Armed => {
                self.unwatch();
                *phase = Phase::Released;
            }
            Phase::Disarmed | Phase::Released => {}
        }
        Ok(())
    }

    /// The guest is lost, or has ended before the rest of its memory came: threads that wait for a
    /// page do so until the process ends.
    pub fn give_up(&self) {
        *self.phase.write().unwrap_or_else(PoisonError::into_inner) = Phase::GivenUp;
    }

    /// How the host reports missing pages: `minor` faults on a memfd, `missing` faults on anonymous
    /// memory.
    #[must_use]
    pub fn mode(&self) -> &'static str {
        if self.memfd.is_some() { "minor" } else { "missing" }
    }

    /// How many pages are missing. A page counts until shortly after the thread that waited for it
    /// goes on.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.arrivals.remaining()
    }

    /// The pages that are here, those that were never missing included.
    #[must_use]
    pub fn received(&self) -> PageBitmap {
        self.arrivals.received()
    }

    /// The missing pages that threads wait for, ascending: after a lost link they must be requested
    /// again.
    #[must_use]
    pub fn awaited(&self) -> Vec<u64> {
        self.awaited_for(Duration::ZERO)
    }

    /// As [`Faults::awaited`], for those that have been waited for at least so long.
    #[must_use]
    pub fn awaited_for(&self, at_least: Duration) -> Vec<u64> {
        self.waiting.pages(at_least)
    }

    /// How long accesses have waited so far.
    #[must_use]
    pub fn blocktime(&self) -> Blocktime {
        self.counters.read()
    }

    /// A place where one thread receives pages.
    #[must_use]
    pub fn landing(self: &Arc<Self>) -> Landing {
        Landing::new(self.clone())
    }

    /// A reader of faults. One thread uses it; a second handler would take faults from the first.
    #[must_use]
    fn handler(self: &Arc<Self>) -> Handler {
        Handler::new(self.clone())
    }

    /// Writes to pages that the caller has claimed, maps them and wakes the waiting threads.
    fn place(&self, page: u64, contents: &[u8]) -> Result<(), Stopped> {
        let range = self.range_of(page)?;
        match &self.memfd {
            None => kernel::copy(&self.uffd, contents, range.host(page)),
            Some(memfd) => {
                std::os::unix::fs::FileExt::write_all_at(memfd, contents, page * PAGE_SIZE)
                    .map_err(|error| Stopped { done_pages: 0, error })?;
                kernel::map(&self.uffd, range.host(page), contents.len() as u64 / PAGE_SIZE)
            }
        }
    }

    /// Makes claimed pages zero without taking memory for them, if possible.
    ///
    /// In a memfd only a hole takes none. An access to a hole still raises a fault, which
    /// [`Faults::let_through`] resolves.
    fn place_zero(&self, page: u64, pages: u64) -> Result<(), Stopped> {
        let range = self.range_of(page)?;
        match &self.memfd {
            None => kernel::zero(&self.uffd, range.host(page), pages),
            Some(memfd) => {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(memfd, punch, page * PAGE_SIZE, pages * PAGE_SIZE)
                    .map_err(|error| Stopped { done_pages: 0, error: error.into() })
            }
        }
    }

    /// Lets an access through to a page that is here, or that was never written.
    fn let_through(&self, page: u64, write: bool) -> Result<(), Stopped> {
        let range = self.range_of(page)?;
        let host = range.host(page);
        if self.memfd.is_none() {
            // A write would replace the shared zero page at once, so the page gets memory of its
            // own.
            return if write {
                kernel::present_or(kernel::copy(&self.uffd, &ZERO_PAGE, host), &self.uffd, host)
            } else {
                kernel::zero(&self.uffd, host, 1)
            };
        }
        let around = self.arrivals.received_run(page).clamp(1, MAP_AROUND);
        match kernel::map(&self.uffd, host, around) {
            // The first page has been mapped; no access needs the hole behind it yet.
            Err(stopped) if stopped.done_pages > 0 => Ok(()),
            // EFAULT: a hole.
            Err(stopped) if stopped.error.raw_os_error() == Some(libc::EFAULT) => kernel::zero(&self.uffd, host, 1),
            result => result,
        }
    }

    /// Wakes the threads that wait for zero pages, which are holes in a memfd until then.
    fn show_zeros(&self, first_page: u64, pages: u64) -> Result<(), Stopped> {
        if self.memfd.is_none() {
            return Ok(());
        }
        let mut awaited = (0..64).filter(|bit| pages >> bit & 1 == 1);
        awaited.try_for_each(|bit| self.let_through(first_page + bit, true))
    }

    fn range_of(&self, page: u64) -> Result<&Range, Stopped> {
        let after = self.ranges.partition_point(|range| range.first_page <= page);
        let range = after.checked_sub(1).map(|at| &self.ranges[at]).filter(|range| page <= range.last_page());
        range.ok_or_else(|| Stopped { done_pages: 0, error: io::Error::from_raw_os_error(libc::ENOENT) })
    }

    /// The page that an address of the guest mapping belongs to.
    fn page_at(&self, host: *const u8) -> Option<u64> {
        let at = host as u64;
        self.ranges.iter().find_map(|range| {
            let offset = at.checked_sub(range.start() as u64)?;
            (offset < range.len() as u64).then(|| range.first_page + offset / PAGE_SIZE)
        })
    }

    /// Keeps memory registered while pages are placed; `None` when none may be placed any more.
    fn watched(&self) -> Option<RwLockReadGuard<'_, Phase>> {
        let phase = self.phase.read().unwrap_or_else(PoisonError::into_inner);
        matches!(*phase, Phase::Armed | Phase::Running).then_some(phase)
    }

    /// Whether memory was unregistered because every page is here.
    fn is_disarmed(&self) -> bool {
        *self.phase.read().unwrap_or_else(PoisonError::into_inner) == Phase::Disarmed
    }
}

fn check_pages(memory: &Memory, pages: &PageBitmap) -> Result<(), UserfaultError> {
    if pages.pages() == memory.pages() {
        Ok(())
    } else {
        Err(UserfaultError::OtherMachine { expected: memory.pages(), found: pages.pages() })
    }
}
