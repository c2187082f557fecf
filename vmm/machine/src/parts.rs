//! The parts of a machine, as its threads share them, and what is done with all of them at once.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ferry_devices::fault::FaultControl;
use ferry_devices::serial::Serial;
use ferry_devices::{Bus, Device, DeviceId, Handle};
use ferry_memory::Memory;
use ferry_migration::MachineDescription;
use ferry_migration::guards::Guards;
use ferry_migration::ownership::Handover;
use ferry_migration::ownership::custody::{self, Again};

use super::control::Control;
use super::custody::{Custody, Settle};
use super::error::{DeviceFailure, MachineError};
use super::identity::DiskCalls;
use super::reset::PowerOn;
use super::{description, reset};
use crate::boot::BootSource;
use crate::kvm::vcpu::part;
use crate::kvm::{DirtyLog, Vcpu, Vm};

/// How long output that the guest wrote before a triple fault may take to be noticed.
const OUTPUT_DEADLINE: Duration = Duration::from_millis(100);
/// Longest that another process may hold the disk's lock when a switchover ends: a boot that the
/// record refuses holds it for as long as the record takes to answer.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// How often the lock is tried meanwhile.
const LOCK_AGAIN: Duration = Duration::from_millis(5);

/// What the machine's threads share. A thread that cannot be ended keeps it, and with it guest
/// memory, alive.
pub(super) struct Parts {
    pub(super) name: String,
    pub(super) boot: BootSource,
    pub(super) power_on: PowerOn,
    pub(super) control: Arc<Control>,
    pub(super) ports: Bus,
    pub(super) mmio: Bus,
    pub(super) devices: Mutex<Vec<Box<dyn Device>>>,
    /// Of the devices, in order: a load that hangs has the devices locked.
    pub(super) device_names: Vec<String>,
    pub(super) serial: Arc<Serial>,
    /// For what must not wait for the devices' lock.
    pub(super) handles: Vec<(DeviceId, Arc<dyn Handle>)>,
    /// Of migrations to the disk's storage.
    pub(super) disk_calls: DiskCalls,
    pub(super) faults: Arc<FaultControl>,
    /// This host's offer.
    pub(super) description: Arc<MachineDescription>,
    /// With the CPUID and the disk capacity of a guest that came from elsewhere, once it is this
    /// process's own.
    pub(super) arrived: Mutex<Option<Arc<MachineDescription>>>,
    /// The announced hand-overs through which the guest has come here.
    pub(super) came_through: Mutex<Vec<Handover>>,
    /// Asked before the guest runs again after its disk was let go of.
    pub(super) custody: OnceLock<Arc<dyn Custody>>,
    pub(super) vcpus: Vec<Mutex<Vcpu>>,
    pub(super) dirty_log: Arc<DirtyLog>,
    pub(super) vm: Arc<Vm>,
    pub(super) memory: Arc<Memory>,
}

