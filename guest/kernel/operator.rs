//! What the operator wants, by serial port or command line, and how all processors hear of it.
//!
//! Processor 0 listens; the wishes are flags that every processor's loop looks at.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::cpu::Cpu;
use crate::workload::Exit;
use crate::{gate, serial};

/// 0: go on. Else an [`Exit`] plus 1.
static EXIT: AtomicU32 = AtomicU32::new(0);
/// Counts the wishes for a report.
static REPORTS: AtomicU32 = AtomicU32::new(0);

/// Asks all processors to end.
pub fn ask_to_exit(exit: Exit) {
    EXIT.store(exit as u32 + 1, Ordering::Relaxed);
}

/// Whether, and how, the guest is to end.
pub fn asked_to_exit() -> Option<Exit> {
    let wish = EXIT.load(Ordering::Relaxed);
    [Exit::Shutdown, Exit::Reboot].into_iter().find(|exit| *exit as u32 + 1 == wish)
}

/// How often reports were asked for.
pub fn report_wishes() -> u32 {
    REPORTS.load(Ordering::Relaxed)
}

/// Listens to the serial port: `q` shut down, `r` reboot, `s` report, `f` break. Others are
/// ignored.
#[derive(Default)]
pub struct Ear {
    irqs_seen: u64,
}

impl Ear {
    /// Does what was asked since the last call. Only processor 0 gets the port's interrupts.
    /// Returns the number of port accesses.
    pub fn listen(&mut self, cpu: &Cpu) -> usize {
        let irqs = cpu.serial_irqs.load(Ordering::Acquire);
        if irqs == self.irqs_seen {
            return 0;
        }
        self.irqs_seen = irqs;
        self.poll()
    }

    /// The same, without waiting for an interrupt: now and then, for a VMM whose serial port has
    /// none.
    pub fn poll(&mut self) -> usize {
        let mut accesses = 1;
        while let Some(byte) = serial::receive() {
            accesses += 2;
            match byte {
                b'q' => ask_to_exit(Exit::Shutdown),
                b'r' => ask_to_exit(Exit::Reboot),
                b's' => _ = REPORTS.fetch_add(1, Ordering::Relaxed),
                // Shows what an exception looks like.
                b'f' => gate::break_down(),
                _ => {}
            }
        }
        accesses
    }
}
