//! What a migration's two sides compare before anything moves.

use ferry_devices::virtio::VirtioDevice;
use ferry_devices::{Device, DeviceId};
use ferry_memory::Memory;
use ferry_migration::MachineDescription;
use ferry_migration::description::{CpuidLeaf, DeviceDescription};
use ferry_migration::pages::PAGE_SIZE;

use super::build::Disk;
use super::sections;
use crate::kvm::{Vcpu, cpuid};

/// Describes a machine of these parts.
pub(super) fn describe(
    memory: &Memory,
    vcpus: &[Vcpu],
    devices: &[Box<dyn Device>],
    disk: Option<&Disk>,
) -> MachineDescription {
    let mut all: Vec<_> = sections::of_kvm(vcpus.len()).map(|(id, version)| plain(&id, version)).collect();
    for device in devices {
        let mut item = plain(&device.id(), device.state_version());
        if let Some(disk) = disk.filter(|disk| disk.device().id() == device.id()) {
            item.features = disk.device().offered_features();
            item.capacity = Some(disk.device().capacity_bytes());
            item.read_only = disk.device().is_read_only();
        }
        all.push(item);
    }
    all.push(plain(&sections::MACHINE, sections::MACHINE_VERSION));
    let first = vcpus.first();
    MachineDescription {
        memory: memory.ranges().to_vec(),
        page_size: PAGE_SIZE as u32,
        vcpus: vcpus.len() as u32,
        cpuid: first.map(cpuid_of).unwrap_or_default(),
        msrs: first.map(|vcpu| vcpu.host().msrs.clone()).unwrap_or_default(),
        devices: all,
    }
}

/// The capacity that the guest on this disk was offered, which may be less than its image has
/// here.
pub(super) fn keep_capacity(machine: &mut MachineDescription, disk: Option<&Disk>) {
    let Some(disk) = disk.map(|disk| disk.device()) else { return };
    let id = disk.id();
    for device in machine.devices.iter_mut().filter(|d| d.name == id.name && d.instance == id.instance) {
        device.capacity = Some(disk.capacity_bytes());
    }
}

/// CPUID as the guest sees it, without what only tells of this host's calibration.
pub(super) fn cpuid_of(vcpu: &Vcpu) -> Vec<CpuidLeaf> {
    let leaf = |entry: &kvm_bindings::kvm_cpuid_entry2| CpuidLeaf {
        function: entry.function,
        index: entry.index,
        registers: [entry.eax, entry.ebx, entry.ecx, entry.edx],
    };
    vcpu.cpuid().iter().filter(|entry| !cpuid::is_calibration(entry.function)).map(leaf).collect()
}

fn plain(id: &DeviceId, state_version: u32) -> DeviceDescription {
    DeviceDescription {
        name: id.name.to_owned(),
        instance: id.instance,
        state_version,
        features: 0,
        capacity: None,
        read_only: false,
    }
}
