//! The processor that a guest sees: all that KVM supports here, with a topology of one package and
//! one thread a core.

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

use super::error::{KvmError, call};

/// KVM's feature leaf (Linux `Documentation/virt/kvm/x86/cpuid.rst`).
const KVM_FEATURES: u32 = 0x4000_0001;
/// Asynchronous page faults: KVM_FEATURE_ASYNC_PF (4), _ASYNC_PF_VMEXIT (10), _ASYNC_PF_INT (14).
/// With them, a page that postcopy has not brought yet costs a guest forty times as much as
/// without.
const ASYNC_PAGE_FAULTS: u32 = 1 << 4 | 1 << 10 | 1 << 14;
/// The leaf in which hypervisors give the rate of the TSC (EAX) and of the local APIC's timer
/// (EBX), in kHz.
const TIMING: u32 = 0x4000_0010;
const HYPERVISOR_BASE: u32 = 0x4000_0000;
/// KVM's local APIC timer runs at 1 GHz.
const LAPIC_KHZ: u32 = 1_000_000;

/// Leaf 1, ECX.
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: more than one logical processor in the package.
const HTT: u32 = 1 << 28;

/// The CPUID that this host offers to every vCPU.
pub(super) fn offered(kvm: &Kvm, tsc_khz: u32) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
    let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(call("KVM_GET_SUPPORTED_CPUID"))?;
    let deadline_timer = kvm.check_extension(Cap::TscDeadlineTimer);
    let mut entries = supported.as_slice().to_vec();
    for entry in &mut entries {
        match entry.function {
            1 => {
                entry.ecx |= HYPERVISOR | if deadline_timer { TSC_DEADLINE } else { 0 };
            }
            KVM_FEATURES => entry.eax &= !ASYNC_PAGE_FAULTS,
            HYPERVISOR_BASE => entry.eax = entry.eax.max(TIMING),
            _ => {}
        }
    }
    entries.retain(|entry| entry.function != TIMING);
    entries.push(kvm_cpuid_entry2 { function: TIMING, eax: tsc_khz, ebx: LAPIC_KHZ, ..Default::default() });
    Ok(entries)
}

/// Whether a leaf describes this host's calibration rather than features, and so may differ between
/// hosts.
#[must_use]
pub(crate) fn is_calibration(function: u32) -> bool {
    function == TIMING
}

/// The offer as vCPU `id` of `count` sees it.
pub(super) fn of_vcpu(offered: &[kvm_cpuid_entry2], id: u32, count: u32) -> Vec<kvm_cpuid_entry2> {
    let mut entries = offered.to_vec();
    for entry in &mut entries {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0xffff | count << 16 | id << 24;
                entry.edx = if count > 1 { entry.edx | HTT } else { entry.edx & !HTT };
            }
            // Intel's and AMD's cache leaves: no cache is shared between cores, save the last
            // level by all of them.
            4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
                let sharing = if entry.eax >> 5 & 7 >= 3 { count - 1 } else { 0 };
                let cores = if entry.function == 4 { (count - 1) << 26 } else { 0 };
                entry.eax = entry.eax & 0x3fff | sharing << 14 | cores;
            }
            0xb | 0x1f => set_topology(entry, id, count),
            0x8000_0008 => entry.ecx = entry.ecx & !0xff | (count - 1),
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id, 0),
            _ => {}
        }
    }
    entries
}

/// Extended topology (Intel SDM volume 2, CPUID leaf 0BH): level 0 is the thread, level 1 the
/// core.
fn set_topology(entry: &mut kvm_cpuid_entry2, id: u32, count: u32) {
    let core_bits = count.next_power_of_two().trailing_zeros();
    (entry.eax, entry.ebx, entry.ecx) = match entry.index {
        0 => (0, 1, 1 << 8),
        1 => (core_bits, count, 2 << 8 | 1),
        level => (0, 0, level),
    };
    entry.edx = id;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: 0, ..Default::default() }
    }

    #[test]
    fn every_vcpu_has_its_own_id_and_sees_the_same_package() {
        let offered = [leaf(1, 0), leaf(0xb, 0), leaf(0xb, 1), leaf(0xb, 2)];
        let entries = of_vcpu(&offered, 2, 3);
        assert_eq!((entries[0].ebx >> 24, entries[0].ebx >> 16 & 0xff), (2, 3));
        assert_ne!(entries[0].edx & HTT, 0);
        assert_eq!((entries[1].eax, entries[1].ebx & 0xffff, entries[1].edx), (0, 1, 2));
        assert_eq!((entries[2].eax, entries[2].ebx & 0xffff, entries[2].edx), (2, 3, 2));
        assert_eq!(entries[3].ecx, 2, "past the last level");
        assert_eq!(of_vcpu(&offered, 0, 1)[0].edx & HTT, 0);
    }
}
