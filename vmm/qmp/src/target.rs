//! What the commands act on: one process with its machine and its migrations, as QMP sees them.
//!
//! The commands call only this, so that they and the server can be tested without KVM. The real one
//! is `Process` in `vmm/src/process.rs`. No method may wait for a migration: the socket answers at
//! all times.

use ferry_devices::fault::FaultSpec;
use ferry_link::endpoint::Endpoint;
use ferry_memory::MemoryHash;
use ferry_migration::parameters::Capability;
use ferry_migration::parameters::{Given, OwnSettings};
use ferry_migration::source::Resolution;
use ferry_migration::{MigrationInfo, Parameters};
use ferry_observe::RunState;
use ferry_record::OwnershipInfo;

use super::wire::CommandError;

/// The outcome of a command that has nothing to return.
pub type Done = Result<(), CommandError>;

/// A Ferry process as its management clients see it. Refusals say why and what would be right.
pub trait Target: Send + Sync {
    /// The guest's name.
    fn name(&self) -> String;
    /// The machine's run state.
    fn run_state(&self) -> RunState;
    /// Stops the vCPUs.
    fn stop(&self) -> Done;
    /// Lets the vCPUs run, now or as soon as a migration allows it.
    fn cont(&self) -> Done;
    /// Resets the machine.
    fn reset(&self) -> Done;
    /// Asks the process to end; returns before it does. Refused while a guest elsewhere would be
    /// lost with it.
    fn quit(&self) -> Done;
    /// Where the present or last migration stands.
    fn migration(&self) -> MigrationInfo;
    /// Where this process listens for an incoming migration.
    fn listening(&self) -> Option<Endpoint>;
    /// Begins a migration to another process; `own` is in force for it alone. A refusal changes
    /// nothing.
    fn migrate(&self, to: Endpoint, own: &OwnSettings) -> Done;
    /// Listens for an incoming migration; if it fails, the process ends when `exit_on_error` is
    /// set.
    fn incoming(&self, at: &Endpoint, exit_on_error: bool) -> Done;
    /// Reconnects a paused postcopy of which this process is the source; `given` is in force for
    /// it from then on.
    fn resume_migration(&self, to: Endpoint, given: Given) -> Done;
    /// Parameters and enabled capabilities of the running outgoing migration.
    fn in_force(&self) -> Option<(Parameters, Vec<Capability>)>;
    /// Lets the destination of the running migration run the guest now.
    fn start_postcopy(&self) -> Done;
    /// Breaks the links of a postcopy, on either side.
    fn pause_migration(&self) -> Done;
    /// Waits at another address for the source of a paused postcopy.
    fn recover(&self, at: &Endpoint) -> Done;
    /// Decides which side owns the guest, with the other side fenced; with `drop_pages` even if the
    /// destination may need pages from here.
    fn resolve(&self, resolution: Resolution, drop_pages: bool) -> Done;
    /// Who owns the guest, by the ownership record; none without a record.
    fn ownership(&self) -> Option<OwnershipInfo>;
    /// Cancels the outgoing migration.
    fn cancel(&self) -> Done;
    /// Whether a migration capability is on.
    fn has(&self, capability: Capability) -> bool;
    /// Switches a migration capability on or off.
    fn set_capability(&self, capability: Capability, on: bool);
    /// The process's migration parameters.
    fn parameters(&self) -> Parameters;
    /// Sets the parameters that are given, for the process and for the running migration.
    fn set_parameters(&self, given: &Given) -> Done;
    /// Adds a rule to the fault device.
    fn set_fault(&self, rule: FaultSpec) -> Done;
    /// Removes every rule of the fault device and ends a present hang.
    fn clear_faults(&self) -> Done;
    /// A hash over guest memory; the caller has checked that the guest does not run. Refused where
    /// that memory is not whole, or not this process's own.
    fn memory_hash(&self) -> Result<MemoryHash, CommandError>;
}
