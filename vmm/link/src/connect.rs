//! Connecting to a destination: all of its addresses are tried within one deadline, and a cancel
//! ends all of it.
//!
//! Connections to the addresses of a name are begun one after another, a short time apart, and the
//! first that succeeds is used (RFC 8305): an address that drops packets costs a quarter of a
//! second, not the whole deadline.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use vmm_sys_util::eventfd::EventFd;

use crate::endpoint::Endpoint;
use crate::link::Link;
use crate::lookup::{self, Resolver, look_up};
use crate::unix_socket::Address;
use crate::until::Until;

/// Time that one address has to itself, before the next is tried beside it.
const STAGGER: Duration = Duration::from_millis(250);
/// Most addresses of one name that are tried.
const MOST_ADDRESSES: usize = 16;
/// Pause before the next try at a Unix socket whose queue is full.
const FULL: Duration = Duration::from_millis(20);

impl Link {
    /// Connects, until `deadline` or until `cancel` is signalled, the look-up of a name included.
    ///
    /// # Errors
    /// The error of each address; `TimedOut` at the deadline; `Interrupted` when cancelled.
    pub fn connect(to: &Endpoint, deadline: Instant, cancel: &EventFd) -> io::Result<Self> {
        connect(to, &lookup::SYSTEM, Until { deadline, cancel: Some(cancel) })
    }
}

fn connect(to: &Endpoint, resolver: &'static Resolver, until: Until<'_>) -> io::Result<Link> {
    match to {
        Endpoint::Unix(path) => connect_unix(path, until),
        Endpoint::Tcp { host, port } => {
            let addresses = in_turn(look_up(resolver, host, *port, until)?);
            let is_literal = lookup::literal(host, *port).is_some();
            Race::new(addresses, until).run()?.map_err(|mut tried| match tried.0.pop() {
                // The caller's message has the address already.
                Some((_, error)) if is_literal => error,
                last => {
                    tried.0.extend(last);
                    tried.into()
                }
            })
        }
    }
}

fn connect_unix(path: &Path, until: Until<'_>) -> io::Result<Link> {
    let address = Address::of(path)?;
    loop {
        let fd = socket(AddressFamily::UNIX)?;
        match rustix::net::connect(&fd, address.get()) {
            Ok(()) => return Link::new(fd),
            Err(Errno::AGAIN) if until.pause(FULL)? => {}
            Err(Errno::AGAIN) => return Err(io::Error::new(io::ErrorKind::TimedOut, "too many wait there already")),
            Err(error) => return Err(error.into()),
        }
    }
}

fn socket(family: AddressFamily) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(family, SocketType::STREAM, flags, None)
}

/// The resolver's order, with the families taking turns: when one of them leads nowhere, the other
/// is next.
fn in_turn(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (one, other): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == first_is_v4);
    let (mut this, mut next) = (one, other);
    let mut out = VecDeque::new();
    while let Some(address) = this.pop_front() {
        if !out.contains(&address) {
            out.push_back(address);
        }
        if !next.is_empty() {
            std::mem::swap(&mut this, &mut next);
        }
    }
    out.truncate(MOST_ADDRESSES);
    out
}

/// The error of each address.
#[derive(Debug)]
pub struct Tried(pub Vec<(SocketAddr, io::Error)>);

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (address, error)) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{address}: {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Tried {}

impl From<Tried> for io::Error {
    fn from(tried: Tried) -> Self {
        let kind = tried.0.last().map_or(io::ErrorKind::NotFound, |(_, error)| error.kind());
        io::Error::new(kind, tried)
    }
}

/// Several addresses, of which the first that connects wins.
struct Race<'a> {
    until: Until<'a>,
    stagger: Duration,
    waiting: VecDeque<SocketAddr>,
    begun: Vec<(SocketAddr, OwnedFd)>,
    failed: Vec<(SocketAddr, io::Error)>,
}

impl<'a> Race<'a> {
    fn new(waiting: VecDeque<SocketAddr>, until: Until<'a>) -> Self {
        // Each address is tried even if there is little time.
        let left = until.deadline.saturating_duration_since(Instant::now());
        let stagger = STAGGER.min(left / (waiting.len() as u32 + 1));
        Race { until, stagger, waiting, begun: Vec::new(), failed: Vec::new() }
    }

    /// The outer error: the wait was cancelled, or failed.
    fn run(mut self) -> io::Result<Result<Link, Tried>> {
        let mut next = Instant::now();
        loop {
            if (self.begun.is_empty() || Instant::now() >= next)
                && let Some(address) = self.waiting.pop_front()
            {
                next = Instant::now() + self.stagger;
                match begin(address) {
                    Ok((fd, true)) => return Link::new(fd).map(Ok),
                    Ok((fd, false)) => self.begun.push((address, fd)),
                    Err(error) => self.failed.push((address, error)),
                }
            } else if self.begun.is_empty() {
                return Ok(Err(Tried(self.failed)));
            }
            let wake = if self.waiting.is_empty() { self.until.deadline } else { next };
            let fds: Vec<_> = self.begun.iter().map(|(_, fd)| fd.as_fd()).collect();
            if fds.is_empty() {
                continue;
            }
            match self.until.wait(&fds, PollFlags::OUT, wake)? {
                Some(ready) => {
                    let (address, fd) = self.begun.swap_remove(ready);
                    match sockopt::socket_error(&fd).and_then(|answer| answer) {
                        Ok(()) => return Link::new(fd).map(Ok),
                        Err(error) => self.failed.push((address, error.into())),
                    }
                    // The next address is tried at once.
                    next = Instant::now();
                }
                None if self.until.has_passed() => return Ok(Err(self.too_late())),
                None => {}
            }
        }
    }

