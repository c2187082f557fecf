//! Puts known values into registers and looks for them again: a migration must lose none.
//!
//! Two ways. What compiled code never touches keeps its value across the whole workload loop: the
//! upper halves of the YMM registers, the MMX registers, MXCSR, the FS base and the debug address
//! registers ([`check_kept`], [`check_slow`]). What it does use holds known values while the
//! processor sleeps ([`hold`]).

use core::arch::asm;

use crate::cpu::{MAX_CPUS, Shared};
use crate::gate::{self, Request};
use crate::lines::Simd;

const MSR_FS_BASE: u32 = 0xc000_0100;
/// The reset value, and flush-to-zero: the kernel does no floating-point arithmetic.
const MXCSR: u32 = 0x9f80;

/// A register that changed its value by itself.
pub struct Changed {
    /// A name such as `xmm` or `r`, and which of them.
    pub bank: &'static str,
    pub number: usize,
    pub expected: u64,
    pub found: u64,
}

/// One processor's known values, and where they are stored to be compared. FS points here.
#[repr(C, align(64))]
struct Bank {
    values: [u64; 32],
    general: [u64; 8],
    found: [u64; 32],
    found_general: [u64; 8],
}

const EMPTY: Bank = Bank { values: [0; 32], general: [0; 8], found: [0; 32], found_general: [0; 8] };

/// Each processor's is its own.
static BANKS: Shared<[Bank; MAX_CPUS]> = Shared::new([EMPTY; MAX_CPUS]);

/// Which vector registers this processor has; enables those.
pub fn probe() -> Simd {
    const XSAVE_AND_AVX: u32 = 1 << 26 | 1 << 28;
    if gate::cpuid(1, 0)[2] & XSAVE_AND_AVX == XSAVE_AND_AVX { Simd::Avx } else { Simd::Sse }
}

/// Readies the registers that keep their values from now on.
pub fn init(cpu: u32, simd: Simd) {
    let bank = bank(cpu);
    // SAFETY: the bank is this processor's.
    let values = unsafe { &mut *bank };
    for (at, value) in values.values.iter_mut().chain(&mut values.general).enumerate() {
        *value = pattern(cpu, at as u64);
    }
    if simd == Simd::Avx {
        gate::enable_avx();
    }
    load(cpu, simd);
}

/// Loads the registers that keep their values: at first, and again once a wrong one was reported,
/// so that the next loss shows.
pub fn load(cpu: u32, simd: Simd) {
    let bank = bank(cpu);
    gate::write_msr(MSR_FS_BASE, bank as u64);
    gate::write_debug(debug_values(bank));
    if simd == Simd::Off {
        return;
    }
    // SAFETY: compiled code uses neither MMX registers nor floating point, and the bank holds 64
    // bytes for each line below.
    unsafe {
        asm!(
            "ldmxcsr [{mxcsr}]",
            "movq mm0, [{bank}]",
            "movq mm1, [{bank} + 8]",
            "movq mm2, [{bank} + 16]",
            "movq mm3, [{bank} + 24]",
            "movq mm4, [{bank} + 32]",
            "movq mm5, [{bank} + 40]",
            "movq mm6, [{bank} + 48]",
            "movq mm7, [{bank} + 56]",
            bank = in(reg) bank,
            mxcsr = in(reg) &raw const MXCSR_VALUE,
            options(nostack),
        );
    }
    if simd == Simd::Avx {
        // SAFETY: the processor has AVX and it is enabled. The lower halves, which compiled code
        // uses, stay as they are.
        unsafe {
            asm!(
                ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
                "vinsertf128 ymm\\n, ymm\\n, xmmword ptr [{bank} + 16 * \\n], 1",
                ".endr",
                bank = in(reg) bank,
                options(nostack),
            );
        }
    }
}

static MXCSR_VALUE: u32 = MXCSR;

