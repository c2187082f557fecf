//! A listening socket, TCP or Unix, for an incoming migration.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ferry_devices::fault::{FaultControl, Place};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use crate::connect::Tried;
use crate::endpoint::Endpoint;
use crate::link::Link;
use crate::lookup::{self, Resolver, look_up};
use crate::unix_socket::{self, FileId, ListenError, file_id};
use crate::until::Until;

/// Time limit for the look-up of a name to listen on.
const LOOKUP: Duration = Duration::from_secs(5);

/// An address could not be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The name could not be resolved.
    #[error("{0}")]
    Name(#[source] io::Error),
    /// The error of each address of a TCP host.
    #[error("{0}; choose another address, or end what holds this one")]
    Tcp(#[source] Tried),
    /// A Unix socket.
    #[error(transparent)]
    Unix(#[from] ListenError),
    /// The host gave no thread or descriptor.
    #[error("{0}; end what uses up the host's threads or descriptors, or raise their limit")]
    Host(#[source] io::Error),
}

impl BindError {
    /// Whether an address is taken.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        match self {
            BindError::Tcp(tried) => tried.0.iter().any(|(_, error)| error.kind() == io::ErrorKind::AddrInUse),
            BindError::Unix(error) => matches!(error, ListenError::InUse),
            BindError::Name(_) | BindError::Host(_) => false,
        }
    }
}

/// Where to listen, with names resolved.
#[derive(Debug)]
pub enum Wanted {
    /// Any of these.
    Tcp(Vec<SocketAddr>),
    /// This path.
    Unix(PathBuf),
}

impl Wanted {
    /// Looks up an address to listen on.
    ///
    /// # Errors
    /// When its name cannot be resolved.
    pub fn find(at: &Endpoint) -> Result<Self, BindError> {
        Self::find_with(at, &lookup::SYSTEM)
    }

    fn find_with(at: &Endpoint, resolver: &'static Resolver) -> Result<Self, BindError> {
        match at {
            Endpoint::Unix(path) => Ok(Wanted::Unix(path.clone())),
            Endpoint::Tcp { host, port } => {
                let found = look_up(resolver, host, *port, Until::at(Instant::now() + LOOKUP));
                found.map(Wanted::Tcp).map_err(BindError::Name)
            }
        }
    }
}

/// The address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// With the port that was chosen.
    Tcp(SocketAddr),
    /// A path, and the file that was made there.
    Unix(PathBuf, FileId),
}

impl Bound {
    /// As an address to connect to.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        match self {
            Bound::Tcp(address) => Endpoint::from(*address),
            Bound::Unix(path, _) => Endpoint::Unix(path.clone()),
        }
    }

    /// Whether a source that connects to `wanted` reaches this listener. A path is compared by its
    /// file: it may be written in several ways, and a file that was removed lets no connection in.
    #[must_use]
    pub fn is_at(&self, wanted: &Wanted) -> bool {
        match (self, wanted) {
            (Bound::Tcp(bound), Wanted::Tcp(addresses)) => addresses.contains(bound),
            (Bound::Unix(_, file), Wanted::Unix(path)) => file_id(path) == Some(*file),
            _ => false,
        }
    }

    /// Whether this may be why `wanted` cannot be listened on: the ports are equal, and one address
    /// may include the other.
    #[must_use]
    pub fn is_in_the_way_of(&self, wanted: &Wanted) -> bool {
        match (self, wanted) {
            (Bound::Tcp(bound), Wanted::Tcp(addresses)) => addresses.iter().any(|a| a.port() == bound.port()),
            _ => false,
        }
    }

    /// The same address, to listen on again.
    #[must_use]
    pub fn again(&self) -> Wanted {
        match self {
            Bound::Tcp(address) => Wanted::Tcp(vec![*address]),
            Bound::Unix(path, _) => Wanted::Unix(path.clone()),
        }
    }
}

/// A listening socket; dropping it removes a Unix socket's file.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    bound: Bound,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(unix_socket::Listening),
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        }
    }
}

impl Listener {
    /// Listens at `at`.
    ///
    /// # Errors
    /// The error of each address.
    pub fn bind(at: &Endpoint) -> Result<Self, BindError> {
        Self::at(&Wanted::find(at)?)
    }

