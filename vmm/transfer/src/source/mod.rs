//! Drives a [`Source`](ferry_migration::source::Source) with real links, the real machine and real
//! time.
//!
//! [`Outgoing::start`] spawns the driver's thread; it ends with the migration, and by then its
//! workers, links and timers are gone and the guest either runs here (if it ran before) or belongs
//! to the destination.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use ferry_link::Link;
use ferry_link::endpoint::Endpoint;
use ferry_machine::{Machine, Stopped};
use ferry_migration::Status;
use ferry_migration::message::ToSource;
use ferry_migration::pages::PageBitmap;
use ferry_migration::parameters::Given;
use ferry_migration::source::{Input, Resolution};
use ferry_observe::trace::{self, Side};
use ferry_record::OwnRecord;

use crate::MigrationError;
use crate::inbox::Ticket;
use crate::progress::Progress;
use crate::request::{Request, Unanswered, ask};
use crate::settings::Settings;
use crate::source::driver::Driver;

pub(crate) mod chunks;
mod driver;
pub(crate) mod guest_worker;
mod page_worker;
pub(crate) mod pages;
pub(crate) mod patience;
mod remaining;
mod shares;
mod stopwatch;
mod urgent;

/// What reaches the driver.
#[derive(Debug)]
pub(crate) enum Event {
    /// For the state machine.
    Input(Input),
    /// The guest's worker has done a job.
    Guest(GuestDone),
    /// The ownership record has answered the call of this number.
    Record(u32, Input),
    /// From the connection of this number.
    OfLink(u32, LinkEvent),
    /// The operator commands; the answer says whether it is accepted.
    Command(Request<Command, Answer>),
}

/// What the guest's worker has done.
#[derive(Debug, Default)]
pub(crate) struct GuestDone {
    /// The answer for the state machine, if it has asked for the job.
    pub input: Option<Input>,
    /// The framed sections that the answer announces, for the next `Rehearse` or `Package`.
    pub state: Option<Vec<u8>>,
    /// The stop that the answer announces: the last pages and the state are read through it.
    pub stopped: Option<Stopped>,
}

/// What the page worker has done.
#[derive(Debug)]
pub(crate) struct PagesDone {
    /// The answer for the state machine.
    pub input: Input,
    /// Postcopy, or a round before it: the pages that remain, which the answer announces.
    pub remaining: Option<PageBitmap>,
    /// What the rounds so far say: vCPUs are to be kept from running for this percentage of their
    /// time, 0 being not at all.
    pub throttle: Option<u8>,
}

impl From<Input> for PagesDone {
    fn from(input: Input) -> Self {
        PagesDone { input, remaining: None, throttle: None }
    }
}

/// What comes of a connection; a connection that has been replaced is not heard any more.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// The control link is open. With it comes, for a greeting, which chunks of memory hold
    /// something.
    Control(Link, Vec<u8>),
    /// A page link is open: the driver keeps it to end it from outside.
    Pages(Link),
    /// The destination said something, with this attachment.
    Message(ToSource, Vec<u8>, Ticket),
    /// The page worker has done a job.
    PagesDone(PagesDone),
    /// The control link was lost, or could not be opened; the text says how.
    Lost(String),
    /// A page link was lost; the text says which and how.
    PagesLost(String),
}

/// Whether a command is accepted, or why not.
pub(crate) type Answer = Result<(), &'static str>;

/// What an operator may want of a migration that goes on.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    /// Give it up.
    Cancel,
    /// Let the destination run now, and send the rest then.
    StartPostcopy,
    /// Break the link of a postcopy.
    Pause,
    /// Reconnect a paused postcopy; if that is accepted, with these parameters.
    Recover(Endpoint, Given),
    /// Say who owns the guest.
    Resolve {
        /// The operator's word.
        resolution: Resolution,
        /// Also if the destination may need pages from here.
        drop_pages: bool,
    },
}

/// A migration that goes on or has ended.
#[derive(Debug)]
pub(crate) struct Outgoing {
    events: Sender<Event>,
    thread: Option<JoinHandle<()>>,
    /// What tells it from every other.
    pub id: u128,
    /// What is known about it.
    pub progress: Arc<Progress>,
    /// The values in force for it.
    pub settings: Arc<Settings>,
}

impl Outgoing {
    /// Begins to migrate `machine` to `to`.
    ///
    /// # Errors
    /// When a thread or an eventfd cannot be had, or the handshake that was asked for needs a
    /// record that this migration does not have; the guest was not touched then.
    pub(crate) fn start(
        machine: Arc<Machine>,
        to: Endpoint,
        settings: Arc<Settings>,
        progress: Arc<Progress>,
        record: Option<&Arc<OwnRecord>>,
    ) -> Result<Self, MigrationError> {
        let (events, inbox) = channel();
        let faults = machine.faults().clone();
        let migration_id = ferry_record::random().map_err(MigrationError::Host)?;
        let own_record = record.cloned();
        // A guest that arrived and found the record to be another process's has none.
        let record = record.filter(|own| own.generation() > 0);
        let record = record.map(|own| own.outgoing(migration_id)).transpose()?.map(Arc::new);
        let peer = to.to_string();
        let own = (settings.clone(), progress.clone());
        let driver = Driver::new(machine, to, own.0, own.1, events.clone(), (migration_id, own_record, record))?;
        // Clients see no status of a migration that does not start.
        let (start, started) = channel();
        let run = move || {
            if started.recv().is_ok() {
                driver.run(&inbox)
            }
        };
        let thread = faults.spawn("ferry-source", run).map_err(MigrationError::Host)?;
        trace::migration(Side::Source, migration_id, Some(peer), progress.watched());
        progress.set_status(Status::Setup);
        // The thread waits for it.
        let _ = start.send(());
        Ok(Outgoing { events, thread: Some(thread), id: migration_id, progress, settings })
    }

    /// Where [`command`] sends to.
    #[must_use]
    pub(crate) fn events(&self) -> Sender<Event> {
        self.events.clone()
    }

    /// Tells it that there is no guest any more.
    pub(crate) fn guest_gone(&self, reason: &str) {
        // A migration that has ended does not mind.
        let _ = self.events.send(Event::Input(Input::GuestGone(reason.to_owned())));
    }

    /// Whether the driver has ended.
    #[must_use]
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the driver's end.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            self.progress.set_error("the migration thread ended unexpectedly; see the log".to_owned());
            self.progress.set_status(Status::Failed);
        }
    }
}

/// Commands the migration whose driver hears `events`; returns once that is accepted. One that has
/// ended accepts a cancel, and does nothing. The caller must not hold a lock that `query-migrate`
/// needs: the driver may be busy with a peer.
///
/// # Errors
/// The reason for which the command does not fit, or that the driver does not answer.
pub(crate) fn command(events: &Sender<Event>, command: Command) -> Result<(), MigrationError> {
    let is_cancel = matches!(command, Command::Cancel);
    match ask(events, command, Event::Command) {
        Ok(answer) => answer.map_err(MigrationError::TooLate),
        // A cancel that comes too late to do anything is none the worse.
        Err(Unanswered::Ended) if is_cancel => Ok(()),
        Err(unanswered) => Err(unanswered.into()),
    }
}
