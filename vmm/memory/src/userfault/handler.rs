//! Reads faults: accesses to pages that are not here.
//!
//! The thread that serves missing pages waits here. Accesses that do not need the source (the page
//! is here but not mapped, or was never written) are let through at once.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use userfaultfd::{Event, EventBuffer, ReadWrite};
use vmm_sys_util::eventfd::EventFd;

use super::Faults;
use super::error::UserfaultError;
use super::open::errno;

/// Faults that one read takes.
const BATCH: usize = 64;

/// The result of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A page that a thread waits for, and that has not been requested before.
    Page(u64),
    /// No thread has touched a missing page in the time given.
    TimedOut,
    /// The wait was cancelled.
    Cancelled,
}

/// Reads faults.
pub(super) struct Handler {
    faults: Arc<Faults>,
    events: EventBuffer,
    wanted: VecDeque<u64>,
}

impl Handler {
    pub(super) fn new(faults: Arc<Faults>) -> Self {
        Handler { faults, events: EventBuffer::new(BATCH), wanted: VecDeque::with_capacity(BATCH) }
    }

    /// Waits for the next page to request, until `timeout` has passed or `cancel` is signalled (and
    /// left so).
    ///
    /// # Errors
    /// When faults cannot be read, or one that does not need the source cannot be let through. A
    /// thread may then wait indefinitely unless the caller acts.
    pub(super) fn next(&mut self, timeout: Duration, cancel: &EventFd) -> Result<Next, UserfaultError> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(page) = self.wanted.pop_front() {
                return Ok(Next::Page(page));
            }
            self.read()?;
            if !self.wanted.is_empty() {
                continue;
            }
            if let Some(end) = self.wait(deadline, cancel).map_err(|error| UserfaultError::Read(error.into()))? {
                return Ok(end);
            }
        }
    }

    fn read(&mut self) -> Result<(), UserfaultError> {
        let events = match self.faults.uffd.read_events(&mut self.events) {
            Ok(events) => events,
            Err(error) => {
                let error = errno(&error);
                return if error.kind() == std::io::ErrorKind::Interrupted {
                    Ok(())
                } else {
                    Err(UserfaultError::Read(error))
                };
            }
        };
        // The kernel reports a fault once: an error must not drop the faults behind it.
        let mut result = Ok(());
        for event in events {
            match self.faults.take(event) {
                Ok(page) => self.wanted.extend(page),
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// `None` when there is something to read.
    fn wait(&self, deadline: Instant, cancel: &EventFd) -> Result<Option<Next>, Errno> {
        // SAFETY: the eventfd is open for as long as `cancel` is borrowed, which outlives this
        // call.
        let cancel_fd = unsafe { BorrowedFd::borrow_raw(cancel.as_raw_fd()) };
        let mut fds = [
            PollFd::from_borrowed_fd(self.faults.uffd.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(cancel_fd, PollFlags::IN),
        ];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
                Ok(0) => return Ok(Some(Next::TimedOut)),
                Ok(_) if !fds[1].revents().is_empty() => return Ok(Some(Next::Cancelled)),
                Ok(_) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Faults {
    /// The page to request from the source, if any.
    fn take(&self, event: userfaultfd::Result<Event>) -> Result<Option<u64>, UserfaultError> {
        let event = event.map_err(|error| UserfaultError::Read(errno(&error)))?;
        let Event::Pagefault { rw, addr, .. } = event else {
            tracing::debug!(?event, "an event of userfaultfd that was not asked for");
            return Ok(None);
        };
        match self.page_at(addr.cast()) {
            Some(page) => Ok(self.is_wanted(page, rw == ReadWrite::Write)?.then_some(page)),
            None => {
                tracing::warn!(?addr, "a fault outside of guest memory");
                Ok(None)
            }
        }
    }

    /// Whether `page`, which a thread waits for, must be requested from the source.
    fn is_wanted(&self, page: u64, write: bool) -> Result<bool, UserfaultError> {
        if self.arrivals.is_received(page) {
            self.answer(page, write)?;
            return Ok(false);
        }
        let first = self.waiting.begin(page);
        if self.arrivals.is_received(page) {
            // It came in between; the thread that placed it may have looked for waiters too early.
            self.waiting.end((page / 64) as usize, 1 << (page % 64), |time| self.counters.waited(time));
            self.answer(page, write)?;
            return Ok(false);
        }
        if first {
            self.counters.request();
        }
        Ok(first)
    }

    fn answer(&self, page: u64, write: bool) -> Result<(), UserfaultError> {
        let Some(_watched) = self.watched() else { return Ok(()) };
        self.counters.local();
        self.let_through(page, write).map_err(|stopped| UserfaultError::Place { page, source: stopped.error })
    }
}
