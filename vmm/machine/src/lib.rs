//! The machine: a guest with its vCPUs, memory and devices, and when it runs.
//!
//! ```text
//!                        the operator: cont / stop
//!                                 │
//!                                 ▼
//!   Incoming ──┐         wants to run?  ──┐
//!   Switchover ├─ hold ──────────────────▶├──▶ vCPUs run: wants, and no hold, and not ended
//!   HandedOver ┘         (never released) │
//!                                         │
//!   shutdown, failure, quit ── ended ─────┘
//! ```
//!
//! QMP is the operator; a migration holds, saves, loads and releases. Both use a
//! [`Machine`] from any thread.

// Only the command line prints: a message must not end the thread that writes it.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod boot;
mod build;
mod config;
mod custody;
mod description;
mod error;
mod faults;
mod gate;
mod identity;
mod ids;
mod kvm;
mod moving;
mod operation;
mod operator;
mod parts;
mod power_on;
mod reset;
mod run_control;
mod sections;
mod starting;
mod status;
mod stopped;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod throttle;
mod throttling;
mod vcpu;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ferry_devices::fault::FaultControl;
use ferry_devices::serial::Serial;
use ferry_memory::Memory;
use ferry_migration::MachineDescription;
use ferry_observe::events::Events;

pub use boot::{BootError, Input, Problem};
pub use config::{CPUS_MAX, DiskConfig, MachineConfig, SerialSink};
pub use custody::{Custody, Settle};
pub use error::{DeviceFailure, ExitReason, FaultRuleError, GuestFailure, MachineError};
pub use faults::call_of;
pub use ferry_observe::RunState;
pub use identity::{DiskFile, DiskProof};
pub use kvm::{DirtyLog, KvmError, StateCall, StateError};
use parts::Parts;
pub use status::Hold;
pub use stopped::Stopped;

/// How long a machine that is dropped waits for its threads.
const JOIN_DEADLINE: Duration = Duration::from_secs(3);

/// A machine: vCPUs run if and only if the operator has requested it and no [`Hold`] is in place.
pub struct Machine {
    parts: Arc<Parts>,
    reset_thread: Option<JoinHandle<()>>,
}

impl Machine {
    /// Builds the machine and lets it run, unless the guest is incoming or starts paused.
    ///
    /// # Errors
    /// When a part of the configuration is not possible on this host, naming it.
    pub fn build(config: &MachineConfig, events: Arc<Events>) -> Result<Self, MachineError> {
        let parts = build::assemble(config, events)?;
        if !config.incoming {
            reset::load_guest(&parts)?;
        }
        // The guest is loaded: these rules apply from here on.
        for rule in config.faults.iter().filter(|rule| !faults::comes_first(rule)) {
            faults::set(&parts, rule.clone())?;
        }
        Self::start(parts)
    }

    /// Starts the threads of an assembled machine.
    fn start(parts: Parts) -> Result<Self, MachineError> {
        let parts = Arc::new(parts);
        let mut machine = Machine { parts: parts.clone(), reset_thread: None };
        for index in 0..parts.vcpus.len() {
            machine.spawn_vcpu(index)?;
        }
        let serving = parts.clone();
        let thread = std::thread::Builder::new().name("reset".to_owned()).spawn(move || reset::serve(&serving));
        machine.reset_thread = Some(thread.map_err(|error| MachineError::Thread("resets", error))?);
        let _operation = parts.control.operation.take("starting")?;
        // A paused guest acquires nothing yet: its record may forbid a boot.
        if !machine.awaits_guest() && machine.wants_to_run() {
            parts.begin()?;
        }
        Ok(machine)
    }

    fn spawn_vcpu(&self, index: usize) -> Result<(), MachineError> {
        let parts = self.parts.clone();
        let thread = std::thread::Builder::new().name(format!("vcpu-{index}")).spawn(move || vcpu::run(&parts, index));
        // It notifies the gate of its end; no thread joins it.
        thread.map(drop).map_err(|error| {
            (index..self.parts.vcpus.len()).for_each(|never_started| self.parts.control.gate.gone(never_started));
            MachineError::Thread("a vCPU", error)
        })
    }

    /// `query-status`.
    #[must_use]
    pub fn run_state(&self) -> RunState {
        self.parts.control.status().run_state()
    }

    /// Whether the operator wants the guest to run (it does as soon as no hold is in place).
    #[must_use]
    pub fn wants_to_run(&self) -> bool {
        self.parts.control.status().wants
    }

    /// Whether this process waits for a guest to arrive.
    #[must_use]
    pub fn awaits_guest(&self) -> bool {
        self.parts.control.status().hold == Some(Hold::Incoming)
    }

    /// Whether the guest belongs to another process for good.
    #[must_use]
    pub fn is_handed_over(&self) -> bool {
        self.parts.control.status().hold == Some(Hold::HandedOver)
    }

    /// Ends a hang or a delay of the fault device, so that a save or load that has passed its
    /// deadline returns, and the wait of [`Stopped::quiesce`] for a slow disk, which then fails.
    pub fn interrupt_faults(&self) {
        self.parts.faults.interrupt();
        for (_, handle) in &self.parts.handles {
            handle.interrupt_pause();
        }
    }

    /// Begins to flush the guest's disk writes, without waiting: a stop that comes soon is then
    /// shorter. May be called at any time; a failure shows at the stop.
    pub fn flush_ahead(&self) {
        for storage in self.parts.handles.iter().filter_map(|(_, handle)| handle.storage()) {
            storage.flush_ahead();
        }
    }

    /// The fault device's rules, for threads that reach a point that rules can name.
    #[must_use]
    pub fn faults(&self) -> &Arc<FaultControl> {
        &self.parts.faults
    }

    /// The serial port, for the console that feeds it with input.
    #[must_use]
    pub fn serial(&self) -> &Arc<Serial> {
        &self.parts.serial
    }

    /// Sets the record to claim before the guest runs again after this process has released its
    /// disk; without one, the disk's lock alone decides. Only the first call has an effect.
    pub fn set_custody(&self, custody: Arc<dyn Custody>) {
        // A second one would be another record of the same guest.
        let _ = self.parts.custody.set(custody);
    }

    /// The guest's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.parts.name
    }

    /// The description that `Hello` compares; for a guest that arrived, with the CPUID that it
    /// sees.
    #[must_use]
    pub fn description(&self) -> Arc<MachineDescription> {
        self.parts.description()
    }

    /// Guest RAM.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.parts.memory
    }

    /// The dirty log of RAM.
    #[must_use]
    pub fn dirty_log(&self) -> &Arc<DirtyLog> {
        &self.parts.dirty_log
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("name", &self.parts.name).field("state", &self.run_state()).finish()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let control = &self.parts.control;
        control.status().dropped = true;
        control.throttle.end(&control.gate);
        control.gate.end();
        control.notify();
        self.parts.faults.interrupt();
        if let Err(vcpus) = control.gate.wait_gone(JOIN_DEADLINE) {
            tracing::warn!(?vcpus, "vCPU threads do not end; their memory stays until the process does");
            return;
        }
        if let Some(thread) = self.reset_thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the reset thread had died");
        }
    }
}

#[cfg(test)]
mod tests;
