//! Looks up the addresses of a TCP host, within a deadline.
//!
//! The system's resolver takes neither a deadline nor a cancel: it is called on a thread of its
//! own, which is not joined after a timeout or a cancel, and ends when the resolver returns.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;

use rustix::event::PollFlags;
use vmm_sys_util::eventfd::EventFd;

use crate::until::{Until, eventfd};

/// Most look-ups that may hang at a time.
const MOST_LOOKUPS: usize = 8;

/// A resolver, and how many look-ups it has not answered.
#[derive(Debug)]
pub(crate) struct Resolver {
    call: fn(&str, u16) -> io::Result<Vec<SocketAddr>>,
    hanging: AtomicUsize,
}

impl Resolver {
    /// A resolver whose `call` returns the addresses of a host, each with the port.
    #[must_use]
    pub(crate) const fn new(call: fn(&str, u16) -> io::Result<Vec<SocketAddr>>) -> Self {
        Resolver { call, hanging: AtomicUsize::new(0) }
    }
}

/// The system's resolver.
pub(crate) static SYSTEM: Resolver = Resolver::new(|host, port| Ok((host, port).to_socket_addrs()?.collect()));

/// The address of a host written in numbers, with the scope of an IPv6 address if it has one.
#[must_use]
pub(crate) fn literal(host: &str, port: u16) -> Option<SocketAddr> {
    format!("{host}:{port}").parse().or_else(|_| format!("[{host}]:{port}").parse()).ok()
}

/// The addresses of a host; one written in numbers is not looked up.
///
/// # Errors
/// The resolver's error; `TimedOut` when it did not answer; `Interrupted` when cancelled.
pub(crate) fn look_up(
    resolver: &'static Resolver,
    host: &str,
    port: u16,
    until: Until<'_>,
) -> io::Result<Vec<SocketAddr>> {
    if let Some(address) = literal(host, port) {
        return Ok(vec![address]);
    }
    let found = ask(resolver, host, port, until)
        .map_err(|error| io::Error::new(error.kind(), LookupError { host: host.to_owned(), source: error }))?;
    match found.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::NotFound, format!("no address is known for '{host}'"))),
        false => Ok(found),
    }
}

/// A name could not be resolved.
#[derive(Debug)]
struct LookupError {
    host: String,
    source: io::Error,
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "looking up '{}': {}", self.host, self.source)
    }
}

impl std::error::Error for LookupError {}

fn ask(resolver: &'static Resolver, host: &str, port: u16, until: Until<'_>) -> io::Result<Vec<SocketAddr>> {
    let place = Place::take(&resolver.hanging)?;
    let done = Arc::new(EventFd::new(libc::EFD_CLOEXEC)?);
    let (answer, answered) = channel();
    let (name, signal) = (host.to_owned(), done.clone());
    std::thread::Builder::new().name("ferry-lookup".to_owned()).spawn(move || {
        let found = (resolver.call)(&name, port);
        drop(place);
        // The caller may have stopped waiting.
        let _ = answer.send(found);
        // An eventfd takes 2^64 signals before a write could fail.
        let _ = signal.write(1);
    })?;
    if until.wait(&[eventfd(&done)], PollFlags::IN, until.deadline)?.is_none() {
        let text = "the resolver has not answered in time; see to it, or give an address in numbers";
        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
    }
    answered.recv().map_err(|_| io::Error::other("the resolver's thread ended unexpectedly; see the log"))?
}

/// A look-up's place among [`MOST_LOOKUPS`].
struct Place(&'static AtomicUsize);

impl Place {
    fn take(hanging: &'static AtomicUsize) -> io::Result<Self> {
        let place = Place(hanging);
        if hanging.fetch_add(1, SeqCst) < MOST_LOOKUPS {
            return Ok(place);
        }
        let text = format!("{MOST_LOOKUPS} look-ups hang already: see to the resolver, or give an address in numbers");
        Err(io::Error::other(text))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::endpoint::Endpoint;

    /// A resolver that is dead.
    fn hangs(_: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        loop {
            std::thread::park();
        }
    }

    #[test]
    fn numbers_are_not_looked_up() {
        static NONE: Resolver = Resolver::new(|_, _| panic!("looked up"));
        let until = Until::at(Instant::now());
        for (host, address) in [("127.0.0.1", "127.0.0.1:7"), ("::1", "[::1]:7"), ("fe80::1%3", "[fe80::1%3]:7")] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(look_up(&NONE, host, 7, until).unwrap(), [address]);
            // The scope of a link-local address is shown as the interface's name.
            let expected = Endpoint::Tcp { host: host.to_owned(), port: 7 };
            assert!(host.contains('%') || Endpoint::from(address) == expected, "{address}");
        }
    }

    #[test]
    fn a_dead_resolver_is_awaited_until_the_deadline_or_a_cancel() {
        static DEAD: Resolver = Resolver::new(hangs);
        let error = look_up(&DEAD, "host", 7, Until::at(Instant::now() + Duration::from_millis(20))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("'host'") && error.to_string().contains("resolver"), "{error}");
        let cancel = EventFd::new(0).unwrap();
        cancel.write(1).unwrap();
        let far = Instant::now() + Duration::from_secs(3600);
        let error = look_up(&DEAD, "host", 7, Until { deadline: far, cancel: Some(&cancel) }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn look_ups_that_hang_are_few() {
        static DEAD: Resolver = Resolver::new(hangs);
        let ask = || look_up(&DEAD, "host", 7, Until::at(Instant::now())).unwrap_err();
        for _ in 0..MOST_LOOKUPS {
            assert_eq!(ask().kind(), io::ErrorKind::TimedOut);
        }
        let error = ask().to_string();
        assert!(error.contains("look-ups hang"), "{error}");
    }

    #[test]
    fn a_look_up_that_is_answered_leaves_its_place() {
        static GOOD: Resolver = Resolver::new(|_, port| Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]));
        let until = Until::at(Instant::now() + Duration::from_secs(3600));
        for _ in 0..MOST_LOOKUPS * 4 {
            assert_eq!(look_up(&GOOD, "host", 7, until).unwrap(), [SocketAddr::from(([127, 0, 0, 1], 7))]);
        }
    }

    #[test]
    fn a_name_without_an_address_is_named() {
        static UNKNOWN: Resolver = Resolver::new(|_, _| Err(io::Error::other("name or service not known")));
        static EMPTY: Resolver = Resolver::new(|_, _| Ok(vec![]));
        let until = Until::at(Instant::now() + Duration::from_secs(3600));
        for (resolver, text) in [(&UNKNOWN, "not known"), (&EMPTY, "no address")] {
            let error = look_up(resolver, "guest.example", 7, until).unwrap_err().to_string();
            assert!(error.contains("guest.example") && error.contains(text), "{error}");
        }
    }
}
