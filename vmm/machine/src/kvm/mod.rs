//! KVM: the virtual machine, its vCPUs, their saved state, and the dirty log.
//!
//! Everything here is a thin, checked layer over ioctls (Linux `Documentation/virt/kvm/api.rst`);
//! the machine decides when to call it. A capability is probed before the call that it guards.

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
