//! Errors of the machine, and the reasons for a guest's end.

use std::io;
use std::time::Duration;

use ferry_devices::BusError;
use ferry_devices::fault::TooManyRules;
use ferry_devices::virtio::BlockError;
use ferry_memory::MemoryError;
use ferry_observe::output_file::OutputFileError;

use super::config::CPUS_MAX;
use crate::boot::BootError;
use crate::kvm::{KvmError, StateError};

/// The machine could not be built, or could not do something.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The number of vCPUs is not possible.
    #[error("{0} vCPUs are not possible: give 1 to {CPUS_MAX} with --cpus")]
    Cpus(u32),
    /// No guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The kernel, the initrd or the command line is not usable.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The disk image is not usable.
    #[error(transparent)]
    Disk(#[from] BlockError),
    /// The serial port's file does not open.
    #[error("--serial file:{0}")]
    Serial(#[source] OutputFileError),
    /// A rule of the fault device that is refused.
    #[error(transparent)]
    Faults(#[from] FaultRuleError),
    /// Two devices at one address.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A device could not be set up or could not begin to run.
    #[error("{device}: {source}")]
    Device {
        /// For example `virtio-blk/0`.
        device: String,
        /// Why not.
        source: io::Error,
    },
    /// A part's state could not be taken or set.
    #[error("{part}: {source}")]
    State {
        /// For example `vcpu/0`.
        part: String,
        /// Why not.
        source: StateError,
    },
    /// The host starts no more threads.
    #[error("a thread for {0} cannot be started; raise the limit of processes")]
    Thread(&'static str, #[source] io::Error),
    /// The guest belongs to another process.
    #[error("the guest was handed over to another process and cannot run here; quit this one")]
    HandedOver,
    /// The guest is being handed over, and the requested run state was sent with it.
    #[error(
        "the guest is being handed over: the destination may run it already; tell that side, or this one again if the \
         migration fails"
    )]
    Leaving,
    /// This process has released the guest's disk, and may not run the guest again.
    #[error("the guest stays stopped: {0}")]
    NotOurs(String),
    /// The guest has not arrived.
    #[error("the guest has not arrived yet; wait for the incoming migration")]
    AwaitsGuest,
    /// The guest ended.
    #[error("the guest has ended ({0}); quit and start it again")]
    Ended(String),
    /// A long operation on the machine is under way.
    #[error("the machine is busy with {doing}; try again, or cancel the migration if one is going on")]
    Busy {
        /// The operation.
        doing: &'static str,
    },
    /// Data that must come from one stop would come from two.
    #[error("the guest has run on since it was stopped for this; try again")]
    RanOn,
    /// vCPUs that did not come out of the guest in time.
    #[error("vCPU {vcpus} did not stop within {within:?}; the host may be overloaded: try again")]
    Stuck {
        /// The ids.
        vcpus: String,
        /// How long the caller waited.
        within: Duration,
    },
}

impl MachineError {
    /// Whether another process holds the lock of a disk.
    #[must_use]
    pub fn is_busy_disk(&self) -> bool {
        matches!(self, MachineError::Device { source, .. } if source.kind() == io::ErrorKind::ResourceBusy)
    }
}

/// A rule that this machine refuses.
#[derive(Debug, thiserror::Error)]
pub enum FaultRuleError {
    /// No such call.
    #[error("fault: at={name}: the state is saved and loaded with other calls: write one of {known}")]
    Call {
        /// The name given.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// No such output or message on that side.
    #[error("fault: at={at} is reached by no migration: write {moment}: and one of {known}")]
    Moment {
        /// Where the fault was to happen.
        at: String,
        /// The text before the colon.
        moment: &'static str,
        /// The names that there are.
        known: String,
    },
    /// The point does not concern a part of the machine.
    #[error("fault: at={at} is not about a part of the machine: leave of= out")]
    NoPart {
        /// Where the fault was to happen.
        at: String,
    },
    /// The machine has no disk.
    #[error("fault: at={at} does not happen here: start this process with --disk")]
    NoDisk {
        /// Where the fault was to happen.
        at: String,
    },
    /// The point has passed already.
    #[error("fault: at={at} happens when the process starts: give it with --device fault,…")]
    Past {
        /// Where the fault was to happen.
        at: String,
    },
    /// The machine has no such part, or the step or call is not about it.
    #[error("fault: at={at} does not happen to {of} here: write of= with one of {known}")]
    Part {
        /// Where the fault was to happen.
        at: String,
        /// The part given.
        of: String,
        /// The parts that there are.
        known: String,
    },
    /// Too many rules.
    #[error(transparent)]
    TooMany(#[from] TooManyRules),
}

/// Why a device could not be saved or loaded.
#[derive(Debug, thiserror::Error)]
#[error("{device}: {reason}")]
pub struct DeviceFailure {
    /// For example `virtio-blk/0`; `machine/0` for the machine as a whole.
    pub device: String,
    /// What happened.
    pub reason: String,
}

impl DeviceFailure {
    pub(super) fn new(device: impl ToString, reason: impl ToString) -> Self {
        DeviceFailure { device: device.to_string(), reason: reason.to_string() }
    }
}

impl From<MachineError> for DeviceFailure {
    fn from(error: MachineError) -> Self {
        DeviceFailure::new("machine/0", error)
    }
}

/// Why a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// The guest shut down.
    Shutdown,
    /// The operator ended the process; the text is QEMU's `ShutdownCause`.
    Quit(&'static str),
    /// The guest cannot go on.
    Failed(GuestFailure),
}

/// Why a guest cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestFailure {
    /// KVM met something that it cannot emulate (`KVM_EXIT_INTERNAL_ERROR`).
    #[error(
        "vCPU {vcpu}: KVM internal error {suberror} at RIP {rip:#x}, instruction bytes {bytes}; the guest used an \
         instruction that this host's KVM does not emulate"
    )]
    InternalError {
        /// Which vCPU.
        vcpu: u32,
        /// KVM's suberror; 1 is a failed emulation.
        suberror: u32,
        /// The guest's instruction pointer.
        rip: u64,
        /// The bytes there, in hexadecimal.
        bytes: String,
    },
    /// The processor refused the guest's state (`KVM_EXIT_FAIL_ENTRY`).
    #[error("vCPU {vcpu}: the processor refused to enter the guest, reason {reason:#x}; see the kernel log")]
    FailEntry {
        /// Which vCPU.
        vcpu: u32,
        /// The hardware's reason.
        reason: u64,
    },
    /// An exit that neither a device nor the vCPU's thread handles.
    #[error("vCPU {vcpu}: unexpected exit {exit}; report it with the guest's kernel and command line")]
    UnexpectedExit {
        /// Which vCPU.
        vcpu: u32,
        /// The exit, as text.
        exit: String,
    },
    /// `KVM_RUN` itself failed.
    #[error("vCPU {vcpu}: KVM_RUN: {error}; see the kernel log")]
    Run {
        /// Which vCPU.
        vcpu: u32,
        /// The error, as text.
        error: String,
    },
    /// The guest resets itself by triple faults and makes no progress.
    #[error("vCPU {vcpu}: triple fault, {why}; check the kernel and its command line")]
    TripleFaults {
        /// Which vCPU.
        vcpu: u32,
        /// Why a further reset would not help.
        why: &'static str,
    },
    /// A vCPU's thread ended unexpectedly.
    #[error("vCPU {vcpu}: its thread died; this is a fault of the program, report it")]
    VcpuDied {
        /// Which vCPU.
        vcpu: u32,
    },
    /// Pages that the guest lacks will never come.
    #[error("the guest cannot get its missing pages and is lost: {0}")]
    Lost(String),
    /// The machine could not be reset.
    #[error("reset failed: {0}")]
    Reset(String),
}

impl std::fmt::Display for ExitReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ExitReason::Shutdown => f.write_str("it shut down"),
            ExitReason::Quit(cause) => f.write_str(cause),
            ExitReason::Failed(failure) => write!(f, "{failure}"),
        }
    }
}
