//! Processor 0's eye on the others: one whose timer was lost sleeps for ever and cannot say so
//! itself.

use core::sync::atomic::Ordering;

use crate::cpu::{CPUS, Cpu};
use crate::log::Log;
use crate::time;

/// How often to look.
const PERIOD_US: u64 = 500_000;
/// How long a processor may sleep beyond its time. Generous, for one that waits for a page of its
/// stack, in the middle of a migration, looks the same.
const PATIENCE_US: u64 = 10_000_000;

/// When to look again.
#[derive(Default)]
pub struct Watch {
    next: u64,
    reported: [bool; CPUS.len()],
}

impl Watch {
    /// Looks at these processors, if it is time, and reports one that does not wake up.
    pub fn look(&mut self, now: u64, others: &[Cpu], log: &mut Log) {
        if now < self.next {
            return;
        }
        // The guest as a whole may have stood still: then the others are about to wake up. They
        // get another period.
        let punctual = now < self.next + time::cycles_of_us(PERIOD_US);
        self.next = now + time::cycles_of_us(PERIOD_US);
        for cpu in others {
            let until = cpu.asleep_until.load(Ordering::Relaxed);
            let overslept = until != 0 && now > until + time::cycles_of_us(PATIENCE_US);
            let reported = &mut self.reported[cpu.index as usize];
            if overslept && punctual && !*reported {
                let (index, ticks) = (cpu.index, cpu.ticks.load(Ordering::Relaxed));
                log.error(format_args!(
                    "ticks stopped: vCPU {index} sleeps since its tick {ticks} and does not wake up"
                ));
            }
            *reported = overslept && (punctual || *reported);
        }
    }

    /// Begins anew, by a clock that was changed.
    pub fn restart(&mut self) {
        self.next = 0;
    }
}
