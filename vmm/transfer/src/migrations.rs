//! The migrations of one process, and the commands of its management clients.
//!
//! Commands go in, progress comes out, and none of them waits for a migration.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ferry_link::endpoint::Endpoint;
use ferry_link::listener::{BindError, Listener};
use ferry_machine::Machine;
use ferry_migration::parameters::Capability;
use ferry_migration::parameters::{Given, OwnSettings};
use ferry_migration::source::Resolution;
use ferry_migration::{MigrationInfo, Parameters, Status};
use ferry_observe::events::Events;
use ferry_record::{ANSWER_DEADLINE, OwnRecord, OwnershipInfo, RecordError};

use crate::destination::Incoming;
use crate::error::MigrationError;
use crate::progress::{Direction, Progress};
use crate::settings::Settings;
use crate::source::{self, Command, Outgoing};

/// Longest that a process which is about to end waits for its migration to notify the destination.
pub(crate) const FAREWELL: Duration = Duration::from_secs(1);

/// Why the heartbeat cannot be changed.
const AGREED: &str =
    "x-ferry-heartbeat-timeout-ms was agreed with the destination when the migration began: leave it out";

/// The migrations of one process: at most one at a time.
#[derive(Debug)]
pub struct Migrations {
    machine: Arc<Machine>,
    events: Arc<Events>,
    settings: Arc<Settings>,
    pub(crate) record: Option<Arc<OwnRecord>>,
    current: Mutex<Current>,
    pub(crate) changed: Condvar,
}

/// Why a process must not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needed {
    /// The migration.
    pub migration: u128,
    /// What would be lost, as text.
    pub why: &'static str,
}

#[derive(Debug, Default)]
pub(crate) struct Current {
    pub(crate) outgoing: Option<Outgoing>,
    pub(crate) incoming: Option<Arc<Incoming>>,
    /// The migration that `query-migrate` shows.
    newest: Option<Arc<Progress>>,
}

impl Current {
    fn of_running(&self) -> Option<Arc<Settings>> {
        let goes_on = |outgoing: &&Outgoing| outgoing.progress.status().is_none_or(Status::is_active);
        self.outgoing.as_ref().filter(goes_on).map(|outgoing| outgoing.settings.clone())
    }
}

