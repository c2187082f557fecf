//! Ring 3's side of the gate: the few privileged operations, each a `ud2` that `traps.rs` answers.
//!
//! A passage costs 12–17 µs where ring 0 is emulated, so nothing here belongs in a hot loop.

use core::arch::asm;

use crate::traps::GATE_MAGIC;

/// What ring 0 can be asked for, in the order of `gate_table`.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Request {
    ArmAndWait,
    CountAndWait,
    WriteMsr,
    ReadMsr,
    Cpuid,
    InterruptsOn,
    EnableXsave,
    WriteDebug,
    ReadDebug,
    Stop,
    TripleFault,
}

impl Request {
    /// What RDI must hold at the `ud2`.
    pub const fn code(self) -> u64 {
        (GATE_MAGIC + self as u32) as u64
    }
}

/// EAX, EBX, ECX, EDX of a leaf, as ring 0 sees them: where ring 3 runs natively it would see the
/// host's own.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let (a, b, c, d): (u64, u64, u64, u64);
    // SAFETY: the gate changes these registers only; RBX, which the compiler reserves, is put
    // back.
    unsafe {
        asm!(
            "mov {b}, rbx",
            "ud2",
            "xchg {b}, rbx",
            b = out(reg) b,
            inlateout("rdi") Request::Cpuid.code() => _,
            inlateout("rax") u64::from(leaf) => a,
            inlateout("rcx") u64::from(subleaf) => c,
            lateout("rdx") d,
        );
    }
    [a as u32, b as u32, c as u32, d as u32]
}

/// Writes a model-specific register that exists.
pub fn write_msr(msr: u32, value: u64) {
    pass(Request::WriteMsr, value & 0xffff_ffff, msr.into(), value >> 32);
}

/// Reads a model-specific register that exists.
pub fn read_msr(msr: u32) -> u64 {
    let (low, _, high) = pass(Request::ReadMsr, 0, msr.into(), 0);
    low & 0xffff_ffff | high << 32
}

/// Lets interrupts in while ring 3 runs.
pub fn interrupts_on() {
    pass(Request::InterruptsOn, 0, 0, 0);
}

/// Enables x87, SSE and AVX state (CR4.OSXSAVE, XCR0 = 7). The processor must have AVX.
pub fn enable_avx() {
    pass(Request::EnableXsave, 0, 0, 0);
}

/// Sets DR0, DR1, DR2.
pub fn write_debug(values: [u64; 3]) {
    pass(Request::WriteDebug, values[0], values[1], values[2]);
}

/// Reads DR0, DR1, DR2.
pub fn read_debug() -> [u64; 3] {
    let (a, c, d) = pass(Request::ReadDebug, 0, 0, 0);
    [a, c, d]
}

/// Halts this processor for good.
pub fn stop() -> ! {
    loop {
        pass(Request::Stop, 0, 0, 0);
    }
}

/// Resets the machine the hard way.
pub fn triple_fault() -> ! {
    loop {
        pass(Request::TripleFault, 0, 0, 0);
    }
}

/// Reads an address that is not mapped, as a broken kernel would.
pub fn break_down() {
    const UNMAPPED: u64 = 0x6666_0000_0000;
    // SAFETY: the page fault it causes ends the guest.
    unsafe { asm!("mov {0}, [{0}]", inout(reg) UNMAPPED => _, options(nostack, readonly)) };
}

fn pass(request: Request, a: u64, c: u64, d: u64) -> (u64, u64, u64) {
    let (a_out, c_out, d_out): (u64, u64, u64);
    // SAFETY: the gate changes these registers only, and memory only as the requests above say.
    unsafe {
        asm!(
            "ud2",
            inlateout("rdi") request.code() => _,
            inlateout("rax") a => a_out,
            inlateout("rcx") c => c_out,
            inlateout("rdx") d => d_out,
        );
    }
    (a_out, c_out, d_out)
}
