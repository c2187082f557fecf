//! Processor 0's eye on the others: one whose timer was lost sleeps for ever and cannot say so itself.

use core::sync::atomic::Ordering;

use crate::cpu::{CPUS, Cpu, State};
use crate::log::Log;
use crate::time;

/// How often to look.
const PERIOD_US: u64 = 500_000;
/// How often in a row a processor must be found standing still: a guest that stood still as a whole finds that once.
const LOOKS: u32 = 4;

/// What was seen of each processor: its beat, and how often it stood still.
#[derive(Default)]
pub struct Watch {
    next: u64,
    seen: [(u64, u32); CPUS.len()],
}

impl Watch {
    /// Looks at these processors, if it is time, and reports one that stands still.
    pub fn look(&mut self, now: u64, others: &[Cpu], log: &mut Log) {
        if now < self.next {
            return;
        }
        self.next = now + time::cycles_of_us(PERIOD_US);
        for cpu in others {
            let beat = cpu.beat.load(Ordering::Relaxed);
            let (seen, looks) = &mut self.seen[cpu.index as usize];
            let silent = beat != 0 && beat == *seen && !cpu.reached(State::Done);
            *looks = if silent { *looks + 1 } else { 0 };
            *seen = beat;
            if *looks == LOOKS {
                let (index, ticks) = (cpu.index, cpu.ticks.load(Ordering::Relaxed));
                log.error(format_args!("vCPU {index} stands still since its tick {ticks}"));
            }
        }
    }
}
