//! The interface of a transport below a [`Link`](crate::Link).
//!
//! A link has the deadlines, the counts and the clones; a wire moves bytes, can be ended, and
//! reports whether the peer has gone. Calls that find nothing to move fail with `WouldBlock`; any
//! call may fail with `Interrupted` and can be repeated.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use ferry_memory::vectors::{Incoming, Outgoing};

/// The operations that a wire can be ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// A receive would not block, which includes the peer's end.
    ToReceive,
    /// A send would not block.
    ToSend,
}

/// One kind of connection. Threads share it.
pub(crate) trait Wire: Debug + Send + Sync {
    /// Receives bytes and returns how many; 0 at the peer's end. With `wait`, it waits for the
    /// first, and for more as long as they keep coming.
    fn receive(&self, buffer: &mut [u8], wait: bool) -> io::Result<usize>;

    /// Sends bytes and returns how many; with `wait`, it waits for room.
    fn send(&self, slices: &[IoSlice<'_>], wait: bool) -> io::Result<usize>;

    /// As [`Wire::receive`] with `wait`, into guest memory, which the caller advances.
    fn fill(&self, memory: &Incoming<'_>) -> io::Result<usize>;

    /// As [`Wire::send`] with `wait`, from guest memory, which the caller advances.
    fn drain(&self, memory: &Outgoing<'_>) -> io::Result<usize>;

    /// How long one call may wait to receive; `None` waits indefinitely.
    fn set_receive_wait(&self, wait: Option<Duration>) -> io::Result<()>;

    /// How long one call may wait to send; `None` waits indefinitely.
    fn set_send_wait(&self, wait: Option<Duration>) -> io::Result<()>;

    /// Waits until it is ready, for at most `within`; returns whether it is.
    fn wait_ready(&self, to: Ready, within: Option<Duration>) -> io::Result<bool>;

    /// Readable when a receive would not block, for a poll over many.
    fn receive_fd(&self) -> BorrowedFd<'_>;

    /// Ends both directions, also for calls that wait now.
    fn end(&self);

    /// Ends the sending direction; the peer still receives everything sent.
    fn finish_sending(&self);

    /// Whether the peer has ended, or the connection has failed.
    fn is_closed_by_peer(&self) -> io::Result<bool>;

    /// Bytes sent that the peer's host has not taken; 0 where that is unknown.
    fn unconfirmed(&self) -> u64;

    /// The peer's address in numbers, if it has one.
    fn peer(&self) -> Option<SocketAddr>;

    /// As [`Wire::send`] without `wait`, with a descriptor at the first byte.
    fn send_with(&self, _slices: &[IoSlice<'_>], _descriptor: BorrowedFd<'_>) -> io::Result<usize> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "only a Unix socket carries a descriptor"))
    }

    /// As [`Wire::receive`] without `wait`; descriptors that came with the bytes are added.
    fn receive_with(&self, buffer: &mut [u8], _descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
        self.receive(buffer, false)
    }
}
