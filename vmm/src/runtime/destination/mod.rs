//! Drives a [`Destination`](ferry_migration::destination::Destination) with real links, the real machine and real time.
//!
//! [`Incoming::listen`] spawns the driver's thread. It waits for a source as long as it takes, lives through one migration, and
//! ends with the guest here or with the reason why not; by then its listener, workers and links are gone.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use ferry_migration::destination::{Input, Outcome};
use ferry_migration::message::ToDestination;
use ferry_migration::wire::preamble::Preamble;
use ferry_migration::{Parameters, Status};

use crate::endpoint::Endpoint;
use crate::machine::Machine;
use crate::runtime::destination::driver::Driver;
use crate::runtime::destination::missing::Missing;
use crate::runtime::progress::Progress;
use crate::runtime::record::OwnRecord;
use crate::runtime::stream::{Listener, Stream};

mod arrivals;
mod driver;
pub mod missing;
pub mod pages;
mod worker;

/// What reaches the driver.
#[derive(Debug)]
pub enum Event {
    /// For the state machine.
    Input(Input),
    /// A message of the source with its attachment.
    Message(ToDestination, Vec<u8>),
    /// A page link of this connection was lost; the text says which and how.
    PagesLost(u32, String),
    /// The control link of this connection has ended; nothing more comes from its reader.
    ControlLost(u32, String),
    /// Postcopy: the remaining pages are armed, and this thread hears who waits for one.
    Armed(Arc<Missing>, JoinHandle<()>),
    /// A link of some migration is here.
    Arrived(Preamble, Stream),
    /// Nothing more can arrive.
    ListenFailed(std::io::Error),
}

/// An incoming migration that is awaited, goes on, or has ended.
#[derive(Debug)]
pub struct Incoming {
    events: Sender<Event>,
    thread: Option<JoinHandle<Outcome>>,
    endpoint: Endpoint,
    /// What is known about it.
    pub progress: Arc<Progress>,
}

impl Incoming {
    /// Listens at `at`.
    ///
    /// # Errors
    /// What the address answered, or when a thread cannot be had.
    pub fn listen(
        machine: Arc<Machine>,
        at: &Endpoint,
        parameters: &Parameters,
        progress: Arc<Progress>,
        record: Option<Arc<OwnRecord>>,
    ) -> std::io::Result<Self> {
        let listener = Listener::bind(at)?;
        let endpoint = listener.endpoint().clone();
        let (events, inbox) = channel();
        let driver = Driver::new(machine, listener, parameters, progress.clone(), events.clone(), record)?;
        let thread = std::thread::Builder::new().name("ferry-dest".into()).spawn(move || driver.run(&inbox))?;
        Ok(Incoming { events, thread: Some(thread), endpoint, progress })
    }

    /// Where it listens, with the port that was chosen.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Asks for the end. A guest that has been permitted to run here is not stopped by it.
    pub fn cancel(&self) {
        // A migration that has ended does not mind.
        let _ = self.events.send(Event::Input(Input::Cancel));
    }

    /// Whether the driver has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the end; `None` when somebody has waited before.
    pub fn join(&mut self) -> Option<Outcome> {
        let thread = self.thread.take()?;
        Some(thread.join().unwrap_or_else(|_| {
            let reason = "the migration thread ended unexpectedly; see the log".to_owned();
            self.progress.set_error(reason.clone());
            self.progress.set_status(Status::Failed);
            Outcome::Failed(reason)
        }))
    }
}
