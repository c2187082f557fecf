//! The machine (interface stub).
use crate::kvm::DirtyLog;
use crate::memory::Memory;
use ferry_migration::{MachineDescription, Section};
use std::sync::Arc;

/// QEMU's RunState names (qapi/run-state.json), as `query-status` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunState {
    /// built, never run
    Prelaunch,
    /// running
    Running,
    /// stopped by the operator
    Paused,
    /// waiting for an incoming migration
    InMigrate,
    /// stopped for the switchover
    FinishMigrate,
    /// handed over
    PostMigrate,
    /// shut down
    Shutdown,
    /// KVM internal error
    InternalError,
}

/// Why a device could not be saved or loaded.
#[derive(Debug, thiserror::Error)]
#[error("{device}: {reason}")]
pub struct DeviceFailure {
    /// e.g. virtio-blk/0
    pub device: String,
    /// text
    pub reason: String,
}

/// Why the machine could not do something.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// stub
    #[error("stub")]
    Stub,
}

/// Who holds the machine stopped although the operator may want it to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hold {
    /// An incoming migration has not arrived yet.
    Incoming,
    /// The source's switchover.
    Switchover,
    /// The guest belongs to the destination; never released.
    HandedOver,
}

#[derive(Debug)]
/// A machine: vCPUs run exactly while the operator wants them to and nobody holds them.
pub struct Machine {}

impl Machine {
    /// `query-status`.
    pub fn run_state(&self) -> RunState {
        todo!()
    }
    /// The operator's `cont`. Remembered while a hold is in place; refused when handed over.
    pub fn cont(&self) -> Result<(), MachineError> {
        todo!()
    }
    /// The operator's `stop`.
    pub fn stop(&self) -> Result<(), MachineError> {
        todo!()
    }
    /// Whether the operator wants the guest to run (it does as soon as no hold is in place).
    pub fn wants_to_run(&self) -> bool {
        todo!()
    }
    /// For a destination: what the source's operator wanted, from the package.
    pub fn set_wants_to_run(&self, _run: bool) {
        todo!()
    }
    /// Stops the vCPUs (returns when none is in KVM_RUN) and keeps them stopped.
    pub fn hold(&self, _hold: Hold) -> Result<(), MachineError> {
        todo!()
    }
    /// Ends the hold: takes what running needs (Device::acquire) and, if wanted, runs; returns once the vCPUs are entering KVM_RUN.
    /// On error the hold stays.
    pub fn release_hold(&self) -> Result<(), MachineError> {
        todo!()
    }
    /// Drains and flushes the devices. vCPUs stopped.
    pub fn quiesce(&self) -> Result<(), DeviceFailure> {
        todo!()
    }
    /// Releases what only a running guest may hold (disk locks).
    pub fn release_resources(&self) -> Result<(), DeviceFailure> {
        todo!()
    }
    /// Saves everything but memory. vCPUs stopped.
    pub fn save(&self) -> Result<Vec<Section>, DeviceFailure> {
        todo!()
    }
    /// Stops the vCPUs for the shortest time that a save takes, then lets them go on.
    pub fn snapshot(&self) -> Result<Vec<Section>, DeviceFailure> {
        todo!()
    }
    /// Loads and post_loads everything but memory. vCPUs stopped. Repeatable.
    pub fn load(&self, _sections: &[Section]) -> Result<(), DeviceFailure> {
        todo!()
    }
    /// Guest name.
    pub fn name(&self) -> &str {
        todo!()
    }
    /// Ends hangs.
    pub fn interrupt_faults(&self) {
        todo!()
    }
    /// x
    pub fn is_handed_over(&self) -> bool {
        todo!()
    }
    /// x
    pub fn awaits_guest(&self) -> bool {
        todo!()
    }
    /// What `Hello` compares.
    pub fn description(&self) -> &MachineDescription {
        todo!()
    }
    /// Guest RAM.
    pub fn memory(&self) -> &Memory {
        todo!()
    }
    /// The dirty log of RAM.
    pub fn dirty_log(&self) -> &Arc<DirtyLog> {
        todo!()
    }
}
