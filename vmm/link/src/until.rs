//! How long to wait: until a deadline, or a cancel.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vmm_sys_util::eventfd::EventFd;

/// The end of a wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until<'a> {
    /// For the whole operation.
    pub deadline: Instant,
    /// Signalled to cancel it.
    pub cancel: Option<&'a EventFd>,
}

/// An eventfd, to wait for.
#[must_use]
pub(crate) fn eventfd(fd: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the eventfd is open for as long as it is borrowed.
    unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }
}

impl Until<'_> {
    /// Without a cancel.
    #[must_use]
    pub(crate) fn at(deadline: Instant) -> Self {
        Until { deadline, cancel: None }
    }

    /// Whether the deadline has passed.
    #[must_use]
    pub(crate) fn has_passed(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Waits until one of `fds` is ready, and returns which; `None` at `wake`, or at the deadline
    /// if that is earlier.
    ///
    /// # Errors
    /// `Interrupted` when cancelled; the kernel's error.
    pub(crate) fn wait(&self, fds: &[BorrowedFd<'_>], flags: PollFlags, wake: Instant) -> io::Result<Option<usize>> {
        let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, flags)).collect();
        polled.extend(self.cancel.map(|cancel| PollFd::from_borrowed_fd(eventfd(cancel), PollFlags::IN)));
        loop {
            let left = wake.min(self.deadline).saturating_duration_since(Instant::now());
            // A wait that is longer than the kernel can count needs no timeout.
            let timeout = Timespec::try_from(left).ok();
            match poll(&mut polled, timeout.as_ref()) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            return match polled.iter().position(|fd| !fd.revents().is_empty()) {
                _ if polled.get(fds.len()).is_some_and(|cancel| !cancel.revents().is_empty()) => {
                    Err(io::Error::new(io::ErrorKind::Interrupted, "given up"))
                }
                ready => Ok(ready),
            };
        }
    }

    /// Waits for this long; false at the deadline.
    ///
    /// # Errors
    /// As [`Until::wait`].
    pub(crate) fn pause(&self, pause: Duration) -> io::Result<bool> {
        self.wait(&[], PollFlags::IN, Instant::now() + pause)?;
        Ok(!self.has_passed())
    }
}
