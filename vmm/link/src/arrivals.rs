//! Accepts connections at the address of an incoming migration and reads their preambles.
//!
//! One thread waits for all of them. A connection that does not send a preamble in time is closed;
//! a Ferry of another version receives this side's preamble first. The driver sees only Ferry's
//! links.
//!
//! ```text
//!   listen queue ──► pending ──► arrival ──► driver
//!                    └─── at most ROOM ───┘
//! ```
//!
//! While there is no room, further connections wait in the kernel's queue, and none is closed for
//! them: each may be the source. A pending connection is closed or becomes an arrival within
//! [`INTRODUCTION`], so no connection waits for much longer than that.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferry_devices::fault::FaultControl;
use ferry_migration::wire::WireError;
use ferry_migration::wire::preamble::{LinkRole, PREAMBLE_LEN, Preamble};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::Link;
use crate::listener::Listener;

/// Time limit for the whole preamble of a connection, from when it was accepted.
const INTRODUCTION: Duration = Duration::from_secs(2);
/// Pause before the next try after the host was too short of something to accept a connection.
const SCARCITY: Duration = Duration::from_millis(100);
/// Interval of checks for room while there is none.
const LOOK: Duration = Duration::from_millis(20);
/// Most pending connections and arrivals at a time: several times the links of a migration and its
/// reconnection, each a control, an urgent and 32 bulk links.
const ROOM: usize = 256;

/// Ends the listening thread when dropped: the address is freed however its owner ends.
pub struct Listening {
    stop: Arc<OwnedFd>,
    live: Arc<AtomicBool>,
}

/// The listening thread's end of a [`Listening`].
pub struct Stop {
    stop: Arc<OwnedFd>,
    live: Arc<AtomicBool>,
}

impl Listening {
    /// With the other end, for [`listen`].
    ///
    /// # Errors
    /// When the host gives no descriptor.
    pub fn new() -> io::Result<(Self, Stop)> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let live = Arc::new(AtomicBool::new(true));
        Ok((Listening { stop: stop.clone(), live: live.clone() }, Stop { stop, live }))
    }

    /// Ends it now.
    pub fn end(&self) {
        // An eventfd takes 2^64 signals before a write could fail.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }

    /// Whether it listens: it has neither failed nor ended.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live.load(SeqCst)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.end();
    }
}

/// A link that has sent its preamble. It counts as waiting until the driver has taken it.
#[derive(Debug)]
pub struct Arrival {
    /// The preamble that it sent.
    pub preamble: Preamble,
    /// The connection.
    pub link: Link,
    _place: Place,
}

/// Events of the listening thread.
#[derive(Debug)]
pub enum News {
    /// A link is here.
    Arrived(Arrival),
    /// Nothing more can arrive.
    Failed(io::Error),
}

/// Sends news to the driver.
type Tell = Box<dyn Fn(News) + Send>;

