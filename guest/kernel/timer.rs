//! The local APIC's timer, one per processor: it ticks, and it wakes a processor that sleeps until
//! the next page is due.
//!
//! IA32_TSC_DEADLINE where there is one, else one-shot counts. The timer is armed for each tick
//! anew; a tick that does not come shows that the timer was lost.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::Cpu;
use crate::gate::{self, Request};
use crate::lines::Timer as Kind;
use crate::traps::TIMER;
use crate::{apic, plan, registers, time};

const MSR_TSC_DEADLINE: u32 = 0x6e0;
const DEADLINE_MODE: u32 = 2 << 17;
const DIVIDE_BY_1: u32 = 0xb;
/// A tick may come this late after its deadline, while the processor demonstrably runs.
const PATIENCE_US: u64 = 500_000;
/// How often the processor must have looked: a guest that stood still looks late by itself, but
/// only once.
const LOOKS: u32 = 64;

/// Timer counts per 2^20 TSC cycles, in one-shot mode.
static COUNTS_PER_MI: AtomicU64 = AtomicU64::new(0);

/// Which way this processor offers.
pub fn kind() -> Kind {
    const TSC_DEADLINE: u32 = 1 << 24;
    if gate::cpuid(1, 0)[2] & TSC_DEADLINE != 0 { Kind::Deadline } else { Kind::OneShot }
}

/// Readies this processor's timer.
pub fn init() {
    match plan::get().timer {
        Kind::Deadline => apic::write(apic::TIMER_ENTRY, u32::from(TIMER) | DEADLINE_MODE),
        Kind::OneShot => {
            apic::write(apic::TIMER_DIVIDE, DIVIDE_BY_1);
            if COUNTS_PER_MI.load(Ordering::Relaxed) == 0 {
                measure();
            }
            apic::write(apic::TIMER_ENTRY, u32::from(TIMER));
        }
    }
}

/// Finds the timer's frequency: lets it count, masked, beside the TSC.
fn measure() {
    apic::write(apic::TIMER_ENTRY, u32::from(TIMER) | apic::MASKED);
    apic::write(apic::TIMER_INITIAL_COUNT, u32::MAX);
    let (count, start) = (apic::read(apic::TIMER_CURRENT_COUNT), time::now());
    time::spin(time::cycles_of_us(500));
    let (later, end) = (apic::read(apic::TIMER_CURRENT_COUNT), time::now());
    apic::write(apic::TIMER_INITIAL_COUNT, 0);
    COUNTS_PER_MI.store((u64::from(count - later) << 20) / (end - start).max(1), Ordering::Relaxed);
}

/// Sleeps for a millisecond or less. For waits on other processors: spinning would keep them off
/// the host's CPUs.
pub fn nap() {
    let deadline = time::now() + time::cycles_of_us(1_000);
    // Whether the registers survived is checked by the workload's own sleep.
    let _ = sleep_until(plan::get().timer, deadline);
}

/// Timer counts until this TSC.
fn count(deadline: u64) -> u32 {
    let cycles = deadline.saturating_sub(time::now()).min(1 << 40);
    let counts = (u128::from(cycles) * u128::from(COUNTS_PER_MI.load(Ordering::Relaxed))) >> 20;
    counts.clamp(1, u32::MAX.into()) as u32
}

/// Arms this processor's timer and sleeps until an interrupt comes.
fn sleep_until(kind: Kind, deadline: u64) -> Result<(), registers::Changed> {
    match kind {
        Kind::Deadline => {
            registers::hold(Request::ArmAndWait, deadline & 0xffff_ffff, MSR_TSC_DEADLINE.into(), deadline >> 32)
        }
        Kind::OneShot => registers::hold(Request::CountAndWait, count(deadline).into(), 0, 0),
    }
}

/// What the timer was last asked for.
pub struct Timer {
    cpu: &'static Cpu,
    kind: Kind,
    /// The TSC at which the next tick is due; 0 when none is.
    armed: u64,
    ticks_when_armed: u64,
    /// When the tick was first seen to be late, and how often since.
    late_since: u64,
    looks: u32,
}

/// How the timer is.
#[derive(PartialEq, Eq)]
pub enum Health {
    /// No tick is due.
    Good,
    /// A tick is due, and late.
    Late,
    /// A tick is so late that it will not come. The timer was disarmed.
    Lost,
}

impl Timer {
    pub fn new(cpu: &'static Cpu, kind: Kind) -> Self {
        Self { cpu, kind, armed: 0, ticks_when_armed: 0, late_since: 0, looks: 0 }
    }

    /// Looks whether a due tick has come.
    pub fn check(&mut self, now: u64) -> Health {
        if self.armed == 0 || self.cpu.ticks.load(Ordering::Relaxed) != self.ticks_when_armed {
            self.armed = 0;
            self.looks = 0;
            return Health::Good;
        }
        if now < self.armed {
            return Health::Good;
        }
        if self.looks == 0 {
            self.late_since = now;
        }
        self.looks = self.looks.saturating_add(1);
        if self.looks < LOOKS || now - self.late_since < time::cycles_of_us(PATIENCE_US) {
            return Health::Late;
        }
        self.armed = 0;
        self.looks = 0;
        Health::Lost
    }

    /// Forgets the tick that is due: the clock it was due by is no more.
    pub fn forget(&mut self) {
        self.armed = 0;
        self.looks = 0;
    }

    /// Whether a tick is awaited.
    pub fn is_armed(&self) -> bool {
        self.armed != 0
    }

    /// Asks for a tick at this TSC, and goes on.
    pub fn arm(&mut self, deadline: u64) {
        self.note(deadline);
        match self.kind {
            Kind::Deadline => gate::write_msr(MSR_TSC_DEADLINE, deadline),
            Kind::OneShot => apic::write(apic::TIMER_INITIAL_COUNT, count(deadline)),
        }
    }

    /// Asks for a tick at this TSC and sleeps until it, or another interrupt, comes. All registers
    /// are checked across the sleep: the result is the name of the first that changed.
    pub fn sleep(&mut self, deadline: u64) -> Result<(), registers::Changed> {
        self.note(deadline);
        self.cpu.asleep_until.store(deadline, Ordering::Relaxed);
        let result = sleep_until(self.kind, deadline);
        self.cpu.asleep_until.store(0, Ordering::Relaxed);
        result
    }

    fn note(&mut self, deadline: u64) {
        self.armed = deadline;
        self.ticks_when_armed = self.cpu.ticks.load(Ordering::Relaxed);
    }
}