    /// Listens at the first of the addresses that is available.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn at(wanted: &Wanted) -> Result<Self, BindError> {
        let listener = match wanted {
            Wanted::Unix(path) => {
                let socket = unix_socket::listen(path)?;
                Listener { bound: Bound::Unix(path.clone(), socket.id()), socket: Socket::Unix(socket) }
            }
            Wanted::Tcp(addresses) => {
                let (socket, bound) = bind_tcp(addresses)?;
                Listener { bound: Bound::Tcp(bound), socket: Socket::Tcp(socket) }
            }
        };
        // If a connection is gone before it is accepted, accept(2) must not block.
        rustix::io::ioctl_fionbio(&listener, true).map_err(|error| BindError::Host(error.into()))?;
        Ok(listener)
    }

    /// Where it listens.
    #[must_use]
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Accepts the next waiting connection; `None` if there is none. `faults` may inject a failure.
    ///
    /// # Errors
    /// When the socket itself fails, or the host is short of something. A connection that is gone
    /// before it is accepted is no error.
    pub fn take(&self, faults: &FaultControl) -> io::Result<Option<Link>> {
        faults.before(Place::HostAccept)?;
        loop {
            match rustix::net::accept_with(self, SocketFlags::CLOEXEC) {
                Ok(fd) => match Link::new(fd) {
                    Ok(stream) => return Ok(Some(stream)),
                    Err(error) => tracing::info!(%error, "a connection ended as it was taken"),
                },
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) if is_of_the_connection(error) => {
                    tracing::info!(%error, "a connection ended before it was taken");
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for the next connection.
    #[cfg(test)]
    pub fn accept(&self, faults: &FaultControl) -> Link {
        let until = Until::at(Instant::now() + Duration::from_secs(60));
        until.wait(&[self.as_fd()], rustix::event::PollFlags::IN, until.deadline).unwrap();
        self.take(faults).unwrap().expect("a connection comes")
    }
}

/// Whether an error of accept(2) belongs to the connection that it was about to return.
fn is_of_the_connection(error: Errno) -> bool {
    matches!(
        error,
        Errno::CONNABORTED
            | Errno::PERM
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::OPNOTSUPP
            | Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::NONET
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::TIMEDOUT
    )
}

fn bind_tcp(addresses: &[SocketAddr]) -> Result<(TcpListener, SocketAddr), BindError> {
    let mut tried = Vec::new();
    for address in addresses {
        let bound = TcpListener::bind(address).and_then(|listener| {
            let bound = listener.local_addr()?;
            Ok((listener, bound))
        });
        match bound {
            Ok(bound) => return Ok(bound),
            Err(error) => tried.push((*address, error)),
        }
    }
    Err(BindError::Tcp(Tried(tried)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(text: &str) -> Wanted {
        Wanted::Tcp(vec![text.parse().unwrap()])
    }

    #[test]
    fn a_name_may_stand_for_several_addresses() {
        static BOTH: Resolver = Resolver::new(|_, port| {
            // The first is no address of this host (RFC 5737).
            Ok(vec![SocketAddr::from(([192, 0, 2, 1], port)), SocketAddr::from(([127, 0, 0, 1], port))])
        });
        let at = |port| Endpoint::Tcp { host: "guest.example".to_owned(), port };
        let listener = Listener::at(&Wanted::find_with(&at(0), &BOTH).unwrap()).unwrap();
        let Bound::Tcp(bound) = *listener.bound() else { panic!("{listener:?}") };
        assert!(bound.ip().is_loopback() && bound.port() != 0);
        let again = Wanted::find_with(&at(bound.port()), &BOTH).unwrap();
        assert!(listener.bound().is_at(&again));
        let error = Listener::at(&again).unwrap_err();
        assert!(error.is_in_use() && listener.bound().is_in_the_way_of(&again));
        let text = error.to_string();
        assert!(text.contains("192.0.2.1") && text.contains(&bound.to_string()), "{text}");
    }

    #[test]
    fn a_listener_is_where_it_is_and_nowhere_else() {
        let bound = Bound::Tcp("127.0.0.1:7".parse().unwrap());
        assert!(bound.is_at(&tcp("127.0.0.1:7")));
        for other in ["127.0.0.2:7", "127.0.0.1:8", "0.0.0.0:7", "[::1]:7", "127.0.0.1:0"] {
            assert!(!bound.is_at(&tcp(other)), "{other}");
        }
        assert!(bound.is_in_the_way_of(&tcp("0.0.0.0:7")) && !bound.is_in_the_way_of(&tcp("127.0.0.1:8")));
    }

    #[test]
    fn a_unix_socket_is_known_by_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Listener::bind(&Endpoint::Unix(path.clone())).unwrap();
        let detour = Wanted::Unix(folder.path().join(".").join("socket"));
        assert!(listener.bound().is_at(&detour));
        std::fs::remove_file(&path).unwrap();
        assert!(!listener.bound().is_at(&detour), "nothing leads to it any more");
        let second = Listener::bind(&Endpoint::Unix(path.clone())).unwrap();
        drop(listener);
        assert!(path.exists(), "the file of another");
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn taking_waits_for_nothing() {
        let faults = FaultControl::new(ferry_devices::fault::Direction::Incoming);
        let listener = Listener::bind(&"tcp:127.0.0.1:0".parse().unwrap()).unwrap();
        assert!(listener.take(&faults).unwrap().is_none());
    }
}
