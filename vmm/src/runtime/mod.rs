//! Drives the protocol core with real sockets, threads and the machine (interface stub).
use crate::{endpoint::Endpoint, events::Events, machine::Machine};
use ferry_migration::{MigrationInfo, Parameters};
use std::sync::Arc;

/// Why a command about a migration was refused.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// stub
    #[error("stub")]
    Stub,
}

/// The migrations of one process: at most one at a time.
pub struct Migrations {}
impl Migrations {
    /// For `machine`; events go to `events`.
    pub fn new(_machine: Arc<Machine>, _events: Arc<Events>) -> Arc<Self> {
        todo!()
    }
    /// QMP `migrate`: returns as soon as the migration has begun; what follows is in `info` and in events.
    pub fn migrate(&self, _to: Endpoint) -> Result<(), MigrationError> {
        todo!()
    }
    /// QMP `migrate-incoming` and `--incoming`: listens, and returns the address that it listens on (a port of 0 filled in).
    pub fn incoming(&self, _at: &Endpoint) -> Result<Endpoint, MigrationError> {
        todo!()
    }
    /// QMP `migrate_cancel`: returns once the cancel is accepted; refused, saying why, after the permit.
    pub fn cancel(&self) -> Result<(), MigrationError> {
        todo!()
    }
    /// QMP `query-migrate`.
    pub fn info(&self) -> MigrationInfo {
        todo!()
    }
    /// QMP `query-migrate-parameters`.
    pub fn parameters(&self) -> Parameters {
        todo!()
    }
    /// QMP `migrate-set-parameters`; values checked by `Parameters::check`.
    pub fn set_parameters(&self, _to: Parameters) -> Result<(), MigrationError> {
        todo!()
    }
    /// Blocks until the incoming migration has ended; `Err` says why it failed, naming the device if one did.
    pub fn wait_incoming(&self) -> Result<(), MigrationError> {
        todo!()
    }
}
