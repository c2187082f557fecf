//! What a kind of connection must be able to do for a [`Link`](crate::Link) to travel on it.
//!
//! A link has the deadlines, the counts and the clones; a wire moves bytes, ends, and says what has
//! become of the other end. Calls that find nothing to move fail with `WouldBlock`, and any of them
//! may fail with `Interrupted`, which means nothing.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use ferry_memory::vectors::{Incoming, Outgoing};

/// What a wire can be ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// A receive would not wait, which the peer's end does not either.
    ToReceive,
    /// A send would not wait.
    ToSend,
}

/// One kind of connection. Threads share it.
pub(crate) trait Wire: Debug + Send + Sync {
    /// Takes bytes that have come, and says how many; 0 is the peer's end. With `wait`, it waits
    /// until there are some, and as long as more of them are on their way.
    fn receive(&self, buffer: &mut [u8], wait: bool) -> io::Result<usize>;

    /// Takes bytes to be sent, and says how many; with `wait`, it waits for room.
    fn send(&self, slices: &[IoSlice<'_>], wait: bool) -> io::Result<usize>;

    /// As [`Wire::receive`] with `wait`, into guest memory, which is the caller's to advance.
    fn fill(&self, memory: &Incoming<'_>) -> io::Result<usize>;

    /// As [`Wire::send`] with `wait`, from guest memory, which is the caller's to advance.
    fn drain(&self, memory: &Outgoing<'_>) -> io::Result<usize>;

    /// How long one call may wait to receive; `None` waits for ever.
    fn set_receive_wait(&self, wait: Option<Duration>) -> io::Result<()>;

    /// How long one call may wait to send; `None` waits for ever.
    fn set_send_wait(&self, wait: Option<Duration>) -> io::Result<()>;

    /// Waits until it is ready, for as long as `within`; whether it is.
    fn wait_ready(&self, to: Ready, within: Option<Duration>) -> io::Result<bool>;

    /// Readable when a receive would not wait, for a poll over many.
    fn receive_fd(&self) -> BorrowedFd<'_>;

    /// Ends both directions, also for calls that wait now.
    fn end(&self);

    /// Ends what this side sends; the peer still gets all of it.
    fn finish_sending(&self);

    /// Whether the peer has ended, or the connection has failed.
    fn is_closed_by_peer(&self) -> io::Result<bool>;

    /// Bytes that were sent and that the peer's host has not taken; 0 where that is not known.
    fn unconfirmed(&self) -> u64;

    /// The peer's address in numbers, if it has one.
    fn peer(&self) -> Option<SocketAddr>;

    /// As [`Wire::send`] without `wait`, and with the first byte a descriptor.
    fn send_with(&self, _slices: &[IoSlice<'_>], _descriptor: BorrowedFd<'_>) -> io::Result<usize> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "only a Unix socket carries a descriptor"))
    }

    /// As [`Wire::receive`] without `wait`; descriptors that came with the bytes are added.
    fn receive_with(&self, buffer: &mut [u8], _descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
        self.receive(buffer, false)
    }
}
