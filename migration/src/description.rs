//! The description of a machine, which its peer compares before any memory is sent.
//!
//! The source sends its description in `Hello`; the destination compares it with its own in
//! [`check`] and refuses with the first item that differs, so that an impossible migration ends
//! before the guest is touched.

mod cpuid;

use serde::{Deserialize, Serialize};

/// A contiguous range of guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RamRange {
    /// Guest physical address of the first byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

/// One CPUID leaf as the guest sees it (KVM API, `KVM_SET_CPUID2`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CpuidLeaf {
    /// EAX input.
    pub function: u32,
    /// ECX input.
    pub index: u32,
    /// EAX, EBX, ECX, EDX as returned.
    pub registers: [u32; 4],
}

/// A device with what its state needs on the other side.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeviceDescription {
    /// The kind, for example `virtio-blk`.
    pub name: String,
    /// Which of that kind, from 0.
    pub instance: u32,
    /// Version of the state it saves (source) or the newest it reads (destination).
    pub state_version: u32,
    /// Virtio feature bits offered to the guest; 0 for other devices.
    pub features: u64,
    /// Capacity of the attached disk in bytes; `None` if nothing is attached.
    pub capacity: Option<u64>,
    /// The attached disk refuses writes.
    pub read_only: bool,
}

/// Everything that `Hello` compares.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MachineDescription {
    /// Guest RAM, in ascending order of address.
    pub memory: Vec<RamRange>,
    /// Bytes in a page, always 4096 on x86-64.
    pub page_size: u32,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// CPUID as the guest sees it (source) or as this host could offer it (destination).
    pub cpuid: Vec<CpuidLeaf>,
    /// Indexes of the model-specific registers that a vCPU's state holds (source) or that this
    /// host can set (destination).
    pub msrs: Vec<u32>,
    /// All devices with state, in the order of saving.
    pub devices: Vec<DeviceDescription>,
}

/// The first item in which a destination does not match its source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{item}: the source has {source_has}, the destination has {destination_has}")]
pub struct Incompatibility {
    /// What differs: `memory`, `vcpus`, `device virtio-blk/0`, `CPUID leaf 0x7.0 EBX`, …
    pub item: String,
    /// The source's value, as text.
    pub source_has: String,
    /// The destination's value, as text.
    pub destination_has: String,
}

impl MachineDescription {
    /// Bytes of guest RAM.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        self.memory.iter().map(|range| range.len).sum()
    }
}

/// Compares a source with a destination.
///
/// Memory, vCPUs and devices must be equal, with a state version that the destination reads,
/// virtio features that it offers and a disk that is at least as large: the guest keeps the
/// capacity that it has seen. Every bit of CPUID that the guest sees must be equal there, unless
/// it may differ harmlessly; feature bits may be more, never less. Every MSR of the source must be
/// known.
///
/// # Errors
/// The first item that differs.
pub fn check(source: &MachineDescription, destination: &MachineDescription) -> Result<(), Incompatibility> {
    same("page size", source.page_size, destination.page_size)?;
    if source.memory != destination.memory {
        return differs("memory", ram(source), ram(destination));
    }
    same("vcpus", source.vcpus, destination.vcpus)?;
    check_devices(source, destination)?;
    cpuid::check(source, destination)?;
    match source.msrs.iter().find(|msr| !destination.msrs.contains(msr)) {
        Some(msr) => differs(&format!("MSR {msr:#x}"), "it".into(), "no such MSR".into()),
        None => Ok(()),
    }
}

fn check_devices(source: &MachineDescription, destination: &MachineDescription) -> Result<(), Incompatibility> {
    for device in &source.devices {
        let item = format!("device {}/{}", device.name, device.instance);
        let same_device = |d: &&DeviceDescription| d.name == device.name && d.instance == device.instance;
        let Some(other) = destination.devices.iter().find(same_device) else {
            return differs(&item, "it".into(), "no such device".into());
        };
        if device.state_version > other.state_version {
            let versions = (device.state_version, other.state_version);
            return differs(
                &format!("{item} state version"),
                versions.0.to_string(),
                format!("at most {}", versions.1),
            );
        }
        if device.features & !other.features != 0 {
            return differs(
                &format!("{item} features"),
                format!("{:#x}", device.features),
                format!("{:#x}", other.features),
            );
        }
        // A larger disk is accepted: the guest keeps the capacity that it was offered.
        if device.capacity.is_some() != other.capacity.is_some() || device.capacity > other.capacity {
            return differs(&format!("{item} capacity in bytes"), capacity(device), capacity(other));
        }
        same(&format!("{item} read-only"), device.read_only, other.read_only)?;
    }
    let unknown = destination
        .devices
        .iter()
        .find(|d| !source.devices.iter().any(|s| s.name == d.name && s.instance == d.instance));
    match unknown {
        Some(d) => differs(&format!("device {}/{}", d.name, d.instance), "no such device".into(), "it".into()),
        None => Ok(()),
    }
}

