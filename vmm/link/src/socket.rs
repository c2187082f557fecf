//! A stream socket as a wire, TCP or Unix.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use ferry_memory::vectors::{Incoming, Outgoing};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, recvmsg, sendmsg, sockopt,
};

use crate::wire::{Ready, Wire};

/// Most descriptors kept per call: one is expected, a second shows that something is wrong, and all
/// others are closed.
const KEPT: usize = 2;

/// A connected blocking socket.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// Takes a connected socket, with Nagle's algorithm off where there is one.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, false)?;
        if sockopt::socket_domain(&fd)? != AddressFamily::UNIX {
            sockopt::set_tcp_nodelay(&fd, true)?;
        }
        Ok(Socket(fd))
    }

    /// `readv(2)` or `writev(2)`.
    fn vectored(
        &self,
        pieces: &[libc::iovec],
        call: unsafe extern "C" fn(libc::c_int, *const libc::iovec, libc::c_int) -> libc::ssize_t,
    ) -> io::Result<usize> {
        // SAFETY: the descriptor is open for as long as `self` is borrowed, and the callers' pieces
        // are mapped for as long as they are borrowed. The kernel fills guest memory only, to which
        // no reference exists, and fails where it may not be written.
        let moved = unsafe { call(self.0.as_raw_fd(), pieces.as_ptr(), pieces.len() as libc::c_int) };
        usize::try_from(moved).map_err(|_| io::Error::last_os_error())
    }
}

impl Wire for Socket {
    fn receive(&self, buffer: &mut [u8], wait: bool) -> io::Result<usize> {
        let flags = if wait { RecvFlags::WAITALL } else { RecvFlags::DONTWAIT };
        Ok(rustix::net::recv(&self.0, buffer, flags)?.0)
    }

    fn send(&self, slices: &[IoSlice<'_>], wait: bool) -> io::Result<usize> {
        let flags = if wait { SendFlags::empty() } else { SendFlags::DONTWAIT };
        Ok(sendmsg(&self.0, slices, &mut SendAncillaryBuffer::default(), flags | SendFlags::NOSIGNAL)?)
    }

    fn fill(&self, memory: &Incoming<'_>) -> io::Result<usize> {
        self.vectored(memory.pieces(), libc::readv)
    }

    fn drain(&self, memory: &Outgoing<'_>) -> io::Result<usize> {
        self.vectored(memory.pieces(), libc::writev)
    }

    fn set_receive_wait(&self, wait: Option<Duration>) -> io::Result<()> {
        Ok(sockopt::set_socket_timeout(&self.0, sockopt::Timeout::Recv, wait)?)
    }

    fn set_send_wait(&self, wait: Option<Duration>) -> io::Result<()> {
        Ok(sockopt::set_socket_timeout(&self.0, sockopt::Timeout::Send, wait)?)
    }

    fn wait_ready(&self, to: Ready, within: Option<Duration>) -> io::Result<bool> {
        let flags = match to {
            Ready::ToReceive => PollFlags::IN,
            Ready::ToSend => PollFlags::OUT,
        };
        let mut fds = [PollFd::new(&self.0, flags)];
        let timeout = within.and_then(|within| Timespec::try_from(within).ok());
        Ok(poll(&mut fds, timeout.as_ref())? > 0)
    }

    fn receive_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn end(&self) {
        // A peer that has gone already is what the caller wants.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Both);
    }

    fn finish_sending(&self) {
        // As above.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Write);
    }

    fn is_closed_by_peer(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.0, PollFlags::RDHUP)];
        match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(_) => Ok(fds[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// On a Unix socket, bytes that the peer has not read.
    fn unconfirmed(&self) -> u64 {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the descriptor is open for as long as `self` is borrowed, and TIOCOUTQ writes
        // one int.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        // If the kernel does not report it, the other checks remain.
        if done == 0 { u64::try_from(bytes).unwrap_or(0) } else { 0 }
    }

    fn peer(&self) -> Option<SocketAddr> {
        let peer = rustix::net::getpeername(&self.0).ok().flatten()?;
        SocketAddr::try_from(peer).ok()
    }

    fn send_with(&self, slices: &[IoSlice<'_>], descriptor: BorrowedFd<'_>) -> io::Result<usize> {
        let descriptors = [descriptor];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        Ok(sendmsg(&self.0, slices, &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
    }

    fn receive_with(&self, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KEPT))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = recvmsg(&self.0, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(came) = message {
                descriptors.extend(came);
            }
        }
        descriptors.truncate(KEPT);
        Ok(received.bytes)
    }
}
