//! Time, by the raw TSC: nobody stops it, also not a VMM that stops kvmclock during a migration.

use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::lines::TscSource;
use crate::{gate, kvmclock, port};

static BOOT: AtomicU64 = AtomicU64::new(0);
/// 1 GHz until [`calibrate`] knows better.
static KHZ: AtomicU64 = AtomicU64::new(1_000_000);

/// Hypervisor leaves begin here.
const HYPERVISOR_LEAVES: u32 = 0x4000_0000;
const HYPERVISOR_FREQUENCIES: u32 = 0x4000_0010;

/// Marks the moment of boot.
pub fn start() {
    BOOT.store(now(), Ordering::Relaxed);
}

/// The TSC.
#[inline]
pub fn now() -> u64 {
    // SAFETY: CR4.TSD is clear, so ring 3 may read it.
    unsafe { _rdtsc() }
}

/// TSC cycles in a time.
pub fn cycles_of_us(us: u64) -> u64 {
    us * khz() / 1000
}

/// The TSC's frequency in kHz.
pub fn khz() -> u64 {
    KHZ.load(Ordering::Relaxed)
}

/// Milliseconds since boot.
pub fn uptime_ms() -> u64 {
    now().saturating_sub(BOOT.load(Ordering::Relaxed)) / khz()
}

/// The TSC when the guest will be up for `ms`.
pub fn at_uptime_ms(ms: u64) -> u64 {
    BOOT.load(Ordering::Relaxed) + ms * khz()
}

/// Waits.
pub fn spin(cycles: u64) {
    let start = now();
    while now().wrapping_sub(start) < cycles {
        core::hint::spin_loop();
    }
}

/// Finds the TSC's frequency, from the most exact source that there is.
pub fn calibrate(with_kvmclock: bool) -> TscSource {
    let sources: [(TscSource, &dyn Fn() -> Option<u64>); 5] = [
        (TscSource::Hypervisor, &from_hypervisor),
        (TscSource::Crystal, &from_crystal),
        (TscSource::Kvmclock, &|| with_kvmclock.then(kvmclock::tsc_khz).flatten()),
        (TscSource::Pit, &from_pit),
        (TscSource::Nominal, &from_nominal),
    ];
    for (source, find) in sources {
        if let Some(khz) = find().filter(|khz| *khz > 0) {
            KHZ.store(khz, Ordering::Relaxed);
            return source;
        }
    }
    TscSource::Unknown
}

fn from_hypervisor() -> Option<u64> {
    let highest = gate::cpuid(HYPERVISOR_LEAVES, 0)[0];
    (HYPERVISOR_FREQUENCIES..HYPERVISOR_LEAVES + 0x100)
        .contains(&highest)
        .then(|| gate::cpuid(HYPERVISOR_FREQUENCIES, 0)[0].into())
}

/// TSC = crystal × numerator ÷ denominator (Intel SDM volume 3, 20.7.3).
fn from_crystal() -> Option<u64> {
    if gate::cpuid(0, 0)[0] < 0x15 {
        return None;
    }
    let [denominator, numerator, crystal_hz, _] = gate::cpuid(0x15, 0).map(u64::from);
    (denominator != 0 && numerator != 0).then(|| crystal_hz * numerator / denominator / 1000)
}

fn from_nominal() -> Option<u64> {
    (gate::cpuid(0, 0)[0] >= 0x16).then(|| u64::from(gate::cpuid(0x16, 0)[0] & 0xffff) * 1000)
}

/// Counts TSC cycles while the PIT's channel 2 counts 10 ms.
fn from_pit() -> Option<u64> {
    const PIT_HZ: u64 = 1_193_182;
    const COUNT: u64 = PIT_HZ / 100;
    const CHANNEL_2: u16 = 0x42;
    const COMMAND: u16 = 0x43;
    const GATE: u16 = 0x61;
    const OUTPUT: u8 = 1 << 5;
    /// Without a PIT the output never rises; some 0.5 s of exits.
    const PATIENCE: usize = 100_000;

    port::write(GATE, port::read(GATE) & !2 | 1);
    port::write(COMMAND, 0xb0);
    port::write(CHANNEL_2, COUNT as u8);
    port::write(CHANNEL_2, (COUNT >> 8) as u8);
    let start = now();
    // A port without a device reads as all ones: the output must first be seen low.
    if port::read(GATE) & OUTPUT != 0 {
        return None;
    }
    (0..PATIENCE).find(|_| port::read(GATE) & OUTPUT != 0)?;
    Some((now() - start) * PIT_HZ / COUNT / 1000)
}
