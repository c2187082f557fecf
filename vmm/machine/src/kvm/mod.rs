//! KVM: the virtual machine, its vCPUs, what they save and load, and the dirty log.
//!
//! Everything here is a thin, checked layer over ioctls (Linux `Documentation/virt/kvm/api.rst`);
//! the machine decides when to call it. A capability is probed before what it guards is called.

pub(crate) mod calls;
pub(crate) mod chips;
pub(crate) mod clock;
pub(crate) mod cpuid;
mod dirty_log;
mod error;
mod exact;
mod ioctls;
mod msrs;
pub(crate) mod state;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod vcpu;
mod vm;

pub use calls::StateCall;
pub use dirty_log::DirtyLog;
pub use error::{KvmError, StateError};
pub(crate) use vcpu::{RunArea, Vcpu, create_all};
pub(crate) use vm::Vm;
