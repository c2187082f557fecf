//! Drives a [`Destination`](ferry_migration::destination::Destination) with real links, the real machine and real time.
//!
//! [`Incoming::listen`] spawns the driver's thread. It waits for a source as long as it takes, lives through one migration, and
//! ends with the guest here or with the reason why not; by then its listener, workers and links are gone.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use ferry_migration::destination::{Input, Outcome};
use ferry_migration::message::ToDestination;
use ferry_migration::wire::preamble::Preamble;
use ferry_migration::{Parameters, Status};

use crate::endpoint::Endpoint;
use crate::machine::Machine;
use crate::runtime::destination::driver::{Driver, NOT_PAUSED};
use crate::runtime::destination::missing::Missing;
use crate::runtime::progress::Progress;
use crate::runtime::record::OwnRecord;
use crate::runtime::stream::{Listener, Stream};
use crate::runtime::{HELD_UP, MigrationError, ask_driver};

mod arrivals;
mod driver;
mod marks;
pub mod missing;
pub mod pages;
mod populate;
mod worker;

/// What reaches the driver.
#[derive(Debug)]
pub enum Event {
    /// For the state machine.
    Input(Input),
    /// The ownership record has answered the call of this number.
    Record(u32, Input),
    /// From the connection of this number.
    OfLink(u32, LinkEvent),
    /// Postcopy: the remaining pages are armed, and this thread hears who waits for one.
    Armed(Arc<Missing>, JoinHandle<()>),
    /// A link of some migration is here.
    Arrived(Preamble, Stream),
    /// Nothing more can arrive.
    ListenFailed(std::io::Error),
    /// The operator commands; the answer says whether it is accepted.
    Command(Command, Sender<Result<(), &'static str>>),
}

/// What comes of a connection; a connection that has been replaced is not heard any more.
#[derive(Debug)]
pub enum LinkEvent {
    /// The source said its first word on this connection, with this attachment, and with these descriptors.
    FirstMessage(ToDestination, Vec<u8>, Vec<OwnedFd>),
    /// The source said something, with this attachment.
    Message(ToDestination, Vec<u8>),
    /// A page link was lost; the text says which and how.
    PagesLost(String),
    /// The control link has ended; nothing more comes from its reader.
    Lost(String),
    /// The control link took no message, or a link could not be served.
    SendFailed(String),
}

/// What an operator may want of an incoming migration.
#[derive(Debug)]
pub enum Command {
    /// Break the link of a postcopy.
    Pause,
    /// Wait for the source of a paused postcopy here.
    Recover(Listener),
}

/// An incoming migration that is awaited, goes on, or has ended.
#[derive(Debug)]
pub struct Incoming {
    events: Sender<Event>,
    thread: Mutex<Option<JoinHandle<Outcome>>>,
    endpoint: Mutex<Endpoint>,
    /// What is known about it.
    pub progress: Arc<Progress>,
}

impl Incoming {
    /// Waits for a source at `listener`.
    ///
    /// # Errors
    /// When a thread or a descriptor cannot be had.
    pub fn listen(
        machine: Arc<Machine>,
        listener: Listener,
        parameters: &Parameters,
        progress: Arc<Progress>,
        record: Option<Arc<OwnRecord>>,
    ) -> std::io::Result<Self> {
        let endpoint = Mutex::new(listener.endpoint().clone());
        let (events, inbox) = channel();
        let faults = machine.faults().clone();
        let driver = Driver::new(machine, listener, parameters, progress.clone(), events.clone(), record)?;
        let thread = crate::runtime::spawn(&faults, "ferry-dest", move || driver.run(&inbox))?;
        Ok(Incoming { events, thread: Mutex::new(Some(thread)), endpoint, progress })
    }

    /// Where it listens, with the port that was chosen.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        lock(&self.endpoint).clone()
    }

    /// Whether it is awaited or goes on.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.progress.status().is_none_or(Status::is_active)
    }

    /// Whether a guest runs here while pages are missing, or is about to.
    #[must_use]
    pub fn lacks_pages(&self) -> bool {
        use Status::{PostcopyActive, PostcopyPaused, PostcopyRecover, PostcopySetup};
        let status = self.progress.status();
        status.is_some_and(|s| matches!(s, PostcopySetup | PostcopyActive | PostcopyPaused | PostcopyRecover))
    }

    /// Breaks the link of a postcopy.
    ///
    /// # Errors
    /// When no postcopy is active.
    pub fn pause(&self) -> Result<(), &'static str> {
        self.command(Command::Pause)
    }

    /// Waits at `at` for the source of a paused postcopy; where it was awaited before it is no more. Returns the address with
    /// the port that was chosen.
    ///
    /// # Errors
    /// When no postcopy is paused, or the address cannot be listened at.
    pub fn recover(&self, at: &Endpoint) -> Result<Endpoint, MigrationError> {
        if self.progress.status() != Some(Status::PostcopyPaused) {
            return Err(MigrationError::TooLate(NOT_PAUSED));
        }
        if *at == self.endpoint() {
            return Ok(at.clone());
        }
        let listener = Listener::bind(at).map_err(|source| MigrationError::Listen { at: at.clone(), source })?;
        let bound = listener.endpoint().clone();
        let accepted = self.command(Command::Recover(listener));
        if matches!(accepted, Ok(()) | Err(HELD_UP)) {
            // A driver that is held up listens there as soon as it goes on.
            *lock(&self.endpoint) = bound.clone();
        }
        accepted.map(|()| bound).map_err(MigrationError::TooLate)
    }

    fn command(&self, command: Command) -> Result<(), &'static str> {
        let answer = ask_driver(&self.events, |answer| Event::Command(command, answer));
        answer.unwrap_or(Err("the incoming migration has ended"))
    }

    /// Waits for the end; `None` when somebody has waited before.
    pub fn join(&self) -> Option<Outcome> {
        let thread = lock(&self.thread).take()?;
        Some(thread.join().unwrap_or_else(|_| {
            let reason = "the migration thread ended unexpectedly; see the log".to_owned();
            self.progress.set_error(reason.clone());
            self.progress.set_status(Status::Failed);
            Outcome::Failed(reason)
        }))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
