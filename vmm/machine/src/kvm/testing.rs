//! What tests of this crate that need the real `/dev/kvm` share.

use std::sync::Arc;

use ferry_devices::fault::{Direction, FaultControl};
use ferry_memory::{Memory, MemoryConfig};

use super::{Vcpu, Vm, create_all};

/// No rule yet.
pub(crate) fn no_faults() -> Arc<FaultControl> {
    Arc::new(FaultControl::new(Direction::Incoming))
}

/// Memory, machine and vCPUs.
pub(crate) fn machine(size: u64, cpus: u32) -> (Arc<Memory>, Arc<Vm>, Vec<Vcpu>) {
    let memory = Arc::new(Memory::new(&MemoryConfig { size, ..MemoryConfig::default() }).unwrap());
    let vm = Arc::new(Vm::create(&memory, &no_faults()).unwrap());
    let vcpus = create_all(&vm, cpus).unwrap();
    (memory, vm, vcpus)
}
