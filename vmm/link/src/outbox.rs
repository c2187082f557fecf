//! Messages that a control link's socket has not taken yet.
//!
//! A driver writes by itself and waits a moment at most. If a peer, or a path, takes a large
//! message slowly, a thread sends the rest of it, and then the messages sent meanwhile: the driver
//! goes on, checks its timers and answers its operator. The time limit of a whole message is its
//! [`Allowance`].

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::link::{Allowance, Link};

/// Longest that a driver waits for a socket that is full.
const MOMENT: Duration = Duration::from_millis(250);
/// Most bytes that wait for the socket: two messages of the largest kind.
const MOST_BYTES: usize = 40 << 20;
/// Most messages that wait for it.
const MOST_FRAMES: usize = 1024;

type Failed = Box<dyn Fn(io::Error) + Send + Sync>;

/// The sending end of a control link.
pub(crate) struct Outbox {
    link: Link,
    waiting: Mutex<Waiting>,
    failed: Failed,
}

#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    /// A thread writes them.
    writing: bool,
    /// The sending direction ends once all is written.
    ends: bool,
    /// The link has failed: the peer could not parse bytes that follow an incomplete frame.
    broken: bool,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").field("link", &self.link).finish_non_exhaustive()
    }
}

impl Outbox {
    /// An empty outbox. A failure after `send` has returned is reported to `failed`.
    pub(crate) fn new(link: Link, failed: impl Fn(io::Error) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Outbox { link, waiting: Mutex::default(), failed: Box::new(failed) })
    }

    /// The link under it.
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Sends a frame in two parts, and a descriptor with its first byte.
    ///
    /// # Errors
    /// The link has failed, or the outbox is full.
    pub(crate) fn send(self: &Arc<Self>, frame: &[&[u8]; 2], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let len = frame[0].len() + frame[1].len();
        let mut waiting = self.waiting();
        if waiting.broken {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "an earlier message was not sent"));
        }
        if waiting.writing {
            if waiting.bytes + len > MOST_BYTES || waiting.frames.len() >= MOST_FRAMES {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "it takes much less than it is given"));
            }
            waiting.add(frame.concat());
            return Ok(());
        }
        // While no outbox thread writes, only this thread does.
        drop(waiting);
        let mut slices = [IoSlice::new(frame[0]), IoSlice::new(frame[1])];
        let mut moment = Allowance::of(MOMENT);
        let sent = match descriptor {
            Some(descriptor) => self.link.write_within_with(descriptor, &mut slices, &mut moment),
            None => self.link.write_within(&mut slices, &mut moment),
        };
        match sent {
            Ok(sent) if sent == len => Ok(()),
            Ok(sent) => self.go_on(frame.concat().split_off(sent)),
            Err(error) => {
                self.waiting().broken = true;
                Err(error)
            }
        }
    }

    /// Sends a frame if the socket takes all of it now.
    ///
    /// # Errors
    /// It does not, or the link has failed.
    pub(crate) fn send_at_once(&self, frame: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut waiting = self.waiting();
        let len: usize = frame.iter().map(|slice| slice.len()).sum();
        let free = !waiting.broken && !waiting.writing;
        if free && self.link.write_within(frame, &mut Allowance::of(Duration::ZERO))? == len {
            return Ok(());
        }
        waiting.broken = true;
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Ends the sending direction, after everything sent before.
    pub(crate) fn finish(&self) {
        let mut waiting = self.waiting();
        waiting.ends = true;
        if !waiting.writing {
            self.link.finish_sending();
        }
    }

    /// Sends the rest of a frame from a thread.
    fn go_on(self: &Arc<Self>, rest: Vec<u8>) -> io::Result<()> {
        let mut waiting = self.waiting();
        waiting.add(rest);
        waiting.writing = true;
        let own = self.clone();
        let thread = std::thread::Builder::new().name("ferry-outbox".to_owned()).spawn(move || own.write_all());
        // The thread ends with the link: its write then fails.
        thread.map(drop).inspect_err(|_| waiting.fail())
    }

    fn write_all(&self) {
        loop {
            let mut waiting = self.waiting();
            let Some(frame) = waiting.frames.pop_front() else {
                waiting.writing = false;
                if waiting.ends {
                    self.link.finish_sending();
                }
                return;
            };
            waiting.bytes -= frame.len();
            drop(waiting);
            let mut allowance = Allowance::of_message(frame.len());
            let written = self.link.write_within(&mut [IoSlice::new(&frame)], &mut allowance);
            let error = match written {
                Ok(sent) if sent == frame.len() => continue,
                Ok(_) => io::Error::new(io::ErrorKind::TimedOut, "a message was not taken in time"),
                Err(error) => error,
            };
            self.waiting().fail();
            // Reported before the shutdown, whose error would say less.
            (self.failed)(error);
            return self.link.shutdown();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn add(&mut self, frame: Vec<u8>) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    fn fail(&mut self) {
        *self = Waiting { broken: true, ends: self.ends, ..Waiting::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::channel;

    #[test]
    fn what_waits_is_bounded_and_an_end_from_outside_is_told() {
        let (near, _far) = UnixStream::pair().unwrap();
        let (told, failed) = channel();
        let outbox = Outbox::new(Link::new(near.into()).unwrap(), move |error| told.send(error).unwrap());
        outbox.send(&[&[0; 4 << 20], &[]], None).unwrap();
        assert!(outbox.waiting().writing, "no socket takes as much");
        let mut sent = 0;
        while outbox.send(&[&[0; 4 << 20], &[]], None).is_ok() {
            sent += 1;
            assert!(sent <= MOST_BYTES >> 22, "it has no bound");
        }
        outbox.link().shutdown();
        failed.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(outbox.send(&[&[0], &[]], None).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_last_word_waits_for_nothing() {
        let (near, far) = UnixStream::pair().unwrap();
        let outbox = Outbox::new(Link::new(near.into()).unwrap(), |_| {});
        outbox.send_at_once(&mut [IoSlice::new(b"bye")]).unwrap();
        let far = Link::new(far.into()).unwrap();
        far.read_exact(&mut [0; 3]).unwrap();
        outbox.send(&[&[0; 4 << 20], &[]], None).unwrap();
        assert_eq!(outbox.send_at_once(&mut [IoSlice::new(b"bye")]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        outbox.link().shutdown();
    }
}
