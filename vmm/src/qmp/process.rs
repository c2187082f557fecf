//! The real target of the commands: this process's machine and its migrations.
//!
//! `ferry run` builds one, hands it to the server, and hears from it when an incoming migration has ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use ferry_devices::fault::FaultSpec;
use ferry_migration::{MigrationInfo, Parameters};

use super::memory_hash::{self, MemoryHash};
use super::target::{Done, Target};
use super::wire::CommandError;
use crate::endpoint::Endpoint;
use crate::machine::{Machine, RunState};
use crate::runtime::{MigrationError, Migrations};

/// Hears why an incoming migration failed.
type OnFailure = Arc<dyn Fn(MigrationError) + Send + Sync>;

/// A machine and its migrations, as management clients see them.
pub struct Process {
    machine: Arc<Machine>,
    migrations: Arc<Migrations>,
    listening: Arc<Mutex<Option<Endpoint>>>,
    on_incoming_failed: OnFailure,
}

impl Process {
    /// A process with this machine. `on_incoming_failed` is called, from another thread, when an incoming migration failed that should end the process.
    #[must_use]
    pub fn new(
        machine: Arc<Machine>,
        migrations: Arc<Migrations>,
        on_incoming_failed: impl Fn(MigrationError) + Send + Sync + 'static,
    ) -> Self {
        let on_incoming_failed: OnFailure = Arc::new(on_incoming_failed);
        Process { machine, migrations, listening: Arc::default(), on_incoming_failed }
    }

    /// Listens for an incoming migration, tells the address on standard error and follows it to its end.
    ///
    /// # Errors
    /// When the process takes no guest, listens already, or cannot listen there.
    pub fn listen(&self, at: &Endpoint, exit_on_error: bool) -> Result<(), MigrationError> {
        let mut listening = lock(&self.listening);
        if let Some(at) = &*listening {
            return Err(MigrationError::Listening(at.clone()));
        }
        let at = self.migrations.incoming(at)?;
        // Scripts that gave port 0 read this line.
        eprintln!("listening on {at}");
        *listening = Some(at);
        let (migrations, listening) = (self.migrations.clone(), self.listening.clone());
        let on_failure = exit_on_error.then(|| self.on_incoming_failed.clone());
        let follow = move || {
            let outcome = migrations.wait_incoming();
            *lock(&listening) = None;
            match (outcome, on_failure) {
                (Err(error), Some(on_failure)) => on_failure(error),
                (Err(error), None) => tracing::warn!("{error}"),
                (Ok(()), _) => {}
            }
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

    fn quit(&self) {
        self.machine.quit();
    }

    fn migration(&self) -> MigrationInfo {
        self.migrations.info()
    }

    fn listening(&self) -> Option<Endpoint> {
        lock(&self.listening).clone()
    }

    fn migrate(&self, to: Endpoint) -> Done {
        self.migrations.migrate(to).map_err(refused)
    }

    fn incoming(&self, at: &Endpoint, exit_on_error: bool) -> Done {
        self.listen(at, exit_on_error).map_err(refused)
    }

    fn cancel(&self) -> Done {
        self.migrations.cancel().map_err(refused)
    }

    fn parameters(&self) -> Parameters {
        self.migrations.parameters()
    }

    fn set_parameters(&self, parameters: Parameters) -> Done {
        self.migrations.set_parameters(parameters).map_err(refused)
    }

    fn set_fault(&self, rule: FaultSpec) -> Done {
        self.machine.faults().set(rule).map_err(refused)
    }

    fn clear_faults(&self) -> Done {
        self.machine.faults().clear();
        Ok(())
    }

    fn memory_hash(&self) -> Result<MemoryHash, CommandError> {
        memory_hash::hash(self.machine.memory()).map_err(refused)
    }
}

fn refused(error: impl std::error::Error + 'static) -> CommandError {
    CommandError::from_chain(&error)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
