//! What a machine is, as far as its peer must know before any memory moves.
//!
//! The source sends its description in `Hello`; the destination compares it with its own in [`check`] and refuses with the
//! first item that differs, so that an impossible migration ends before the guest is touched.

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
    /// What is attached and must be there on the other side: the capacity of a disk in bytes, for example.
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
    /// Indexes of the model-specific registers that a vCPU's state holds (source) or that this host can set (destination).
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
