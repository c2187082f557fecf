//! kvmclock: the clock page that KVM keeps for each vCPU (Linux,
//! `Documentation/virt/kvm/x86/msr.rst`).

use core::sync::atomic::{Ordering, fence};

use crate::cpu::{MAX_CPUS, Shared};
use crate::{gate, time};

const MSR_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
const SIGNATURE_LEAF: u32 = 0x4000_0000;
const FEATURES_LEAF: u32 = 0x4000_0001;
/// KVM_FEATURE_CLOCKSOURCE2
const FEATURE: u32 = 1 << 3;

/// `struct pvclock_vcpu_time_info`; aligned so that none crosses a page.
#[repr(C, align(32))]
#[derive(Clone, Copy)]
struct Page {
    version: u32,
    pad: u32,
    tsc_timestamp: u64,
    system_time_ns: u64,
    multiplier: u32,
    shift: i8,
    flags: u8,
    reserved: [u8; 2],
}

const EMPTY: Page = Page {
    version: 0,
    pad: 0,
    tsc_timestamp: 0,
    system_time_ns: 0,
    multiplier: 0,
    shift: 0,
    flags: 0,
    reserved: [0; 2],
};

/// KVM writes each vCPU's page; the vCPU reads it.
static PAGES: Shared<[Page; MAX_CPUS]> = Shared::new([EMPTY; MAX_CPUS]);

/// Whether KVM offers kvmclock.
pub fn available() -> bool {
    let [highest, b, c, d] = gate::cpuid(SIGNATURE_LEAF, 0);
    let kvm = [b, c, d] == [0x4b4d_564b, 0x564b_4d56, 0x0000_004d];
    kvm && highest >= FEATURES_LEAF && gate::cpuid(FEATURES_LEAF, 0)[0] & FEATURE != 0
}

/// Has KVM keep this processor's page.
pub fn enable(cpu: u32) {
    gate::write_msr(MSR_SYSTEM_TIME_NEW, page(cpu) as u64 | 1);
}

/// Nanoseconds on this processor's kvmclock.
pub fn now_ns(cpu: u32) -> u64 {
    let page = read(cpu);
    page.system_time_ns + scale(time::now().saturating_sub(page.tsc_timestamp), page)
}

/// The TSC's frequency in kHz by the scale of processor 0's page.
pub fn tsc_khz() -> Option<u64> {
    let page = read(0);
    if page.multiplier == 0 {
        return None;
    }
    let khz = (1_000_000 << 32) / u64::from(page.multiplier);
    Some(if page.shift < 0 { khz << -page.shift } else { khz >> page.shift })
}

fn scale(cycles: u64, page: Page) -> u64 {
    let shifted = if page.shift < 0 { cycles >> -page.shift } else { cycles << page.shift };
    ((u128::from(shifted) * u128::from(page.multiplier)) >> 32) as u64
}

fn page(cpu: u32) -> *mut Page {
    PAGES.get().cast::<Page>().wrapping_add(cpu as usize)
}

/// A consistent copy: KVM makes the version odd while it writes, and writes only while this vCPU
/// is outside the guest, so a few tries suffice.
fn read(cpu: u32) -> Page {
    let source = page(cpu);
    for _ in 0..1000 {
        // SAFETY: the page is ours for ever; KVM's writes to it are found out by the version.
        let copy = unsafe { source.read_volatile() };
        fence(Ordering::Acquire);
        // SAFETY: as above.
        let version = unsafe { (&raw const (*source).version).read_volatile() };
        if copy.version == version && version & 1 == 0 {
            return copy;
        }
    }
    EMPTY
}