impl Parts {
    pub(super) fn vcpu(&self, index: usize) -> MutexGuard<'_, Vcpu> {
        self.vcpus[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn devices(&self) -> MutexGuard<'_, Vec<Box<dyn Device>>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the guest run if it should. The caller has the turn, and no hold is in place.
    pub(super) fn begin(&self) -> Result<(), MachineError> {
        let (idle, held) = {
            let status = self.control.status();
            (!status.running && status.ended.is_none(), status.holds)
        };
        if !idle {
            return Ok(());
        }
        self.acquire()?;
        let claim = self.claim(Again::Cont).inspect_err(|_| {
            if !custody::keeps_disk(held, Guards::all()) {
                self.give_up_resources();
            }
        })?;
        self.run_if_wanted()?;
        self.has_its_disk(claim);
        Ok(())
    }

    /// Of a guest whose disk was let go of, and is held again: asks whether it may run here. What
    /// is returned is for [`Parts::has_its_disk`].
    pub(super) fn claim(&self, again: Again) -> Result<Option<Settle>, MachineError> {
        let let_go = self.control.status().let_go;
        let Some(custody) = self.custody.get().filter(|_| custody::must_claim(let_go, again, Guards::all())) else {
            return Ok(None);
        };
        custody.claim(again).map(Some).map_err(MachineError::NotOurs)
    }

    /// A guest whose disk may have been let go of runs here again, or stands still with its disk.
    pub(super) fn has_its_disk(&self, claim: Option<Settle>) {
        self.control.status().let_go = false;
        if let Some(settle) = claim {
            settle();
        }
    }

    /// With what running needs in hand: carries out a reset that is due, and lets the guest run if
    /// the operator wants it.
    pub(super) fn run_if_wanted(&self) -> Result<(), MachineError> {
        reset::carry_out_pending(self)?;
        if !self.control.status().wants {
            return self.quiesce().map_err(|failure| MachineError::Device {
                device: failure.device,
                source: std::io::Error::other(failure.reason),
            });
        }
        self.settle()?;
        for vcpu in &self.vcpus {
            // One that is locked waits in KVM for a page: it was not out.
            if let Ok(vcpu) = vcpu.try_lock() {
                vcpu.note_pause();
            }
        }
        for device in self.devices().iter_mut() {
            let id = device.id();
            device.resume().map_err(|source| MachineError::Device { device: id.to_string(), source })?;
        }
        self.control.start()
    }

    /// Lets KVM write to guest memory what the last load has left out, if anything.
    pub(super) fn settle(&self) -> Result<(), MachineError> {
        for vcpu in &self.vcpus {
            // One that is locked waits in KVM for a page: it has run since.
            if let Ok(mut vcpu) = vcpu.try_lock() {
                let id = vcpu.id();
                vcpu.settle().map_err(|source| MachineError::State { part: part(id).to_string(), source })?;
            }
        }
        Ok(())
    }

    /// As [`Parts::acquire`], for a guest that is to run at the end of a switchover: a process
    /// that boots the guest at this moment holds the disk's lock until the record has refused it.
    pub(super) fn acquire_patiently(&self) -> Result<(), MachineError> {
        let until = Instant::now() + LOCK_PATIENCE;
        loop {
            match self.acquire() {
                Err(error) if error.is_busy_disk() && Instant::now() < until => std::thread::sleep(LOCK_AGAIN),
                result => return result,
            }
        }
    }

    /// Takes what running needs for every device, or for none. What was held before is kept in any
    /// case: with the lock of its disk a stopped guest would lose its newest state to a boot.
    pub(super) fn acquire(&self) -> Result<(), MachineError> {
        let held = self.control.status().holds;
        let mut devices = self.devices();
        for at in 0..devices.len() {
            if let Err(source) = devices[at].acquire() {
                let device = devices[at].id().to_string();
                if !custody::keeps_disk(held, Guards::all()) {
                    release(&mut devices[..at]);
                }
                return Err(MachineError::Device { device, source });
            }
        }
        self.control.status().holds = true;
        Ok(())
    }

    pub(super) fn give_up_resources(&self) {
        self.control.status().holds = false;
        release(&mut self.devices());
    }

    pub(super) fn quiesce(&self) -> Result<(), DeviceFailure> {
        for device in self.devices().iter_mut() {
            device.quiesce().map_err(|error| DeviceFailure::new(device.id(), error))?;
        }
        Ok(())
    }

    /// What the next destination must have: what the guest sees, which has been loaded.
    pub(super) fn describe_guest(&self) -> MachineDescription {
        let mut own = MachineDescription {
            cpuid: description::cpuid_of(&self.vcpu(0)),
            ..MachineDescription::clone(&self.description)
        };
        description::keep_offers(&mut own, &self.devices());
        own
    }

    /// What is compared with the other side of a migration.
    pub(super) fn description(&self) -> Arc<MachineDescription> {
        self.arrived().as_ref().unwrap_or(&self.description).clone()
    }

    /// The guest that arrived, of this description, is this process's own from now on; or it is
    /// not after all, and another may come.
    pub(super) fn settle_in(&self, guest: Option<MachineDescription>) {
        *self.arrived() = guest.map(Arc::new);
    }

    fn arrived(&self) -> MutexGuard<'_, Option<Arc<MachineDescription>>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A vCPU triple-faulted.
    pub(super) fn triple_fault(&self, vcpu: u32) {
        // What the guest has said may still be on its way to the sink. A sink that takes nothing
        // is told of elsewhere.
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
