//! A migration from this process, as its owner sees it.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use ferry_link::endpoint::Endpoint;
use ferry_machine::Machine;
use ferry_migration::Status;
use ferry_migration::source::Input;
use ferry_observe::trace::{self, Side};
use ferry_record::OwnRecord;

use crate::error::MigrationError;
use crate::progress::Progress;
use crate::request::{Unanswered, ask};
use crate::settings::Settings;
use crate::source::driver::Driver;
use crate::source::events::{Command, Event};

/// A migration that goes on or has ended.
#[derive(Debug)]
pub(crate) struct Outgoing {
    events: Sender<Event>,
    thread: Option<JoinHandle<()>>,
    /// The migration id.
    pub id: u128,
    /// Its progress.
    pub progress: Arc<Progress>,
    /// The values in force for it.
    pub settings: Arc<Settings>,
}

impl Outgoing {
    /// Begins to migrate `machine` to `to`.
    ///
    /// # Errors
    /// When a thread or an eventfd cannot be created, or the requested handshake needs a record
    /// that this migration does not have; the guest was not touched then.
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
        // A guest that arrived while the record belonged to another process has none.
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

    /// The channel for [`command`].
    #[must_use]
    pub(crate) fn events(&self) -> Sender<Event> {
        self.events.clone()
    }

    /// Notifies it that there is no guest any more.
    pub(crate) fn guest_gone(&self, reason: &str) {
        // A migration that has ended needs no notice.
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

/// Sends a command to the driver that receives `events`; returns once it is accepted. A migration
/// that has ended accepts a cancel, and does nothing. The caller must not hold a lock that
/// `query-migrate` needs: the driver may be busy with a peer.
///
/// # Errors
/// The reason for which the command does not fit, or that the driver does not answer.
pub(crate) fn command(events: &Sender<Event>, command: Command) -> Result<(), MigrationError> {
    let is_cancel = matches!(command, Command::Cancel);
    match ask(events, command, Event::Command) {
        Ok(answer) => answer.map_err(MigrationError::TooLate),
        // A cancel that comes too late to do anything is no error.
        Err(Unanswered::Ended) if is_cancel => Ok(()),
        Err(unanswered) => Err(unanswered.into()),
    }
}