/// A place among the arrivals that the driver has not taken.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(waiting: &Arc<AtomicUsize>) -> Self {
        waiting.fetch_add(1, SeqCst);
        Place(waiting.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Starts the thread that listens until `stop` is signalled, and reports to `tell`.
///
/// # Errors
/// When the host gives no thread.
pub fn listen(
    listener: Listener,
    stop: Stop,
    tell: impl Fn(News) + Send + 'static,
    faults: Arc<FaultControl>,
) -> io::Result<JoinHandle<()>> {
    Acceptor::new(listener, stop, Box::new(tell), faults, ROOM).start()
}

/// State of the listening thread.
struct Acceptor {
    listener: Listener,
    stop: Stop,
    tell: Tell,
    faults: Arc<FaultControl>,
    /// Most pending connections and arrivals.
    most: usize,
    /// Connections whose preamble is awaited.
    pending: Vec<Pending>,
    /// Arrivals that the driver has not taken.
    waiting: Arc<AtomicUsize>,
    /// The host was short of something: no connection is accepted before this time.
    rest: Option<Instant>,
    full: bool,
}

impl Acceptor {
    fn new(listener: Listener, stop: Stop, tell: Tell, faults: Arc<FaultControl>, most: usize) -> Self {
        let (pending, waiting) = (Vec::new(), Arc::default());
        Acceptor { listener, stop, tell, faults, most, pending, waiting, rest: None, full: false }
    }

    fn start(mut self) -> io::Result<JoinHandle<()>> {
        let own = self.faults.clone();
        own.spawn("ferry-dst-accept", move || {
            let ended = loop {
                match self.step() {
                    Ok(true) => {}
                    Ok(false) => break None,
                    Err(error) => break Some(error),
                }
            };
            let Acceptor { listener, stop, tell, .. } = self;
            // The address is freed before the failure is reported: it may be listened on again.
            drop(listener);
            stop.live.store(false, SeqCst);
            if let Some(error) = ended {
                tell(News::Failed(error));
            }
        })
    }

    fn room(&self) -> usize {
        self.most.saturating_sub(self.pending.len() + self.waiting.load(SeqCst))
    }

    /// Waits for the next event and handles it; false when stopped.
    fn step(&mut self) -> io::Result<bool> {
        self.rest = self.rest.filter(|until| *until > Instant::now());
        let takes = self.rest.is_none() && self.room() > 0;
        let wake = self.wake(takes).and_then(|wake| {
            let left = wake.saturating_duration_since(Instant::now());
            Timespec::try_from(left).ok()
        });
        let pending = self.pending.iter().map(|connection| connection.link.receive_fd());
        let mut fds: Vec<_> = std::iter::once(self.stop.stop.as_fd())
            .chain(pending)
            .chain(takes.then(|| self.listener.as_fd()))
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        match poll(&mut fds, wake.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(true),
            // The kernel is short of memory, which passes.
            Err(_) => std::thread::park_timeout(SCARCITY),
        }
        let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            return Ok(false);
        }
        self.full &= self.pending.len() > self.most / 2;
        let comes = takes && ready[ready.len() - 1];
        self.receive(&ready[1..]);
        if comes {
            self.take()?;
        }
        Ok(true)
    }

    /// When to wake up without an event.
    fn wake(&self, takes: bool) -> Option<Instant> {
        let look = (!takes && self.rest.is_none()).then(|| Instant::now() + LOOK);
        self.pending.iter().map(|connection| connection.until).chain(self.rest).chain(look).min()
    }

    /// Reads from pending connections, and closes those whose time is up. Bytes that have arrived
    /// are read first: this thread itself may be late.
    fn receive(&mut self, ready: &[bool]) {
        for (mut connection, ready) in std::mem::take(&mut self.pending).into_iter().zip(ready) {
            let left = if *ready { connection.receive() } else { Received::Incomplete };
            self.follow(connection, left);
        }
    }

    fn follow(&mut self, connection: Pending, received: Received) {
        match received {
            Received::Incomplete if Instant::now() < connection.until => self.pending.push(connection),
            Received::Incomplete => tracing::info!("a connection did not introduce itself in time and was closed"),
            Received::NoLink => {}
            Received::Preamble(preamble) => {
                let arrival = Arrival { preamble, link: connection.link, _place: Place::take(&self.waiting) };
                (self.tell)(News::Arrived(arrival));
            }
        }
    }

    /// Accepts a waiting connection.
    fn take(&mut self) -> io::Result<()> {
        match self.listener.take(&self.faults) {
            Ok(Some(link)) => {
                let mut connection = Pending::new(link);
                // A source sends its preamble at once.
                let received = connection.receive();
                self.follow(connection, received);
            }
            Ok(None) => {}
            Err(error) if is_scarcity(&error) => {
                tracing::warn!(%error, "a connection could not be taken; the next try is in a moment");
                self.rest = Some(Instant::now() + SCARCITY);
            }
            Err(error) => return Err(error),
        }
        let full = self.room() == 0;
        if full && !std::mem::replace(&mut self.full, true) {
            tracing::warn!(self.most, "there is no room for further connections, which wait until some have left");
        }
        Ok(())
    }
}

/// Whether the host is temporarily short of something (accept(2)).
fn is_scarcity(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// A connection whose preamble is awaited.
struct Pending {
    link: Link,
    until: Instant,
    bytes: [u8; PREAMBLE_LEN],
    filled: usize,
    /// This side's version was sent; the connection stays open until the peer, having read it,
    /// closes.
    answered: bool,
}

/// The result of reading from a pending connection.
enum Received {
    /// More bytes are expected.
    Incomplete,
    /// It is no link, or was closed.
    NoLink,
    /// It is a link.
    Preamble(Preamble),
}

impl Pending {
    fn new(link: Link) -> Self {
        let until = Instant::now() + INTRODUCTION;
        Pending { link, until, bytes: [0; PREAMBLE_LEN], filled: 0, answered: false }
    }

    /// Reads the bytes that are here, and none beyond the preamble.
    fn receive(&mut self) -> Received {
        let mut forgotten = [0; 4096];
        let room = if self.answered { &mut forgotten[..] } else { &mut self.bytes[self.filled..] };
        match self.link.read_now(room) {
            Ok(Some(1..)) if self.answered => Received::Incomplete,
            Ok(Some(taken @ 1..)) => {
                self.filled += taken;
                if self.filled == PREAMBLE_LEN { self.introduced() } else { Received::Incomplete }
            }
            Ok(None) => Received::Incomplete,
            Ok(Some(_)) | Err(_) => {
                tracing::debug!("a connection left without an introduction");
                Received::NoLink
            }
        }
    }

    fn introduced(&mut self) -> Received {
        match Preamble::decode(&self.bytes) {
            Ok(preamble) => Received::Preamble(preamble),
            Err(error) => {
                tracing::warn!(%error, "a connection was refused");
                if matches!(error, WireError::Version { .. }) { self.tell_version() } else { Received::NoLink }
            }
        }
    }

    /// Sends our own preamble, which shows our version. The peer is sure to read it only if this
    /// side reads on until the peer closes.
    fn tell_version(&mut self) -> Received {
        let ours = Preamble { migration_id: 0, connection: 0, link: LinkRole::Control };
        // A socket that has sent nothing yet has room for it.
        if !self.link.write_now(&ours.encode()).is_ok_and(|sent| sent == PREAMBLE_LEN) {
            return Received::NoLink;
        }
        self.link.finish_sending();
        self.answered = true;
        Received::Incomplete
    }
}

#[cfg(test)]
mod tests;
