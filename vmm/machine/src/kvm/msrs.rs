//! The model-specific registers of a vCPU: which ones this host saves, and all of them in one
//! call.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};

use super::calls::{Calls, StateCall};
use super::error::{KvmError, StateError, call};

/// IA32_TIME_STAMP_COUNTER.
pub(super) const TSC: u32 = 0x10;
/// IA32_TSC_DEADLINE.
pub(super) const TSC_DEADLINE: u32 = 0x6e0;

/// KVM's registers for asynchronous page faults (KVM documentation, x86 MSRs), a feature that
/// guests are not shown. If KVM itself has halted a vCPU until the host brings a page, writing the
/// first register drops that page's notification, and the vCPU stays halted indefinitely (seen on
/// 6.18, after a reset in postcopy).
const ASYNC_PAGE_FAULTS: [u32; 3] = [0x4b56_4d02, 0x4b56_4d06, 0x4b56_4d07];

/// `MSR_KVM_WALL_CLOCK` and `MSR_KVM_SYSTEM_TIME`, each under its old and its new number (KVM
/// documentation, x86 MSRs): addresses in guest memory, to which KVM writes the time when they are
/// set.
pub(super) const CLOCKS: [u32; 4] = [0x11, 0x12, 0x4b56_4d00, 0x4b56_4d01];

/// Registers in one call; KVM takes fewer than 256.
const BATCH: usize = 255;

/// The registers of KVM's own list that can be read here and set to the value read, as tried on a
/// fresh vCPU.
pub(super) fn list(kvm: &Kvm, calls: &Calls, fresh: &VcpuFd) -> Result<Vec<u32>, KvmError> {
    let listed = kvm.get_msr_index_list().map_err(call("KVM_GET_MSR_INDEX_LIST"))?;
    let mut usable = listed.as_slice().to_vec();
    usable.sort_unstable();
    usable.dedup();
    usable.retain(|index| !ASYNC_PAGE_FAULTS.contains(index));
    loop {
        // Each failure removes one register, so this ends.
        let (index, why) = match get(calls, fresh, &usable).and_then(|entries| set(calls, fresh, &entries)) {
            Ok(()) => return Ok(usable),
            Err(StateError::MsrUnreadable { index }) => (index, "read"),
            Err(StateError::MsrRefused { index, .. }) => (index, "set"),
            Err(StateError::Call { call, errno }) => return Err(KvmError::Call { call, errno }),
            Err(_) => return Err(KvmError::Missing("a usable list of MSRs")),
        };
        tracing::debug!(msr = format_args!("{index:#x}"), "listed, but cannot be {why}");
        usable.retain(|other| *other != index);
    }
}

/// Reads registers.
pub(super) fn get(calls: &Calls, vcpu: &VcpuFd, indexes: &[u32]) -> Result<Vec<kvm_msr_entry>, StateError> {
    let mut entries = Vec::with_capacity(indexes.len());
    for batch in indexes.chunks(BATCH) {
        let wanted: Vec<_> = batch.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
        let mut msrs = wrap(&wanted)?;
        let count = calls.make(StateCall::GetMsrs, || vcpu.get_msrs(&mut msrs))?;
        if let Some(index) = batch.get(count) {
            return Err(StateError::MsrUnreadable { index: *index });
        }
        entries.extend_from_slice(msrs.as_slice());
    }
    Ok(entries)
}

/// Sets registers, in the order given.
pub(super) fn set(calls: &Calls, vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), StateError> {
    for batch in entries.chunks(BATCH) {
        let msrs = wrap(batch)?;
        let count = calls.make(StateCall::SetMsrs, || vcpu.set_msrs(&msrs))?;
        if let Some(refused) = batch.get(count) {
            return Err(StateError::MsrRefused { index: refused.index, value: refused.data });
        }
    }
    Ok(())
}

fn wrap(entries: &[kvm_msr_entry]) -> Result<Msrs, StateError> {
    Msrs::from_entries(entries).map_err(|error| StateError::Malformed(format!("list of MSRs: {error:?}")))
}
