//! A link: a connection that carries the bytes of a migration.
//!
//! Both drivers and their page threads use it, and none depends on the transport below ([`Wire`]).
//! Reads and writes block; another thread ends them with [`Link::shutdown`], so that a cancelled
//! attempt can join threads that wait for a silent peer.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::endpoint::Endpoint;
use crate::socket::Socket;
use crate::wire::Wire;

mod allowance;
#[cfg(test)]
mod pipe_tests;
mod transfer;

pub use self::allowance::{Allowance, LOOK, Unconfirmed, silent};

/// A connection to the peer; clones share it.
#[derive(Clone, Debug)]
pub struct Link(Arc<Shared>);

/// The wire, and the state that all transfers on it share.
#[derive(Debug)]
struct Shared {
    wire: Box<dyn Wire>,
    /// Bytes received.
    received: AtomicU64,
    /// How long a transfer that has begun may stand still; 0: as long as one call may wait.
    patience_ms: AtomicU64,
    look_ms: AtomicU64,
}

impl Link {
    /// On a connected stream socket.
    ///
    /// # Errors
    /// When the socket refuses its options.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Socket::new(socket).map(|socket| Self::on(Box::new(socket)))
    }

    /// On any wire.
    pub(crate) fn on(wire: Box<dyn Wire>) -> Self {
        let look_ms = AtomicU64::new(LOOK.as_millis() as u64);
        Link(Arc::new(Shared { wire, received: AtomicU64::new(0), patience_ms: AtomicU64::new(0), look_ms }))
    }

    pub(crate) fn wire(&self) -> &dyn Wire {
        &*self.0.wire
    }

    /// How long one read may wait; `None` waits indefinitely.
    ///
    /// # Errors
    /// When the host refuses it.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.wire().set_receive_wait(timeout)
    }

    /// How long one write may wait; `None` waits indefinitely.
    ///
    /// # Errors
    /// When the host refuses it.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.wire().set_send_wait(timeout)
    }

    /// Ends both directions: reads see the end, writes fail, also those that are blocked now.
    pub fn shutdown(&self) {
        self.wire().end();
    }

    /// Ends the sending direction; the peer still reads everything sent, as long as this side goes
    /// on reading.
    ///
    /// A socket that is closed with unread bytes in it drops data that the peer has not
    /// acknowledged: a last message would be lost.
    pub fn finish_sending(&self) {
        self.wire().finish_sending();
    }

    /// Whether the peer has closed its end, or the connection has failed.
    ///
    /// # Errors
    /// When the kernel does not report it.
    pub fn is_closed_by_peer(&self) -> io::Result<bool> {
        self.wire().is_closed_by_peer()
    }

    /// The peer's address in numbers; `asked` where the connection has no such address.
    #[must_use]
    pub fn reached(&self, asked: &Endpoint) -> Endpoint {
        self.wire().peer().map_or_else(|| asked.clone(), Endpoint::from)
    }

    /// Waits until a read of one of these would not block, and returns which; `None` after
    /// `within`.
    ///
    /// # Panics
    /// Without a link.
    pub fn wait_any_readable<'a>(links: impl Iterator<Item = &'a Link>, within: Duration) -> Option<usize> {
        let fds: Vec<_> = links.map(Link::receive_fd).collect();
        let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        assert!(!fds.is_empty(), "no link to wait for");
        // An interruption, or a kernel that is short of memory, counts as a timeout.
        let _ = poll(&mut fds, Timespec::try_from(within).ok().as_ref());
        fds.iter().position(|fd| !fd.revents().is_empty())
    }

    /// Readable when a read would not block.
    pub(crate) fn receive_fd(&self) -> BorrowedFd<'_> {
        self.wire().receive_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ferry_devices::fault::FaultControl;
    use vmm_sys_util::eventfd::EventFd;

    use ferry_memory::vectors::{Incoming, Outgoing};
    use ferry_memory::{Memory, MemoryConfig};
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::listener::Listener;
    use std::io::IoSlice;

    fn no_faults() -> FaultControl {
        FaultControl::new(ferry_devices::fault::Direction::Incoming)
    }

    fn pair() -> (Link, Link, EventFd) {
        let listener = Listener::bind(&"tcp:127.0.0.1:0".parse().unwrap()).unwrap();
        let cancel = EventFd::new(0).unwrap();
        let near =
            Link::connect(&listener.bound().endpoint(), Instant::now() + Duration::from_secs(5), &cancel).unwrap();
        let far = listener.accept(&no_faults());
        (near, far, cancel)
    }

    #[test]
    fn bytes_arrive_in_slices() {
        let (near, far, _) = pair();
        let mut slices = [IoSlice::new(b"live"), IoSlice::new(b""), IoSlice::new(b"ly")];
        assert_eq!(near.write_within(&mut slices, &mut Allowance::of_message(6)).unwrap(), 6);
        let mut bytes = [0; 6];
        far.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"lively");
    }

    #[test]
    fn pages_go_from_guest_memory_to_guest_memory() {
        let (near, far, _) = pair();
        let [from, to] =
            [0; 2].map(|_| Memory::new(&MemoryConfig { size: 16 << 20, ..MemoryConfig::default() }).unwrap());
        let pages = [0x9249_2492_4924_9249; 8];
        for page in (512..1024).filter(|page| pages[0] >> (page % 64) & 1 == 1) {
            from.guest().write_obj(page, GuestAddress(page * 4096 + 4088)).unwrap();
        }
        let receiver = std::thread::spawn(move || {
            far.read_exact(&mut [0; 4]).unwrap();
            far.read_into(&mut Incoming::default().pages(&to, 1, &pages)).unwrap();
            to
        });
        near.write_all_while_open(&mut Outgoing::new(b"head").pages(&from, 1, &pages), |_| Ok(())).unwrap();
        let to = receiver.join().unwrap();
        let word =
            |memory: &Memory, page: u64| memory.guest().read_obj::<u64>(GuestAddress(page * 4096 + 4088)).unwrap();
        assert!((0..1024).all(|page| word(&from, page) == word(&to, page)));
    }

    #[test]
    fn shutdown_ends_a_blocked_read() {
        let (near, far, _) = pair();
        let reader = std::thread::spawn({
            let far = far.clone();
            move || far.read_exact(&mut [0; 8])
        });
        far.shutdown();
        assert_eq!(reader.join().unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        drop(near);
    }

    #[test]
    fn a_closed_peer_is_seen_without_reading() {
        let (near, far, _) = pair();
        assert!(!near.is_closed_by_peer().unwrap());
        drop(far);
        let deadline = Instant::now() + Duration::from_secs(5);
        while !near.is_closed_by_peer().unwrap() {
            assert!(Instant::now() < deadline, "the close was not seen");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_peer_that_has_closed_ends_a_write_that_waits_for_room() {
        let (near, far, _) = pair();
        near.set_write_timeout(Some(Duration::from_millis(10))).unwrap();
        // It reads nothing, so its window fills; its end of the connection says nothing to who
        // sends.
        let writer = std::thread::spawn(move || {
            let bytes = vec![0; 1 << 20];
            loop {
                if let Err(error) = near.write_all_while_open(&mut Outgoing::new(&bytes), |_| Ok(())) {
                    return error.kind();
                }
            }
        });
        far.finish_sending();
        assert_eq!(writer.join().unwrap(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_silent_peer_ends_a_read_at_its_timeout() {
        let (_near, far, _) = pair();
        far.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        assert_eq!(far.read_exact(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
