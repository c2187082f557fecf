//! The end of a guest that cannot go on: exceptions that nobody expects, and the kernel's own
//! panics.
//!
//! `traps.rs` comes here, in ring 3 with interrupts off, on the stack where the exception was
//! recorded.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::lines::{Fault, Line};
use crate::{cpu, power, serial, time};

/// An exception as `traps.rs` records it.
#[repr(C)]
pub struct Frame {
    cr2: u64,
    rax: u64,
    rdi: u64,
    vector: u64,
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exception {} rip={:#x} cr2={:#x} ", self.vector, self.rip, self.cr2)?;
        write!(f, "error_code={:#x} cs={:#x} rflags={:#x} ", self.error_code, self.cs, self.rflags)?;
        write!(f, "rsp={:#x} ss={:#x} rax={:#x} rdi={:#x}", self.rsp, self.ss, self.rax, self.rdi)
    }
}

/// Reports an exception and powers off.
pub extern "C" fn exception(frame: &Frame) -> ! {
    end(format_args!("{frame}"))
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(at) => end(format_args!("panic at {}:{}: {}", at.file(), at.line(), info.message())),
        None => end(format_args!("panic: {}", info.message())),
    }
}

fn end(text: fmt::Arguments<'_>) -> ! {
    static ENDING: AtomicU32 = AtomicU32::new(0);
    // A second failure, here or on another processor, adds nothing.
    if ENDING.fetch_add(1, Ordering::Relaxed) == 0 {
        serial::print_regardless(&Line::Fatal(Fault { cpu: cpu::current(), uptime_ms: time::uptime_ms(), text }));
    }
    power::off()
}