    fn too_late(mut self) -> Tried {
        let late = |address| (address, io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
        let unanswered = self.begun.iter().map(|(address, _)| *address).chain(self.waiting.iter().copied());
        self.failed.extend(unanswered.map(late));
        Tried(self.failed)
    }
}

/// Begins to connect; true if it is connected already.
fn begin(address: SocketAddr) -> io::Result<(OwnedFd, bool)> {
    let fd = socket(if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 })?;
    match rustix::net::connect(&fd, &address) {
        Ok(()) => Ok((fd, true)),
        Err(Errno::INPROGRESS) => Ok((fd, false)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn soon() -> Until<'static> {
        Until::at(Instant::now() + PATIENCE)
    }

    fn named() -> Endpoint {
        Endpoint::Tcp { host: "guest.example".to_owned(), port: 4444 }
    }

    /// An address that answers nothing, as one behind a firewall: its queue is full.
    struct Hole(TcpListener, #[expect(dead_code, reason = "they fill the queue")] Vec<TcpStream>);

    impl Hole {
        fn new(at: &str) -> Self {
            let listener = TcpListener::bind(at).unwrap();
            rustix::net::listen(&listener, 0).unwrap();
            let address = listener.local_addr().unwrap();
            let full = || TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok();
            let held = std::iter::from_fn(full).collect();
            Hole(listener, held)
        }

        fn address(&self) -> SocketAddr {
            self.0.local_addr().unwrap()
        }
    }

    fn race(addresses: &[SocketAddr], until: Until<'_>) -> io::Result<Link> {
        Race::new(addresses.iter().copied().collect(), until).run()?.map_err(io::Error::from)
    }

    #[test]
    fn an_address_that_swallows_packets_does_not_eat_the_deadline() {
        let (hole, listener) = (Hole::new("127.0.0.1:0"), TcpListener::bind("127.0.0.1:0").unwrap());
        let good = listener.local_addr().unwrap();
        let stream = race(&[hole.address(), hole.address(), good], soon()).unwrap();
        assert_eq!(stream.reached(&named()), Endpoint::from(good));
    }

    #[test]
    fn an_address_that_refuses_passes_its_turn_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let good = listener.local_addr().unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let stream = race(&[gone, gone, good], soon()).unwrap();
        assert_eq!(stream.reached(&named()), Endpoint::from(good));
    }

    #[test]
    fn every_address_is_named_with_its_answer() {
        let hole = Hole::new("127.0.0.1:0");
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = race(&[hole.address(), gone], Until::at(Instant::now() + Duration::from_millis(100))).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("{gone}: Connection refused")), "{text}");
        assert!(text.contains(&format!("{}: no answer in time", hole.address())), "{text}");
    }

    #[test]
    fn a_cancel_ends_a_connect_that_gets_no_answer() {
        let hole = Hole::new("127.0.0.1:0");
        let cancel = EventFd::new(0).unwrap();
        let canceller = std::thread::spawn({
            let cancel = cancel.try_clone().unwrap();
            move || cancel.write(1).unwrap()
        });
        let until = Until { deadline: Instant::now() + PATIENCE, cancel: Some(&cancel) };
        assert_eq!(race(&[hole.address()], until).unwrap_err().kind(), io::ErrorKind::Interrupted);
        canceller.join().unwrap();
    }

    #[test]
    fn a_dead_resolver_does_not_hold_up_a_cancel() {
        static DEAD: Resolver = Resolver::new(|_, _| {
            std::thread::sleep(PATIENCE);
            Ok(vec![])
        });
        let cancel = EventFd::new(0).unwrap();
        cancel.write(1).unwrap();
        let until = Until { deadline: Instant::now() + PATIENCE, cancel: Some(&cancel) };
        assert_eq!(connect(&named(), &DEAD, until).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn families_take_turns() {
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (a6, b6, c6) = (parse("[::1]:1"), parse("[::2]:1"), parse("[::3]:1"));
        let (a4, b4) = (parse("127.0.0.1:1"), parse("127.0.0.2:1"));
        assert_eq!(in_turn(vec![a6, b6, a6, c6, a4, b4]), [a6, a4, b6, b4, c6]);
        assert_eq!(in_turn(vec![a4, a6]), [a4, a6]);
    }

    #[test]
    fn a_unix_socket_with_a_full_queue_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _waits = UnixStream::connect(&path).unwrap();
        let late = Until::at(Instant::now() + Duration::from_millis(50));
        assert_eq!(connect_unix(&path, late).unwrap_err().kind(), io::ErrorKind::TimedOut);
        let accepting = std::thread::spawn(move || (listener.accept().unwrap(), listener.accept().unwrap()));
        connect_unix(&path, soon()).unwrap();
        accepting.join().unwrap();
    }
}