/// Checks what is kept and cheap to look at.
pub fn check_kept(cpu: u32, simd: Simd) -> Result<(), Changed> {
    if simd == Simd::Off {
        return Ok(());
    }
    let bank = bank(cpu);
    let mut mxcsr = 0_u32;
    // SAFETY: stores registers to this processor's bank, and changes none.
    unsafe {
        asm!(
            "stmxcsr [{mxcsr}]",
            "movq [{found}], mm0",
            "movq [{found} + 8], mm1",
            "movq [{found} + 16], mm2",
            "movq [{found} + 24], mm3",
            "movq [{found} + 32], mm4",
            "movq [{found} + 40], mm5",
            "movq [{found} + 48], mm6",
            "movq [{found} + 56], mm7",
            mxcsr = in(reg) &raw mut mxcsr,
            found = in(reg) &raw mut (*bank).found,
            options(nostack),
        );
    }
    compare("mm", 1, 8, bank)?;
    if mxcsr != MXCSR {
        return Err(Changed { bank: "mxcsr", number: 0, expected: MXCSR.into(), found: mxcsr.into() });
    }
    if simd == Simd::Avx {
        // SAFETY: AVX is enabled; stores registers to this processor's bank, and changes none.
        unsafe {
            asm!(
                ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
                "vextractf128 xmmword ptr [{found} + 16 * \\n], ymm\\n, 1",
                ".endr",
                found = in(reg) &raw mut (*bank).found,
                options(nostack),
            );
        }
        compare("ymm_high", 2, 32, bank)?;
    }
    Ok(())
}

/// Checks what is kept and takes a passage through the gate.
pub fn check_slow(cpu: u32) -> Result<(), Changed> {
    let bank = bank(cpu);
    let expect = |name, number, expected: u64, found: u64| {
        if expected == found { Ok(()) } else { Err(Changed { bank: name, number, expected, found }) }
    };
    expect("fs_base", 0, bank as u64, gate::read_msr(MSR_FS_BASE))?;
    let by_fs: u64;
    // SAFETY: FS points to the bank. If it does not, a page fault names the address.
    unsafe { asm!("mov {}, fs:[8]", out(reg) by_fs, options(nostack, readonly)) };
    expect("fs", 1, pattern(cpu, 1), by_fs)?;
    for (number, (expected, found)) in debug_values(bank).into_iter().zip(gate::read_debug()).enumerate() {
        expect("dr", number, expected, found)?;
    }
    Ok(())
}

/// Passes the gate with known values in XMM0–15 and R8–R15, and checks them afterwards.
pub fn hold(request: Request, a: u64, c: u64, d: u64) -> Result<(), Changed> {
    let bank = bank(crate::cpu::current());
    // SAFETY: all registers that change are named; the bank is this processor's and has room for
    // what is stored.
    unsafe {
        asm!(
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "movdqa xmm\\n, xmmword ptr [rsi + 16 * \\n]",
            ".endr",
            ".irp n, 8, 9, 10, 11, 12, 13, 14, 15",
            "mov r\\n, [rsi + 256 + 8 * \\n - 64]",
            ".endr",
            "ud2",
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "movdqa xmmword ptr [rsi + 320 + 16 * \\n], xmm\\n",
            ".endr",
            ".irp n, 8, 9, 10, 11, 12, 13, 14, 15",
            "mov [rsi + 576 + 8 * \\n - 64], r\\n",
            ".endr",
            inlateout("rdi") request.code() => _,
            inlateout("rax") a => _,
            inlateout("rcx") c => _,
            inlateout("rdx") d => _,
            in("rsi") bank,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
        );
    }
    compare("xmm", 2, 32, bank)?;
    // SAFETY: the bank is this processor's.
    let (expected, found) = unsafe { (&(*bank).general, &(*bank).found_general) };
    match expected.iter().zip(found).position(|(expected, found)| expected != found) {
        None => Ok(()),
        Some(at) => Err(Changed { bank: "r", number: 8 + at, expected: expected[at], found: found[at] }),
    }
}

/// Compares what was stored: `words` 64-bit words, `per` of them a register.
fn compare(name: &'static str, per: usize, words: usize, bank: *const Bank) -> Result<(), Changed> {
    // SAFETY: the bank is this processor's, and the stores to it are done.
    let (expected, found) = unsafe { (&(*bank).values, &(*bank).found) };
    for at in 0..words {
        if expected[at] != found[at] {
            return Err(Changed { bank: name, number: at / per, expected: expected[at], found: found[at] });
        }
    }
    Ok(())
}

fn bank(cpu: u32) -> *mut Bank {
    BANKS.get().cast::<Bank>().wrapping_add(cpu as usize)
}

fn debug_values(bank: *mut Bank) -> [u64; 3] {
    [bank as u64 + 16, bank as u64 + 32, bank as u64 + 48]
}

fn pattern(cpu: u32, at: u64) -> u64 {
    (at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(cpu) << 56
}
