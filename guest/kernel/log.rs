//! A processor's voice: its error lines, its count of errors, and the report that is on its way
//! out.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::MAX_CPUS;
use crate::lines::{Fault, Line};
use crate::serial::{self, Pending};
use crate::time;

/// Error lines that one processor prints; beyond these it only counts.
const PRINTED_MAX: u64 = 50;

static ERRORS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// A processor's voice.
pub struct Log {
    cpu: u32,
    pending: Pending,
    accesses: usize,
}

impl Log {
    pub fn new(cpu: u32) -> Self {
        Self { cpu, pending: Pending::new(), accesses: 0 }
    }

    /// Counts an error and says at once what is wrong.
    pub fn error(&mut self, text: fmt::Arguments<'_>) {
        if ERRORS[self.cpu as usize].fetch_add(1, Ordering::Relaxed) < PRINTED_MAX {
            let fault = Fault { cpu: self.cpu, uptime_ms: time::uptime_ms(), text };
            self.accesses += serial::print(self.cpu, &mut self.pending, &Line::Error(fault));
        }
    }

    /// Errors so far.
    pub fn errors(&self) -> u64 {
        ERRORS[self.cpu as usize].load(Ordering::Relaxed)
    }

    /// Prints a line now.
    pub fn print(&mut self, line: &Line<&str>) {
        self.accesses += serial::print(self.cpu, &mut self.pending, line);
    }

    /// Takes a line to be printed in pieces by [`Log::pump`]; false, and nothing taken, while
    /// another is under way.
    pub fn queue(&mut self, line: &Line<&str>) -> bool {
        let free = !self.pending.unsent();
        if free {
            self.pending.queue(line);
        }
        free
    }

    /// Prints a piece of the line under way.
    pub fn pump(&mut self) {
        self.accesses += self.pending.pump(self.cpu);
    }

    /// Port accesses since this was last asked.
    pub fn take_accesses(&mut self) -> usize {
        core::mem::take(&mut self.accesses)
    }

    /// Whether [`Log::queue`] would take a line.
    pub fn is_idle(&self) -> bool {
        !self.pending.unsent()
    }
}

/// Errors of all processors.
pub fn all_errors() -> u64 {
    ERRORS.iter().map(|errors| errors.load(Ordering::Relaxed)).sum()
}
