//! The run state of a guest, in QEMU's terms.

/// QEMU's RunState (qapi/run-state.json), as `query-status` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunState {
    /// Built, and stopped before the first instruction.
    Prelaunch,
    /// The vCPUs run.
    Running,
    /// Stopped by the operator.
    Paused,
    /// Waiting for the guest to arrive by migration.
    InMigrate,
    /// Stopped for a switchover that has not ended.
    FinishMigrate,
    /// The guest belongs to the destination.
    PostMigrate,
    /// The guest shut down.
    Shutdown,
    /// The guest cannot go on.
    InternalError,
}