fn ram(machine: &MachineDescription) -> String {
    let ranges: Vec<_> = machine.memory.iter().map(|r| format!("{} MiB at {:#x}", r.len >> 20, r.start)).collect();
    format!("{} MiB ({})", machine.ram_bytes() >> 20, ranges.join(", "))
}

fn capacity(device: &DeviceDescription) -> String {
    device.capacity.map_or_else(|| "nothing attached".to_owned(), |bytes| bytes.to_string())
}

fn same<T: PartialEq + std::fmt::Display>(item: &str, source: T, destination: T) -> Result<(), Incompatibility> {
    if source == destination { Ok(()) } else { differs(item, source.to_string(), destination.to_string()) }
}

fn differs(item: &str, source_has: String, destination_has: String) -> Result<(), Incompatibility> {
    Err(Incompatibility { item: item.to_owned(), source_has, destination_has })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> MachineDescription {
        MachineDescription {
            memory: vec![RamRange { start: 0, len: 256 << 20 }],
            page_size: 4096,
            vcpus: 2,
            cpuid: vec![
                CpuidLeaf { function: 1, index: 0, registers: [0x1234, 0x0800, 0x3, 0x7] },
                CpuidLeaf { function: 7, index: 0, registers: [0, 0x20, 0, 0] },
            ],
            msrs: vec![0x10, 0x1b],
            devices: vec![DeviceDescription {
                name: "virtio-blk".into(),
                instance: 0,
                state_version: 1,
                features: 0x3,
                capacity: Some(1 << 20),
                read_only: false,
            }],
        }
    }

    /// What the refusal names when the destination (or the source) is changed by `change`.
    fn refusal(change: impl Fn(&mut MachineDescription)) -> String {
        let mut other = machine();
        change(&mut other);
        check(&machine(), &other).expect_err("the machines differ").to_string()
    }

    #[test]
    fn equal_machines_match() {
        assert_eq!(check(&machine(), &machine()), Ok(()));
    }

    #[test]
    fn a_destination_that_offers_more_matches() {
        let mut richer = machine();
        richer.cpuid[1].registers[1] |= 0x40;
        richer.msrs.push(0x99);
        richer.devices[0].features |= 0x8;
        richer.devices[0].state_version = 2;
        richer.devices[0].capacity = Some(2 << 20);
        assert_eq!(check(&machine(), &richer), Ok(()));
    }

    #[test]
    fn each_difference_is_named() {
        assert!(refusal(|m| m.memory[0].len = 512 << 20).contains("source has 256 MiB"));
        assert!(refusal(|m| m.vcpus = 1).starts_with("vcpus: the source has 2, the destination has 1"));
        assert!(refusal(|m| m.cpuid[1].registers[1] = 0).contains("CPUID leaf 0x7.0 EBX"));
        assert!(refusal(|m| m.msrs.truncate(1)).contains("MSR 0x1b"));
        assert!(refusal(|m| m.devices.clear()).contains("device virtio-blk/0"));
        assert!(refusal(|m| m.devices[0].capacity = None).contains("capacity"));
        assert!(
            refusal(|m| m.devices[0].capacity = Some(1 << 19)).contains("capacity in bytes: the source has 1048576")
        );
        assert!(refusal(|m| m.devices[0].read_only = true).contains("read-only"));
        assert!(refusal(|m| m.devices[0].state_version = 0).contains("state version"));
        assert!(refusal(|m| m.devices[0].features = 1).contains("features"));
        assert!(
            refusal(|m| m.devices.push(DeviceDescription { instance: 1, ..machine().devices[0].clone() }))
                .contains("virtio-blk/1")
        );
    }
}