impl Migrations {
    /// For `machine`; events go to `events`; with an ownership record, migrations use it.
    #[must_use]
    pub fn new(machine: Arc<Machine>, events: Arc<Events>, record: Option<Arc<OwnRecord>>) -> Arc<Self> {
        Arc::new(Migrations {
            machine,
            events,
            settings: Arc::default(),
            record,
            current: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// QMP `migrate`: returns as soon as the migration has begun; what follows is in
    /// [`Migrations::info`] and in events. `own` is in force for this migration alone, instead of
    /// the process's values.
    ///
    /// # Errors
    /// When one is going on, when there is no guest to migrate, or when a parameter is out of its
    /// range; nothing is changed then.
    pub fn migrate(&self, to: Endpoint, own: &OwnSettings) -> Result<(), MigrationError> {
        // Checked ahead of any wait.
        self.settings.for_migration(own)?;
        let mut current = self.may_migrate()?;
        if let Some(record) = self.record.as_ref().filter(|record| !record.is_named_or_without(Duration::ZERO)) {
            // Clients can send commands meanwhile.
            drop(current);
            if !record.is_named_or_without(ANSWER_DEADLINE) {
                return Err(RecordError::NotYet { place: record.place() }.into());
            }
            current = self.may_migrate()?;
        }
        let settings = Arc::new(self.settings.for_migration(own)?);
        let parameters = settings.parameters();
        if parameters.local {
            crate::adoption::check(&to, self.machine.memory(), &parameters, settings.postcopy())?;
        }
        let progress = self.progress(Direction::Outgoing);
        let outgoing = Outgoing::start(self.machine.clone(), to, settings, progress.clone(), self.record.as_ref())?;
        current.outgoing = Some(outgoing);
        current.newest = Some(progress);
        Ok(())
    }

    /// Whether this process has a guest that may be migrated now. No other migration begins while
    /// the result is held.
    fn may_migrate(&self) -> Result<MutexGuard<'_, Current>, MigrationError> {
        let current = self.current();
        let paused = current.outgoing.as_ref().is_some_and(|o| o.progress.status() == Some(Status::PostcopyPaused));
        if paused {
            return Err(MigrationError::Paused);
        }
        if self.machine.is_handed_over() {
            return Err(MigrationError::HandedOver);
        }
        if self.machine.awaits_guest() {
            return Err(MigrationError::NoGuest);
        }
        // A guest that has arrived may leave at once; its incoming migration is removed first.
        let arriving =
            |current: &mut Current| current.incoming.as_ref().is_some_and(|incoming| !incoming.lacks_pages());
        let (mut current, _) =
            self.changed.wait_timeout_while(current, FAREWELL * 2, arriving).unwrap_or_else(PoisonError::into_inner);
        if current.incoming.is_some() {
            return Err(MigrationError::Arriving);
        }
        if let Some(previous) = &mut current.outgoing {
            // The driver publishes the end just before its thread exits: a client that reacts at
            // once waits here for the thread to be gone.
            if previous.progress.status().is_none_or(Status::is_active) && !previous.has_ended() {
                return Err(MigrationError::Busy);
            }
            previous.join();
        }
        Ok(current)
    }

    /// QMP `migrate-incoming` and `--incoming`: listens, and returns the address with the port
    /// that was chosen.
    ///
    /// # Errors
    /// When this process has a guest, listens already, or cannot listen there.
    pub fn incoming(&self, at: &Endpoint) -> Result<Endpoint, MigrationError> {
        let current = self.current();
        if !self.machine.awaits_guest() {
            return Err(MigrationError::NotIncoming);
        }
        // The driver publishes an end just before its thread exits: a client that reacts at once
        // waits here until the migration is removed.
        let ending = |current: &mut Current| current.incoming.as_ref().is_some_and(|previous| !previous.goes_on());
        let (current, _) =
            self.changed.wait_timeout_while(current, FAREWELL, ending).unwrap_or_else(PoisonError::into_inner);
        let is_free = |current: &Current| match &current.incoming {
            _ if self.machine.has_ended() => Err(MigrationError::Ending),
            Some(previous) => Err(MigrationError::Listening(previous.endpoint())),
            None => Ok(()),
        };
        is_free(&current)?;
        drop(current);
        // The look-up of a name may take long: clients can send commands meanwhile.
        let listen_failed = |source| MigrationError::Listen { at: at.clone(), source };
        let listener = Listener::bind(at).map_err(listen_failed)?;
        let mut current = self.current();
        is_free(&current)?;
        let progress = self.progress(Direction::Incoming);
        let parameters = self.settings.parameters();
        let incoming =
            Incoming::listen(self.machine.clone(), listener, &parameters, progress.clone(), self.record.clone())
                .map_err(|error| listen_failed(BindError::Host(error)))?;
        let endpoint = incoming.endpoint();
        current.incoming = Some(Arc::new(incoming));
        current.newest = Some(progress);
        self.changed.notify_all();
        Ok(endpoint)
    }

    /// QMP `migrate_cancel`: returns once the cancel is accepted. Nothing to cancel is no error,
    /// as in QEMU.
    ///
    /// # Errors
    /// After the permit, with the reason.
    pub fn cancel(&self) -> Result<(), MigrationError> {
        match self.command(Command::Cancel) {
            Err(MigrationError::NoMigration) => Ok(()),
            result => result,
        }
    }

    /// QMP `migrate-start-postcopy`.
    ///
    /// # Errors
    /// When no migration is in its rounds, or postcopy was not allowed for it.
    pub fn start_postcopy(&self) -> Result<(), MigrationError> {
        self.command(Command::StartPostcopy)
    }

    /// QMP `migrate-pause`, on either side.
    ///
    /// # Errors
    /// When no postcopy is active.
    pub fn pause(&self) -> Result<(), MigrationError> {
        let incoming = self.current().incoming.clone();
        match incoming {
            Some(incoming) => incoming.pause(),
            None => self.command(Command::Pause),
        }
    }

    /// QMP `migrate-recover`, on the destination: the source of a paused postcopy is awaited at
    /// `at`. Returns the address with the port that was chosen.
    ///
    /// # Errors
    /// When no incoming postcopy is paused, or the address cannot be listened at.
    pub fn recover_incoming(&self, at: &Endpoint) -> Result<Endpoint, MigrationError> {
        let Some(incoming) = self.current().incoming.clone() else { return Err(MigrationError::NoMigration) };
        incoming.recover(at)
    }

    /// The content of the ownership record, if this process has one.
    #[must_use]
    pub fn ownership(&self) -> Option<OwnershipInfo> {
        self.record.as_ref().map(|own| own.info())
    }

    /// QMP `migrate` with `resume`: reconnects a paused postcopy; `given` is in force for it from
    /// then on.
    ///
    /// # Errors
    /// When no postcopy is paused, or a parameter is out of its range; nothing is changed then.
    pub fn recover_outgoing(&self, to: Endpoint, given: Given) -> Result<(), MigrationError> {
        if let Some(settings) = self.of_running() {
            let (before, after) = (settings.parameters(), settings.with(&given)?);
            if before.heartbeat_timeout_ms != after.heartbeat_timeout_ms {
                return Err(MigrationError::TooLate(AGREED));
            }
        }
        self.command(Command::Recover(to, given))
    }

    /// The settings of the active migration from here.
    #[must_use]
    pub fn of_running(&self) -> Option<Arc<Settings>> {
        self.current().of_running()
    }

    /// Whether guest memory here is complete and the guest's own, so that a hash over it is
    /// meaningful.
    ///
    /// # Errors
    /// Why not, and when it will be.
    pub fn memory_is_whole(&self) -> Result<(), MigrationError> {
        if self.machine.awaits_guest() {
            return Err(MigrationError::NotArrived);
        }
        let newest = self.current().newest.clone();
        newest.map_or(Ok(()), |progress| progress.memory_is_whole(self.machine.is_handed_over()))
    }

    /// QMP `x-ferry-resolve`: the operator decides who owns the guest, the other side being fenced.
    /// With `drop_pages` it also ends a paused postcopy. With an ownership record, the guest
    /// becomes the source's only if the record can be made to name the source or, if the
    /// destination never ran the guest, also if it is unreachable or names the destination.
    ///
    /// # Errors
    /// When the owner is not uncertain, the record names another process, or the destination may
    /// need pages from here that are not to be dropped.
    pub fn resolve(&self, resolution: Resolution, drop_pages: bool) -> Result<(), MigrationError> {
        self.command(Command::Resolve { resolution, drop_pages })
    }

    /// Whether a capability is on.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        self.settings.has(capability)
    }

    /// Switches a capability on or off.
    pub fn set_capability(&self, capability: Capability, on: bool) {
        self.settings.set_capability(capability, on);
    }

    fn command(&self, command: Command) -> Result<(), MigrationError> {
        let events = self.current().outgoing.as_ref().map(Outgoing::events).ok_or(MigrationError::NoMigration)?;
        source::command(&events, command)
    }

    /// QMP `query-migrate`.
    #[must_use]
    pub fn info(&self) -> MigrationInfo {
        let newest = self.current().newest.clone();
        newest.map(|progress| progress.info()).unwrap_or_default()
    }

    /// The migration for which this process must not end now, if there is one: a guest that runs
    /// elsewhere would be lost with it.
    #[must_use]
    pub fn is_needed(&self) -> Option<Needed> {
        let current = self.current();
        let outgoing = current.outgoing.as_ref()?;
        let why = match outgoing.progress.status()? {
            Status::PostcopySetup | Status::PostcopyActive | Status::PostcopyPaused | Status::PostcopyRecover => {
                "the destination still needs pages that only this process has: without them the guest is lost"
            }
            Status::Uncertain => "this process may hold the only copy of the guest: first resolve who owns it",
            _ => return None,
        };
        Some(Needed { migration: outgoing.id, why })
    }

    /// QMP `query-migrate-parameters`.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        self.settings.parameters()
    }

    /// QMP `migrate-set-parameters`: sets the given values, for the process and for its active
    /// migration.
    ///
    /// # Errors
    /// The first parameter that is out of its range; nothing is changed then.
    pub fn set_parameters(&self, given: &Given) -> Result<(), MigrationError> {
        // Held to the end: one change at a time, and no migration starts in between.
        let current = self.current();
        let all = [Some(self.settings.clone()), current.of_running()];
        let mut changes = Vec::new();
        for settings in all.into_iter().flatten() {
            let parameters = settings.with(given)?;
            changes.push((settings, parameters));
        }
        changes.into_iter().for_each(|(settings, parameters)| settings.replace(parameters));
        Ok(())
    }

    /// The address at which an incoming migration is awaited.
    #[must_use]
    pub fn listening_at(&self) -> Option<Endpoint> {
        let current = self.current();
        current.incoming.as_ref().filter(|incoming| incoming.goes_on()).map(|incoming| incoming.endpoint())
    }

    fn progress(&self, direction: Direction) -> Arc<Progress> {
        Progress::new(direction, self.machine.description().ram_bytes(), self.events.clone())
    }

    pub(crate) fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
