//! The parts of a machine, as its threads share them.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ferry_devices::fault::FaultControl;
use ferry_devices::serial::Serial;
use ferry_devices::{Bus, Device, DeviceId, Handle};
use ferry_memory::Memory;
use ferry_migration::MachineDescription;
use ferry_migration::ownership::Handover;

use super::custody::Custody;
use super::description;
use super::identity::DiskCalls;
use super::power_on::PowerOn;
use super::run_control::RunControl;
use crate::boot::BootSource;
use crate::kvm::{DirtyLog, Vcpu, Vm};

/// State that the machine's threads share. A thread that cannot be ended keeps it, and with it
/// guest memory, alive.
pub(super) struct Parts {
    pub(super) name: String,
    pub(super) boot: BootSource,
    pub(super) power_on: PowerOn,
    pub(super) control: Arc<RunControl>,
    pub(super) ports: Bus,
    pub(super) mmio: Bus,
    pub(super) devices: Mutex<Vec<Box<dyn Device>>>,
    /// Names of the devices, in order: a load that hangs has the devices locked.
    pub(super) device_names: Vec<String>,
    pub(super) serial: Arc<Serial>,
    /// For calls that must not wait for the devices' lock.
    pub(super) handles: Vec<(DeviceId, Arc<dyn Handle>)>,
    /// Calls of migrations to the disk's storage.
    pub(super) disk_calls: DiskCalls,
    pub(super) faults: Arc<FaultControl>,
    /// This host's offer.
    pub(super) description: Arc<MachineDescription>,
    /// The same with the CPUID and the disk capacity of a guest that arrived, once it is this
    /// process's own.
    pub(super) arrived: Mutex<Option<Arc<MachineDescription>>>,
    /// The announced hand-overs that the guest has gone through.
    pub(super) came_through: Mutex<Vec<Handover>>,
    /// The record to claim before the guest runs again after its disk was released.
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

    /// The description that the next destination must match: that of the loaded guest.
    pub(super) fn describe_guest(&self) -> MachineDescription {
        let mut own = MachineDescription {
            cpuid: description::cpuid_of(&self.vcpu(0)),
            ..MachineDescription::clone(&self.description)
        };
        description::keep_offers(&mut own, &self.devices());
        own
    }

    /// The description to compare with the other side of a migration.
    pub(super) fn description(&self) -> Arc<MachineDescription> {
        self.arrived().as_ref().unwrap_or(&self.description).clone()
    }

    /// Sets the description of a guest that arrived and is this process's own from now on; `None`
    /// if it is not after all, and another may arrive.
    pub(super) fn keep_description(&self, guest: Option<MachineDescription>) {
        *self.arrived() = guest.map(Arc::new);
    }

    fn arrived(&self) -> MutexGuard<'_, Option<Arc<MachineDescription>>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
