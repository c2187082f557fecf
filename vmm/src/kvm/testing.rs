//! What tests of this crate that need the real `/dev/kvm` share.

use std::sync::Arc;

use ferry_devices::fault::{Direction, FaultControl};
use ferry_memory::{Memory, MemoryConfig};

use super::{Vcpu, Vm, create_all};

/// Whether tests may use KVM. Without it they fail, unless `FERRY_NO_KVM=1` says that this is
/// known.
pub(crate) fn has_kvm() -> bool {
    if std::env::var_os("FERRY_NO_KVM").is_some_and(|value| value == "1") {
        eprintln!("skipped: FERRY_NO_KVM=1");
        return false;
    }
    if let Err(error) = kvm_ioctls::Kvm::new() {
        panic!("{}; set FERRY_NO_KVM=1 to skip these tests", super::KvmError::Open(error));
    }
    true
}

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
