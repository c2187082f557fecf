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
//! QMP is the operator; the migration runtime holds, saves, loads and releases. Both use a [`Machine`] from any thread.

mod build;
mod config;
mod control;
mod description;
mod error;
mod gate;
mod reset;
mod sections;
mod status;
mod turn;
mod vcpu;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ferry_devices::fault::{Direction, FaultControl};
use ferry_devices::serial::Serial;
use ferry_devices::{Bus, Device};
use ferry_migration::{MachineDescription, Section};

use crate::boot::BootSource;
use crate::events::Events;
use crate::kvm::{DirtyLog, Vcpu, Vm};
use crate::memory::Memory;

pub use config::{CPUS_MAX, DiskConfig, MachineConfig, SerialSink};
use control::Control;
pub use error::{DeviceFailure, ExitReason, GuestFailure, MachineError};
use reset::PowerOn;
use status::ResetCause;
pub use status::{Hold, RunState};

/// How long a machine that is dropped waits for its threads.
const JOIN_DEADLINE: Duration = Duration::from_secs(3);
/// How long output that the guest wrote before a triple fault may take to be noticed.
const OUTPUT_DEADLINE: Duration = Duration::from_millis(100);

/// A machine: vCPUs run exactly while the operator wants them to and nobody holds them.
pub struct Machine {
    parts: Arc<Parts>,
    reset_thread: Option<JoinHandle<()>>,
}

/// What the machine's threads share. A thread that cannot be ended keeps it, and with it guest memory, alive.
struct Parts {
    name: String,
    boot: BootSource,
    power_on: PowerOn,
    control: Arc<Control>,
    ports: Bus,
    mmio: Bus,
    devices: Mutex<Vec<Box<dyn Device>>>,
    serial: Arc<Serial>,
    faults: Arc<FaultControl>,
    /// This host's offer.
    description: MachineDescription,
    /// With the CPUID of a guest that came from elsewhere.
    arrived: OnceLock<MachineDescription>,
    vcpus: Vec<Mutex<Vcpu>>,
    dirty_log: Arc<DirtyLog>,
    vm: Arc<Vm>,
    memory: Arc<Memory>,
}

impl Machine {
    /// Builds the machine and, unless the guest comes from elsewhere or is to wait, lets it run.
    ///
    /// # Errors
    /// When a part of the configuration is not possible on this host, naming it.
    pub fn build(config: &MachineConfig, events: Arc<Events>) -> Result<Self, MachineError> {
        let parts = Arc::new(build::assemble(config, events)?);
        let mut machine = Machine { parts: parts.clone(), reset_thread: None };
        if !config.incoming {
            reset::load_guest(&parts)?;
        }
        for index in 0..parts.vcpus.len() {
            machine.spawn_vcpu(index)?;
        }
        let serving = parts.clone();
        let thread = std::thread::Builder::new().name("reset".to_owned()).spawn(move || reset::serve(&serving));
        machine.reset_thread = Some(thread.map_err(|error| MachineError::Thread("resets", error))?);
        if !config.incoming {
            let _turn = parts.control.turn.take("starting")?;
            parts.begin()?;
        }
        Ok(machine)
    }

