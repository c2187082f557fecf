//! Data to be written to one client: replies from its own thread, events from the server's, with a
//! bound on both.
//!
//! No thread waits for a client: unread data stays here up to the bound, then the connection ends.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Unsent bytes above which no further request of this client is answered until it reads.
pub(crate) const HIGH_WATER: usize = 64 << 10;
/// Unsent bytes above which a client that receives events is dropped.
pub(crate) const LIMIT: usize = 1 << 20;

/// Unsent bytes of one client, and a descriptor that wakes its thread.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    wake: OwnedFd,
}

#[derive(Debug, Default)]
struct Queue {
    bytes: VecDeque<u8>,
    hears_events: bool,
    overflow: bool,
    closing: bool,
}

/// The state that a connection checks before it waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct State {
    /// Bytes unsent.
    pub unsent: usize,
    /// The client did not read its events in time.
    pub overflow: bool,
    /// The server ends: send what is left, then close.
    pub closing: bool,
}

impl Outbox {
    /// An empty one, for a client that does not receive events yet.
    pub(crate) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Outbox { queue: Mutex::default(), wake })
    }

    /// Adds a reply. Only the client's own thread does, and it stops answering at [`HIGH_WATER`].
    pub(crate) fn reply(&self, line: &[u8]) {
        self.lock().bytes.extend(line);
    }

    /// Adds an event, if the client receives events.
    pub(crate) fn event(&self, line: &[u8]) {
        let mut queue = self.lock();
        if !queue.hears_events || queue.overflow {
            return;
        }
        if queue.bytes.len() + line.len() > LIMIT {
            queue.overflow = true;
        } else {
            queue.bytes.extend(line);
        }
        drop(queue);
        self.wake();
    }

    /// From now on the client receives events.
    pub(crate) fn hear_events(&self) {
        self.lock().hears_events = true;
    }

    /// Ends the connection as soon as everything is sent.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.wake();
    }

    /// The present state.
    pub(crate) fn state(&self) -> State {
        let queue = self.lock();
        State { unsent: queue.bytes.len(), overflow: queue.overflow, closing: queue.closing }
    }

    /// Writes what `to` takes without waiting; returns whether it took anything.
    pub(crate) fn write_to(&self, mut to: impl Write) -> io::Result<bool> {
        let mut queue = self.lock();
        let before = queue.bytes.len();
        while !queue.bytes.is_empty() {
            match to.write(queue.bytes.as_slices().0) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => drop(queue.bytes.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(queue.bytes.len() < before)
    }

    /// Readable when there is something new.
    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Makes [`Outbox::wake_fd`] unreadable until the next wake-up.
    pub(crate) fn woken(&self) {
        drain(&self.wake);
    }

    fn wake(&self) {
        notify(&self.wake);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes an eventfd readable. A full counter is readable already, so no error matters.
pub(crate) fn notify(eventfd: &OwnedFd) {
    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
}

fn drain(eventfd: &OwnedFd) {
    let _ = rustix::io::read(eventfd, &mut [0u8; 8]);
}
