//! The QMP socket: listens, gives every client a thread, spreads events, and cleans up.
//!
//! ```text
//!   acceptor ──► connection (one thread each, at most MAX_CLIENTS) ──► session ──► commands ──► target
//!                     ▲ outbox
//!   events  ──► spreader
//! ```
//!
//! `ferry run --qmp unix:PATH` starts one; [`Server::finish`] sends what is left and removes the
//! socket file.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ferry_link::unix_socket::{self, ListenError, Listening};
use ferry_observe::events::{Event, Events, Subscription};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::connection;
use super::outbox::{Outbox, notify};
use super::session::{Order, Session, Shared};
use super::target::Target;
use super::wire::{self, CommandError};

/// Clients at a time; a further one gets an error and is closed.
pub(crate) const MAX_CLIENTS: usize = 16;
/// How long [`Server::finish`] waits for clients to read the rest.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long accepting pauses after an error such as "too many open files".
const ACCEPT_REST: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The socket could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another process listens there.
    #[error("QMP socket {}: another process is listening there; give each process a path of its own", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The path is taken by something that is no socket.
    #[error("QMP socket {}: the path exists and is no socket; remove it or give another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("QMP socket {}: cannot {what}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// A listening QMP server.
#[derive(Debug)]
pub struct Server {
    events: Arc<Events>,
    clients: Arc<Clients>,
    stop: Arc<OwnedFd>,
    acceptor: Option<JoinHandle<()>>,
    spreader: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `path`; commands act on `target`, clients receive `events`.
    ///
    /// A socket file on which no process listens is replaced.
    pub fn start(path: &Path, target: Arc<dyn Target>, events: &Arc<Events>) -> Result<Self, ServerError> {
        let io = |what| move |source| ServerError::Io { path: path.to_owned(), what, source };
        let listening = listen(path)?;
        listening.socket().set_nonblocking(true).map_err(io("make it non-blocking"))?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| io("create an eventfd")(errno.into()))?;
        let stop = Arc::new(stop);
        let (hearing, heard_before) = events.subscribe_counted();
        let order = Order::new(events.clone(), heard_before);
        let shared = Arc::new(Shared { order, ..Shared::default() });
        let clients = Arc::new(Clients::default());

        let hearing = (hearing, clients.clone(), shared.clone());
        let spreader = thread::Builder::new()
            .name("qmp-events".into())
            .spawn(move || spread(&hearing.0, &hearing.1, &hearing.2))
            .map_err(io("start a thread"))?;
        let accepting = Acceptor { listening, stop: stop.clone(), clients: clients.clone(), target, shared };
        let acceptor = thread::Builder::new()
            .name("qmp-accept".into())
            .spawn(move || accepting.run())
            .map_err(io("start a thread"))?;
        let (acceptor, spreader) = (Some(acceptor), Some(spreader));
        Ok(Server { events: events.clone(), clients, stop, acceptor, spreader })
    }

    /// How many clients are connected.
    #[cfg(test)]
    pub(crate) fn client_count(&self) -> usize {
        self.clients.lock().len()
    }

    /// Serves until no client is connected, for at most `within`.
    pub fn linger(&self, within: Duration) {
        let outboxes = self.clients.lock();
        drop(self.clients.one_left.wait_timeout_while(outboxes, within, |left| !left.is_empty()));
    }

    /// Sends every client the rest of its data, closes all connections and removes the socket file.
    /// Takes two seconds at most; ends the subscriptions of all of `events`.
    pub fn finish(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The socket and its file are removed first: no client may connect to a process that no
        // longer serves.
        notify(&self.stop);
        self.acceptor.take().map(JoinHandle::join);
        // The spreader ends when it has spread all published events.
        self.events.close();
        self.spreader.take().map(JoinHandle::join);
        self.clients.close_all(FINISH_TIMEOUT);
    }
}

/// The outboxes of the clients that are connected.
#[derive(Debug, Default)]
struct Clients {
    outboxes: Mutex<Vec<Arc<Outbox>>>,
    one_left: Condvar,
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Outbox>>> {
        self.outboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close_all(&self, timeout: Duration) {
        let outboxes = self.lock();
        outboxes.iter().for_each(|outbox| outbox.close());
        drop(self.one_left.wait_timeout_while(outboxes, timeout, |left| !left.is_empty()));
    }
}

/// A client's place among [`MAX_CLIENTS`], released however its thread ends.
struct Place {
    clients: Arc<Clients>,
    outbox: Arc<Outbox>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clients.lock().retain(|outbox| !Arc::ptr_eq(outbox, &self.outbox));
        self.clients.one_left.notify_all();
    }
}

struct Acceptor {
    listening: Listening,
    stop: Arc<OwnedFd>,
    clients: Arc<Clients>,
    target: Arc<dyn Target>,
    shared: Arc<Shared>,
}

impl Acceptor {
    fn run(self) {
        let mut rest = false;
        loop {
            let listener = if rest { PollFlags::empty() } else { PollFlags::IN };
            let mut fds = [PollFd::new(&self.listening, listener), PollFd::new(&*self.stop, PollFlags::IN)];
            let waited = poll(&mut fds, rest.then_some(&ACCEPT_REST));
            if waited.is_ok() && !fds[1].revents().is_empty() {
                return;
            }
            rest = match self.listening.socket().accept() {
                Ok((stream, _)) => self.welcome(stream).inspect_err(log_client).is_err(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a QMP client");
                    true
                }
            };
        }
    }

    fn welcome(&self, mut stream: UnixStream) -> io::Result<()> {
        let outbox = Arc::new(Outbox::new()?);
        let mut clients = self.clients.lock();
        if clients.len() == MAX_CLIENTS {
            drop(clients);
            let error = format!("{MAX_CLIENTS} clients are connected already; close one and connect again");
            stream.set_nonblocking(true)?;
            let _ = stream.write(&wire::reply(None, Err(CommandError::generic(error))));
            return Ok(());
        }
        clients.push(outbox.clone());
        drop(clients);
        let place = Place { clients: self.clients.clone(), outbox };
        let session = Session::new(self.target.clone(), self.shared.clone());
        thread::Builder::new().name("qmp-client".into()).spawn(move || {
            if let Err(error) = connection::serve(&stream, session, &place.outbox) {
                log_client(&error);
            }
        })?;
        Ok(())
    }
}

fn log_client(error: &io::Error) {
    tracing::debug!(%error, "a QMP client's connection ended");
}

/// Sends events to the clients until the publisher closes.
fn spread(events: &Subscription, clients: &Clients, shared: &Shared) {
    while let Some(stamped) = events.next() {
        let about_migration = matches!(stamped.event, Event::Migration(_) | Event::MigrationPass(_));
        if !about_migration || shared.migration_events.load(Ordering::Relaxed) {
            let line = wire::event(&stamped);
            clients.lock().iter().for_each(|outbox| outbox.event(&line));
        }
        // Events that were lost before this one count as spread: no reply may wait for them.
        shared.order.spread(events.taken());
    }
}

fn listen(path: &Path) -> Result<Listening, ServerError> {
    unix_socket::listen(path).map_err(|error| match error {
        ListenError::InUse => ServerError::InUse { path: path.to_owned() },
        ListenError::NotASocket => ServerError::NotASocket { path: path.to_owned() },
        ListenError::Io { what, source } => ServerError::Io { path: path.to_owned(), what, source },
    })
}
