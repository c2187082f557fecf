//! Another kind of wire: a link knows nothing of it but what [`Wire`] says.

use std::io::{IoSlice, PipeReader, PipeWriter, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::channel;

use ferry_memory::vectors::{Incoming, Outgoing};
use ferry_memory::{Memory, MemoryConfig};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::control::{Receiver, Sender};
use crate::wire::Ready;

/// A pipe in each direction. It has no end but that of its process, so it ends by a flag.
#[derive(Debug)]
struct Pipes {
    from: PipeReader,
    to: PipeWriter,
    ended: AtomicBool,
}

impl Pipes {
    fn pair() -> [Link; 2] {
        let [(a, b), (c, d)] = [0; 2].map(|_| io::pipe().unwrap());
        [(a, d), (c, b)].map(|(from, to)| {
            rustix::io::ioctl_fionbio(&from, true).unwrap();
            rustix::io::ioctl_fionbio(&to, true).unwrap();
            Link::on(Box::new(Pipes { from, to, ended: AtomicBool::new(false) }))
        })
    }

    fn wait(&self, to: Ready, wait: bool) -> io::Result<()> {
        // The wait is in the poll.
        while wait && !self.ended.load(SeqCst) {
            if self.wait_ready(to, Some(Duration::from_millis(5)))? {
                break;
            }
        }
        if self.ended.load(SeqCst) { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

impl Wire for Pipes {
    fn receive(&self, buffer: &mut [u8], wait: bool) -> io::Result<usize> {
        self.wait(Ready::ToReceive, wait)?;
        (&self.from).read(buffer)
    }

    fn send(&self, slices: &[IoSlice<'_>], wait: bool) -> io::Result<usize> {
        self.wait(Ready::ToSend, wait)?;
        (&self.to).write_vectored(slices)
    }

    fn fill(&self, memory: &Incoming<'_>) -> io::Result<usize> {
        self.wait(Ready::ToReceive, true)?;
        let pieces = memory.pieces();
        // SAFETY: the descriptor is open, and the pieces are mapped for as long as they are
        // borrowed.
        let moved = unsafe { libc::readv(self.from.as_raw_fd(), pieces.as_ptr(), pieces.len() as i32) };
        usize::try_from(moved).map_err(|_| io::Error::last_os_error())
    }

    fn drain(&self, memory: &Outgoing<'_>) -> io::Result<usize> {
        self.wait(Ready::ToSend, true)?;
        let pieces = memory.pieces();
        // SAFETY: as above; the kernel only reads them.
        let moved = unsafe { libc::writev(self.to.as_raw_fd(), pieces.as_ptr(), pieces.len() as i32) };
        usize::try_from(moved).map_err(|_| io::Error::last_os_error())
    }

    fn set_receive_wait(&self, _wait: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn set_send_wait(&self, _wait: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn wait_ready(&self, to: Ready, within: Option<Duration>) -> io::Result<bool> {
        let mut fds = [match to {
            Ready::ToReceive => PollFd::new(&self.from, PollFlags::IN),
            Ready::ToSend => PollFd::new(&self.to, PollFlags::OUT),
        }];
        Ok(poll(&mut fds, within.and_then(|within| Timespec::try_from(within).ok()).as_ref())? > 0)
    }

    fn receive_fd(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }

    fn end(&self) {
        self.ended.store(true, SeqCst);
    }

    fn finish_sending(&self) {}

    fn is_closed_by_peer(&self) -> io::Result<bool> {
        Ok(false)
    }

    fn unconfirmed(&self) -> u64 {
        0
    }

    fn peer(&self) -> Option<SocketAddr> {
        None
    }
}

#[test]
fn messages_travel_on_it() {
    let [near, far] = Pipes::pair();
    let mut sender = Sender::new(near, 7);
    let message = ferry_migration::message::ToSource::Heartbeat;
    sender.send(&message, &[]).unwrap();
    let mut receiver = Receiver::new(far, 7);
    let (received, attachment) = receiver.receive::<ferry_migration::message::ToSource>().unwrap();
    assert_eq!((received, attachment.is_empty()), (message, true));
}

#[test]
fn pages_travel_on_it_and_it_ends_from_outside() {
    let [near, far] = Pipes::pair();
    let [from, to] = [0; 2].map(|_| Memory::new(&MemoryConfig { size: 16 << 20, ..MemoryConfig::default() }).unwrap());
    for page in 0..512 {
        from.guest().write_obj(page + 1, GuestAddress(page * 4096)).unwrap();
    }
    let (done, is_done) = channel();
    let reader = far.clone();
    std::thread::spawn(move || {
        reader.read_into(&mut Incoming::default().pages(&to, 0, &[u64::MAX; 8])).unwrap();
        done.send(to).unwrap();
        reader.read_exact(&mut [0]).unwrap_err()
    });
    near.write_all_while_open(&mut Outgoing::default().pages(&from, 0, &[u64::MAX; 8]), |_| Ok(())).unwrap();
    let to = is_done.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!((0..512).all(|page| to.guest().read_obj::<u64>(GuestAddress(page * 4096)).unwrap() == page + 1));
    assert_eq!(far.received(), 512 * 4096);
    assert!(Link::wait_any_readable([&far].into_iter(), Duration::ZERO).is_none());
    far.shutdown();
    let error = near.write_within_with(io::stdin().as_fd(), &mut [IoSlice::new(b"x")], &mut Allowance::of_message(1));
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::Unsupported);
}
