//! The description that the two sides of a migration compare before anything is sent.

use ferry_devices::{Device, DeviceId, Offer};
use ferry_memory::Memory;
use ferry_migration::MachineDescription;
use ferry_migration::description::{CpuidLeaf, DeviceDescription};
use ferry_migration::pages::PAGE_SIZE;

use super::ids;
use crate::kvm::{Vcpu, cpuid};

/// Describes a machine of these parts.
pub(super) fn describe(memory: &Memory, vcpus: &[Vcpu], devices: &[Box<dyn Device>]) -> MachineDescription {
    let mut all: Vec<_> = ids::of_kvm(vcpus.len()).map(|(id, version)| plain(&id, version)).collect();
    all.extend(devices.iter().map(|device| {
        let Offer { features, capacity, read_only } = device.offer();
        DeviceDescription { features, capacity, read_only, ..plain(&device.id(), device.state_version()) }
    }));
    all.push(plain(&ids::MACHINE, ids::MACHINE_VERSION));
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

/// Keeps the capacities that the guest was offered where it booted, which may be less than these
/// devices have.
pub(super) fn keep_offers(machine: &mut MachineDescription, devices: &[Box<dyn Device>]) {
    for device in devices {
        let id = device.id();
        for item in machine.devices.iter_mut().filter(|item| item.name == id.name && item.instance == id.instance) {
            item.capacity = device.offer().capacity;
        }
    }
}

/// CPUID as the guest sees it, without the leaves that only describe this host's calibration.
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