    fn spawn_vcpu(&self, index: usize) -> Result<(), MachineError> {
        let parts = self.parts.clone();
        let thread = std::thread::Builder::new().name(format!("vcpu-{index}")).spawn(move || vcpu::run(&parts, index));
        // Its end is heard of through the gate; nobody joins it.
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

    /// The operator's `cont`. Remembered while a hold is in place.
    ///
    /// # Errors
    /// When the guest was handed over or has ended, or a device cannot begin to run.
    pub fn cont(&self) -> Result<(), MachineError> {
        self.say(true)?;
        let _turn = match self.held() {
            true => return Ok(()),
            false => self.parts.control.turn.take("cont")?,
        };
        // A hold that came meanwhile remembers the wish.
        if self.held() { Ok(()) } else { self.parts.begin() }
    }

    /// The operator's `stop`. Remembered while a hold is in place.
    ///
    /// # Errors
    /// When the guest was handed over or has ended, or a vCPU does not stop; then it runs on.
    pub fn stop(&self) -> Result<(), MachineError> {
        self.say(false)?;
        if self.held() {
            return Ok(());
        }
        let _turn = self.parts.control.turn.take("stop")?;
        if self.parts.control.status().wants {
            return Ok(());
        }
        if let Err(error) = self.parts.control.stop() {
            self.parts.control.status().wants = true;
            return Err(error);
        }
        // Memory stands still while the guest is stopped.
        if !self.held() && let Err(failure) = self.parts.quiesce() {
            tracing::warn!(%failure, "stopped, but the device may still be writing");
        }
        Ok(())
    }

    fn say(&self, run: bool) -> Result<(), MachineError> {
        let mut status = self.parts.control.status();
        match (&status.ended, status.hold) {
            (Some(reason), _) => Err(MachineError::Ended(reason.to_string())),
            (None, Some(Hold::HandedOver)) => Err(MachineError::HandedOver),
            (None, _) => {
                (status.wants, status.said) = (run, true);
                Ok(())
            }
        }
    }

    fn held(&self) -> bool {
        self.parts.control.status().hold.is_some()
    }

    /// Whether the operator wants the guest to run (it does as soon as no hold is in place).
    #[must_use]
    pub fn wants_to_run(&self) -> bool {
        self.parts.control.status().wants
    }

    /// For a destination: what the source's operator wanted. What this process's operator has said counts more.
    pub fn set_wants_to_run(&self, run: bool) {
        let mut status = self.parts.control.status();
        if !status.said {
            status.wants = run;
        }
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

    /// Stops the vCPUs (returns when none is in KVM_RUN) and keeps them stopped. A switchover's hold may become
    /// [`Hold::HandedOver`].
    ///
    /// # Errors
    /// When the guest has ended or belongs elsewhere, or a vCPU does not stop. What held the machine before still does, and
    /// only that.
    pub fn hold(&self, hold: Hold) -> Result<(), MachineError> {
        let control = &self.parts.control;
        let _turn = control.turn.take("stopping the guest")?;
        let before = {
            let mut status = control.status();
            match (status.hold, hold) {
                (Some(Hold::HandedOver), Hold::HandedOver) => return Ok(()),
                (Some(Hold::HandedOver), _) => return Err(MachineError::HandedOver),
                (Some(Hold::Incoming), Hold::Switchover) => return Err(MachineError::AwaitsGuest),
                _ => {}
            }
            status.hold.replace(hold)
        };
        let stopped = control.stop();
        let mut status = control.status();
        let result = match (stopped, &status.ended) {
            (Err(error), _) => Err(error),
            // A guest that is handed over is gone whatever it did last.
            (Ok(()), Some(reason)) if hold != Hold::HandedOver => Err(MachineError::Ended(reason.to_string())),
            (Ok(()), _) => Ok(()),
        };
        if result.is_err() {
            status.hold = before;
        }
        result
    }

    /// Ends the hold: takes what running needs and, if wanted, runs; returns once the vCPUs are entering `KVM_RUN`. From then
    /// on a guest that came from elsewhere is this process's own.
    ///
    /// # Errors
    /// When the guest belongs elsewhere, or a device cannot begin to run (its disk is locked by another process). The hold
    /// then stays.
    pub fn release_hold(&self) -> Result<(), MachineError> {
        let control = &self.parts.control;
        let _turn = control.turn.take("starting the guest")?;
        let before = control.status().hold;
        if before == Some(Hold::HandedOver) {
            return Err(MachineError::HandedOver);
        }
        if before == Some(Hold::Incoming) {
            self.parts.settle_in();
        }
        self.parts.acquire()?;
        control.status().hold = None;
        if let Err(error) = self.parts.begin() {
            control.status().hold = before;
            self.parts.give_up_resources();
            return Err(error);
        }
        self.parts.faults.set_direction(Direction::Outgoing);
        Ok(())
    }

    /// Drains and flushes the devices. vCPUs stopped.
    ///
    /// # Errors
    /// The device that could not, and why.
    pub fn quiesce(&self) -> Result<(), DeviceFailure> {
        let _turn = self.stopped("draining devices")?;
        self.parts.quiesce()
    }

    /// Releases what only a running guest may hold (disk locks).
    ///
    /// # Errors
    /// The device that could not, and why.
    pub fn release_resources(&self) -> Result<(), DeviceFailure> {
        let _turn = self.stopped("releasing the disk")?;
        for device in self.parts.devices().iter_mut() {
            device.release().map_err(|error| DeviceFailure::new(device.id(), error))?;
        }
        Ok(())
    }

    /// Saves everything but memory. vCPUs stopped.
    ///
    /// # Errors
    /// The device that could not be saved, and why.
    pub fn save(&self) -> Result<Vec<Section>, DeviceFailure> {
        let _turn = self.stopped("saving device state")?;
        sections::save(&self.parts)
    }

    /// Stops the vCPUs for the shortest time that a save takes, then lets them go on. Clients do not hear of it.
    ///
    /// # Errors
    /// The device that could not be saved, and why; the guest goes on all the same.
    pub fn snapshot(&self) -> Result<Vec<Section>, DeviceFailure> {
        let control = &self.parts.control;
        let _turn = control.turn.take("saving device state")?;
        if !control.status().running {
            self.check_not_ended()?;
            return sections::save(&self.parts);
        }
        control.halt()?;
        let saved = sections::save(&self.parts);
        control.go_on()?;
        self.check_not_ended()?;
        saved
    }

    /// Loads and post_loads everything but memory. vCPUs stopped. Repeatable.
    ///
    /// # Errors
    /// The device that could not be loaded, and why. The machine can then be loaded again, but not run.
    pub fn load(&self, sections: &[Section]) -> Result<(), DeviceFailure> {
        let _turn = self.stopped("loading device state")?;
        sections::load(&self.parts, sections)
    }

    /// The turn, with the vCPUs stopped.
    fn stopped(&self, doing: &'static str) -> Result<turn::TurnGuard<'_>, MachineError> {
        let turn = self.parts.control.turn.take(doing)?;
        match self.parts.control.status().running {
            true => Err(MachineError::Busy { doing: "running the guest, which must be stopped first" }),
            false => Ok(turn),
        }
    }

    fn check_not_ended(&self) -> Result<(), MachineError> {
        match &self.parts.control.status().ended {
            Some(reason) => Err(MachineError::Ended(reason.to_string())),
            None => Ok(()),
        }
    }

    /// Ends a hang or a delay of the fault device, so that a save or load that has passed its deadline returns.
    pub fn interrupt_faults(&self) {
        self.parts.faults.interrupt();
    }

    /// The fault device's rules.
    #[must_use]
    pub fn faults(&self) -> &Arc<FaultControl> {
        &self.parts.faults
    }

    /// The serial port, for whoever feeds it with input.
    #[must_use]
    pub fn serial(&self) -> &Arc<Serial> {
        &self.parts.serial
    }

    /// The guest's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.parts.name
    }

    /// What `Hello` compares: of a guest that came from elsewhere, with the CPUID that it sees.
    #[must_use]
    pub fn description(&self) -> &MachineDescription {
        self.parts.arrived.get().unwrap_or(&self.parts.description)
    }

    /// Guest RAM.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.parts.memory
    }

    /// The dirty log of RAM.
    #[must_use]
    pub fn dirty_log(&self) -> &Arc<DirtyLog> {
        &self.parts.dirty_log
    }

    /// The operator's `system_reset`. While a hold is in place it is remembered and travels with the guest; while the guest is
    /// stopped it is carried out at once.
    ///
    /// # Errors
    /// When the guest is not here or has ended, or a part cannot be reset.
    pub fn reset(&self) -> Result<(), MachineError> {
        let control = &self.parts.control;
        let hold = control.status().hold;
        self.check_not_ended()?;
        match hold {
            Some(Hold::HandedOver) => return Err(MachineError::HandedOver),
            Some(Hold::Incoming) => return Err(MachineError::AwaitsGuest),
            Some(Hold::Switchover) | None => control.request_reset(ResetCause::Operator),
        }
        if control.status().running || hold.is_some() {
            return Ok(());
        }
        let _turn = control.turn.take("a reset")?;
        match self.held() {
            true => Ok(()),
            false => reset::carry_out_pending(&self.parts),
        }
    }

    /// The operator's `quit`: the guest stops and [`Machine::wait_exit`] returns.
    pub fn quit(&self) {
        self.quit_because("host-qmp-quit");
    }

    /// As [`Machine::quit`], for another of QEMU's `ShutdownCause`s, for example `host-signal` or `host-ui`.
    pub fn quit_because(&self, cause: &'static str) {
        self.parts.control.end(ExitReason::Quit(cause));
    }

    /// Blocks until the guest has ended, and says why.
    #[must_use]
    pub fn wait_exit(&self) -> ExitReason {
        let status = self.parts.control.wait_until(|status| status.ended.is_some());
        status.ended.clone().unwrap_or(ExitReason::Shutdown)
    }
}

impl Parts {
    fn vcpu(&self, index: usize) -> MutexGuard<'_, Vcpu> {
        self.vcpus[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn devices(&self) -> MutexGuard<'_, Vec<Box<dyn Device>>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the guest run if it should, after a reset that is due. The caller has the turn.
    fn begin(&self) -> Result<(), MachineError> {
        let (due, running) = {
            let status = self.control.status();
            (status.hold.is_none() && status.ended.is_none(), status.running)
        };
        if !due || running {
            return Ok(());
        }
        self.acquire()?;
        reset::carry_out_pending(self)?;
        if !self.control.status().wants {
            return self.quiesce().map_err(|failure| MachineError::Device {
                device: failure.device,
                source: std::io::Error::other(failure.reason),
            });
        }
        for index in 0..self.vcpus.len() {
            self.vcpu(index).note_pause();
        }
        self.control.start()
    }

    /// Takes what running needs for every device, or for none.
    fn acquire(&self) -> Result<(), MachineError> {
        let mut devices = self.devices();
        for at in 0..devices.len() {
            if let Err(source) = devices[at].acquire() {
                let device = devices[at].id().to_string();
                release(&mut devices[..at]);
                return Err(MachineError::Device { device, source });
            }
        }
        Ok(())
    }

    fn give_up_resources(&self) {
        release(&mut self.devices());
    }

    fn quiesce(&self) -> Result<(), DeviceFailure> {
        for device in self.devices().iter_mut() {
            device.quiesce().map_err(|error| DeviceFailure::new(device.id(), error))?;
        }
        Ok(())
    }

    /// The guest that arrived is this process's own from now on: what it sees is what the next destination must have.
    fn settle_in(&self) {
        let own = MachineDescription { cpuid: description::cpuid_of(&self.vcpu(0)), ..self.description.clone() };
        // It arrives only once; a second try after a failed start finds the same.
        let _ = self.arrived.set(own);
    }

    /// A vCPU triple-faulted.
    fn triple_fault(&self, vcpu: u32) {
        // What the guest has said may still be on its way to the sink. A sink that takes nothing is told of elsewhere.
        let _ = self.serial.drain_output(OUTPUT_DEADLINE);
        self.control.triple_fault(vcpu);
    }
}

fn release(devices: &mut [Box<dyn Device>]) {
    for device in devices {
        if let Err(error) = device.release() {
            tracing::warn!(device = %device.id(), %error, "could not be released");
        }
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
