//! The real target of the commands: this process's machine and its migrations.
//!
//! `ferry run` builds one, hands it to the server, and is notified of a failed incoming migration.

use std::sync::Arc;
use std::thread;

use ferry_devices::fault::FaultSpec;
use ferry_link::endpoint::Endpoint;
use ferry_machine::{Machine, RunState};
use ferry_memory::MemoryHash;
use ferry_migration::parameters::Capability;
use ferry_migration::parameters::{Given, OwnSettings};
use ferry_migration::source::Resolution;
use ferry_migration::{MigrationInfo, Parameters};
use ferry_qmp::{CommandError, Done, Target};
use ferry_record::OwnershipInfo;
use ferry_transfer::{MigrationError, Migrations, Needed};

use crate::stderr;

/// Receives the reason why an incoming migration failed.
type OnFailure = Arc<dyn Fn(MigrationError) + Send + Sync>;

/// A machine and its migrations, as management clients see them.
pub(crate) struct Process {
    machine: Arc<Machine>,
    migrations: Arc<Migrations>,
    on_incoming_failed: OnFailure,
}

impl Process {
    /// A process with this machine. `on_incoming_failed` is called, from another thread, when an
    /// incoming migration failed that should end the process.
    #[must_use]
    pub(crate) fn new(
        machine: Arc<Machine>,
        migrations: Arc<Migrations>,
        on_incoming_failed: impl Fn(MigrationError) + Send + Sync + 'static,
    ) -> Self {
        let on_incoming_failed: OnFailure = Arc::new(on_incoming_failed);
        Process { machine, migrations, on_incoming_failed }
    }

    /// Listens for an incoming migration, prints the address on standard error and follows the
    /// migration to its end.
    ///
    /// # Errors
    /// When the process accepts no guest, listens already, or cannot listen there.
    pub(crate) fn listen(&self, at: &Endpoint, exit_on_error: bool) -> Result<(), MigrationError> {
        let at = self.migrations.incoming(at)?;
        // Scripts that gave port 0 read this line.
        stderr::say(format_args!("listening on {at}"));
        let migrations = self.migrations.clone();
        let on_failure = exit_on_error.then(|| self.on_incoming_failed.clone());
        let follow = move || {
            migrations.follow_incoming(|error| match on_failure {
                Some(on_failure) => on_failure(error),
                None => tracing::warn!("{error}"),
            });
        };
        thread::Builder::new().name("incoming".into()).spawn(follow).map_err(MigrationError::Host)?;
        Ok(())
    }
}

impl Target for Process {
    fn name(&self) -> String {
        self.machine.name().to_owned()
    }

    fn run_state(&self) -> RunState {
        self.machine.run_state()
    }

    fn stop(&self) -> Done {
        self.machine.stop().map_err(refused)
    }

    fn cont(&self) -> Done {
        self.machine.cont().map_err(refused)
    }

    fn reset(&self) -> Done {
        self.machine.reset().map_err(refused)
    }

    fn quit(&self) -> Done {
        if let Some(Needed { why, .. }) = self.migrations.is_needed() {
            return Err(CommandError::generic(format!("{why}; to end the process all the same, send it two signals")));
        }
        self.machine.quit();
        Ok(())
    }

    fn migration(&self) -> MigrationInfo {
        self.migrations.info()
    }

    fn listening(&self) -> Option<Endpoint> {
        self.migrations.listening_at()
    }

    fn migrate(&self, to: Endpoint, own: &OwnSettings) -> Done {
        self.migrations.migrate(to, own).map_err(refused)
    }

    fn incoming(&self, at: &Endpoint, exit_on_error: bool) -> Done {
        self.listen(at, exit_on_error).map_err(refused)
    }

    fn resume_migration(&self, to: Endpoint, given: Given) -> Done {
        self.migrations.recover_outgoing(to, given).map_err(refused)
    }

    fn in_force(&self) -> Option<(Parameters, Vec<Capability>)> {
        let settings = self.migrations.of_running()?;
        Some((settings.parameters(), settings.capabilities()))
    }

    fn start_postcopy(&self) -> Done {
        self.migrations.start_postcopy().map_err(refused)
    }

    fn pause_migration(&self) -> Done {
        self.migrations.pause().map_err(refused)
    }

    fn recover(&self, at: &Endpoint) -> Done {
        let at = self.migrations.recover_incoming(at).map_err(refused)?;
        // As for the first address.
        stderr::say(format_args!("listening on {at}"));
        Ok(())
    }

    fn resolve(&self, resolution: Resolution, drop_pages: bool) -> Done {
        self.migrations.resolve(resolution, drop_pages).map_err(refused)
    }

    fn ownership(&self) -> Option<OwnershipInfo> {
        self.migrations.ownership()
    }

    fn has(&self, capability: Capability) -> bool {
        self.migrations.has(capability)
    }

    fn set_capability(&self, capability: Capability, on: bool) {
        self.migrations.set_capability(capability, on);
    }

    fn cancel(&self) -> Done {
        self.migrations.cancel().map_err(refused)
    }

    fn parameters(&self) -> Parameters {
        self.migrations.parameters()
    }

    fn set_parameters(&self, given: &Given) -> Done {
        self.migrations.set_parameters(given).map_err(refused)
    }

    fn set_fault(&self, rule: FaultSpec) -> Done {
        self.machine.set_fault(rule).map_err(refused)
    }

    fn clear_faults(&self) -> Done {
        self.machine.faults().clear();
        Ok(())
    }

    fn memory_hash(&self) -> Result<MemoryHash, CommandError> {
        self.migrations.memory_is_whole().map_err(refused)?;
        let hash = ferry_memory::hash(self.machine.memory()).map_err(refused)?;
        // A migration of another client may have begun in between.
        self.migrations.memory_is_whole().map_err(refused)?;
        Ok(hash)
    }
}

fn refused(error: impl std::error::Error + 'static) -> CommandError {
    CommandError::from_chain(&error)
}
