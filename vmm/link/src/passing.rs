//! Descriptors on their way over a Unix socket (unix(7), `SCM_RIGHTS`): with the first byte of a
//! message, and nowhere else.
//!
//! The control link's two ends use this, for the first message of a migration alone. A descriptor
//! that comes with any other byte is closed by the kernel, because the read of that byte asks for
//! none.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use crate::stream::{Allowance, Stream, retry};

/// Descriptors that are kept of what comes: one is expected, a second tells that something is
/// wrong, and all others are closed.
const KEPT: usize = 2;

/// Sends as much of the slices as goes within what is left of `allowance`, and `descriptor` with
/// the first byte. Returns how many bytes that was. The socket is a Unix socket.
///
/// # Errors
/// As the socket says; `TimedOut` when not even the first byte went.
pub(crate) fn write_within_with(
    stream: &Stream,
    descriptor: BorrowedFd<'_>,
    mut slices: &mut [IoSlice<'_>],
    allowance: &mut Allowance,
) -> io::Result<usize> {
    let descriptors = [descriptor];
    let sent = loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        match sendmsg(stream.as_fd(), slices, &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(sent) => break sent,
            Err(Errno::AGAIN) => allowance.wait(stream, PollFlags::OUT)?,
            Err(error) => retry(error)?,
        }
    };
    IoSlice::advance_slices(&mut slices, sent);
    Ok(sent + stream.write_within(slices, allowance)?)
}

/// Fills `buffer` within what is left of `allowance`, and returns the first descriptors that came
/// with it.
///
/// # Errors
/// `UnexpectedEof` when the peer closed before; `TimedOut` past the allowance.
pub(crate) fn read_within_with(
    stream: &Stream,
    mut buffer: &mut [u8],
    allowance: &mut Allowance,
) -> io::Result<Vec<OwnedFd>> {
    let mut kept = Vec::new();
    while !buffer.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KEPT))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        match recvmsg(stream.as_fd(), &mut [IoSliceMut::new(buffer)], &mut ancillary, flags) {
            Ok(received) if received.bytes == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(received) => {
                for message in ancillary.drain() {
                    if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                        kept.extend(descriptors);
                    }
                }
                kept.truncate(KEPT);
                stream.note(received.bytes);
                buffer = &mut buffer[received.bytes..];
            }
            Err(Errno::AGAIN) => allowance.wait(stream, PollFlags::IN)?,
            Err(error) => retry(error)?,
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    fn pair() -> (Stream, Stream) {
        let (near, far) = UnixStream::pair().unwrap();
        (Stream::new(near.into()).unwrap(), Stream::new(far.into()).unwrap())
    }

    fn write_all(stream: &Stream, descriptor: BorrowedFd<'_>, slices: &mut [IoSlice<'_>]) -> io::Result<usize> {
        write_within_with(stream, descriptor, slices, &mut Allowance::of_message(0))
    }

    fn read(stream: &Stream, buffer: &mut [u8]) -> io::Result<Vec<OwnedFd>> {
        read_within_with(stream, buffer, &mut Allowance::of_message(0))
    }

    fn open() -> File {
        tempfile::tempfile().unwrap()
    }

    /// Which file a descriptor is, as the kernel tells them apart.
    fn identity(fd: impl AsFd) -> (u64, u64) {
        let stat = rustix::fs::fstat(fd).unwrap();
        (stat.st_dev, stat.st_ino)
    }

    #[test]
    fn a_descriptor_comes_with_the_first_byte() {
        let (near, far) = pair();
        let file = open();
        near.write_all(b"before").unwrap();
        write_all(&near, file.as_fd(), &mut [IoSlice::new(b"he"), IoSlice::new(b"ad"), IoSlice::new(b"body")]).unwrap();
        let mut bytes = [0; 6];
        far.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"before");
        let mut head = [0; 4];
        let found = read(&far, &mut head).unwrap();
        assert_eq!((&head, found.len()), (b"head", 1));
        assert_eq!(identity(&found[0]), identity(&file));
        assert!(rustix::io::fcntl_getfd(&found[0]).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        let mut body = [0; 4];
        assert!(read(&far, &mut body).unwrap().is_empty());
        assert_eq!(&body, b"body");
    }

    #[test]
    fn a_descriptor_that_nobody_asks_for_is_closed() {
        let (near, far) = pair();
        let (reader, writer) = std::io::pipe().unwrap();
        write_all(&near, writer.as_fd(), &mut [IoSlice::new(b"frame")]).unwrap();
        drop(writer);
        far.read_exact(&mut [0; 5]).unwrap();
        // The writing end is closed everywhere: the pipe has ended.
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Ok(0));
    }

    #[test]
    fn one_for_each_byte_is_not_kept() {
        let (near, far) = pair();
        let (reader, writer) = std::io::pipe().unwrap();
        for _ in 0..20 {
            write_all(&near, writer.as_fd(), &mut [IoSlice::new(b"x")]).unwrap();
        }
        drop(writer);
        let found = read(&far, &mut [0; 20]).unwrap();
        assert_eq!(found.len(), KEPT);
        drop(found);
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Ok(0), "{} is still written to", reader.as_raw_fd());
    }

    #[test]
    fn a_peer_that_leaves_is_seen() {
        let (near, far) = pair();
        near.write_all(b"ha").unwrap();
        drop(near);
        assert_eq!(read(&far, &mut [0; 4]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
