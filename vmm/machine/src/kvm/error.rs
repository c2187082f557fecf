//! Errors of KVM, with the call and a remedy.

use kvm_ioctls::Error as Errno;

/// KVM does not provide something that a machine needs.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// `/dev/kvm` does not open.
    #[error(
        "/dev/kvm cannot be opened ({0}); load the module (modprobe kvm_intel or kvm_amd), join the group that owns \
         /dev/kvm, and on a virtual machine enable nested virtualization"
    )]
    Open(Errno),
    /// This kernel's KVM lacks a capability that every machine needs.
    #[error("this host's KVM lacks {0}; use Linux 5.10 or newer with KVM for x86-64")]
    Missing(&'static str),
    /// A call failed.
    #[error("{call}: {errno}; see the KVM API documentation for this call, and the kernel log")]
    Call {
        /// The ioctl, with its purpose.
        call: &'static str,
        /// Why not.
        errno: Errno,
    },
    /// More vCPUs than KVM supports.
    #[error("{wanted} vCPUs are more than this host gives; give at most {most} with --cpus")]
    Cpus {
        /// vCPUs requested.
        wanted: u32,
        /// vCPUs possible.
        most: u32,
    },
}

/// Wraps the error of the ioctl named `call`.
pub(super) fn call(call: &'static str) -> impl FnOnce(Errno) -> KvmError {
    move |errno| KvmError::Call { call, errno }
}

/// A part of the machine's saved state could not be taken or set.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A call failed.
    #[error("{call}: {errno}")]
    Call {
        /// The ioctl.
        call: &'static str,
        /// Why not.
        errno: Errno,
    },
    /// The kernel refused a model-specific register.
    #[error(
        "MSR {index:#x} = {value:#x} is refused by this host's KVM; migrate between hosts of one kernel and CPU model"
    )]
    MsrRefused {
        /// The register.
        index: u32,
        /// The value that it should have taken.
        value: u64,
    },
    /// The kernel did not return a model-specific register that it lists.
    #[error("MSR {index:#x} cannot be read")]
    MsrUnreadable {
        /// The register.
        index: u32,
    },
    /// The state has a version that this build does not read.
    #[error("state version {found} is not supported: this build reads {supported}")]
    Version {
        /// The version that the state carries.
        found: u32,
        /// The version that this build reads.
        supported: u32,
    },
    /// The bytes are no such state.
    #[error("state does not decode: {0}")]
    Malformed(String),
    /// A field has an impossible value.
    #[error("{field} = {value}: {allowed}")]
    OutOfBounds {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The values that are possible.
        allowed: &'static str,
    },
    /// The guest's TSC runs at a rate that this host cannot provide.
    #[error(
        "the guest's TSC runs at {saved} kHz, this host's at {here} kHz and cannot be scaled; use a host of that rate"
    )]
    TscRate {
        /// The guest's rate in kHz.
        saved: u32,
        /// This host's rate in kHz.
        here: u32,
    },
}
