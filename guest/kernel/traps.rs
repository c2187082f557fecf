//! Interrupts, exceptions and the gate: everything that runs in ring 0 after boot, in a handful of
//! instructions each.
//!
//! An interrupt counts and acknowledges; the ring-3 loop sees the counter. `ud2` with a request
//! number is the gate through which `gate.rs` asks for a privileged operation: an invalid opcode
//! traps on every host, while `int`, `syscall` and `sysenter` do not work where ring 0 is
//! emulated. Any other exception returns to `fatal::exception` in ring 3.

use core::arch::global_asm;
use core::mem::offset_of;

use crate::boot::{KERNEL_CODE, USER_CODE, USER_DATA};
use crate::cpu::{Cpu, Shared};
use crate::fatal;

/// Vectors of the interrupts that the guest expects.
pub const TIMER: u8 = 0x40;
pub const DISK: u8 = 0x41;
pub const SERIAL: u8 = 0x42;
pub const WATCHDOG: u8 = 0x43;
pub const SPURIOUS: u8 = 0xff;

/// What RDI holds at a gate's `ud2`: this plus the request's place in `gate_table`. A stray `ud2`
/// has something else.
pub const GATE_MAGIC: u32 = 0x4645_5200;

const VECTORS: usize = 256;
const UNDEFINED_OPCODE: usize = 6;

/// The interrupt descriptor table. Processor 0 writes it before anything can interrupt.
#[unsafe(link_section = ".bss.uninit")]
pub static IDT: Shared<[[u64; 2]; VECTORS]> = Shared::new([[0; 2]; VECTORS]);

unsafe extern "C" {
    static exception_stubs: u8;
    static gate_stub: u8;
    static timer_stub: u8;
    static disk_stub: u8;
    static serial_stub: u8;
    static watchdog_stub: u8;
    static spurious_stub: u8;
}

/// Fills the interrupt descriptor table: all vectors lead to `fatal`, save the expected ones.
pub fn fill_idt() {
    let idt = IDT.get().cast::<[u64; 2]>();
    let set = |vector: usize, handler: *const u8| {
        let address = handler as u64;
        let low = address & 0xffff | u64::from(KERNEL_CODE) << 16 | 0x8e00 << 32 | (address >> 16 & 0xffff) << 48;
        // SAFETY: `vector` is below 256, and nothing else writes the table.
        unsafe { idt.add(vector).write([low, address >> 32]) };
    };
    for vector in 0..VECTORS {
        set(vector, (&raw const exception_stubs).wrapping_add(vector * 16));
    }
    set(UNDEFINED_OPCODE, &raw const gate_stub);
    set(TIMER.into(), &raw const timer_stub);
    set(DISK.into(), &raw const disk_stub);
    set(SERIAL.into(), &raw const serial_stub);
    set(WATCHDOG.into(), &raw const watchdog_stub);
    set(SPURIOUS.into(), &raw const spurious_stub);
}

// The local APIC's registers are reached through the mapping of the topmost 2 GiB: so that their
// address fits an instruction. 0xb0 is end-of-interrupt, 0x380 the timer's initial count.
global_asm!(
    ".section .boot, \"ax\", @progbits",
    ".macro interrupt name, counter",
    "\\name:",
    "inc qword ptr gs:[\\counter]",
    "mov dword ptr [0xfffffffffee000b0], 0",
    "iretq",
    ".endm",
    "interrupt timer_stub, {ticks}",
    "interrupt disk_stub, {disk_irqs}",
    "interrupt serial_stub, {serial_irqs}",
    "interrupt watchdog_stub, {watchdog_irqs}",
    "spurious_stub:",
    "iretq",
    ".global timer_stub, disk_stub, serial_stub, watchdog_stub, spurious_stub, gate_stub, exception_stubs",
    ticks = const offset_of!(Cpu, ticks),
    disk_irqs = const offset_of!(Cpu, disk_irqs),
    serial_irqs = const offset_of!(Cpu, serial_irqs),
    watchdog_irqs = const offset_of!(Cpu, watchdog_irqs),
);

// The order of `gate_table` is that of `gate::Request`.
global_asm!(
    ".section .boot, \"ax\", @progbits",
    "gate_stub:",
    "sub edi, {magic}",
    "cmp edi, 11",
    "jae 3f",
    "jmp qword ptr [rdi * 8 + gate_table]",
    "3:",
    "add edi, {magic}",
    "jmp exception_stubs + 16 * 6",

    // The timer is armed with interrupts off, so that its interrupt cannot come before the halt.
    "gate_count_and_wait:",
    "mov dword ptr [0xfffffffffee00380], eax",
    "jmp 4f",
    "gate_arm_and_wait:",
    "wrmsr",
    "4:",
    "sti",
    "hlt",
    "gate_return:",
    "add qword ptr [rsp], 2",
    "iretq",
    "gate_write_msr:",
    "wrmsr",
    "jmp gate_return",
    "gate_read_msr:",
    "rdmsr",
    "jmp gate_return",
    "gate_cpuid:",
    "cpuid",
    "jmp gate_return",
    "gate_interrupts_on:",
    "or dword ptr [rsp + 16], 0x200",
    "jmp gate_return",
    "gate_enable_xsave:",
    "mov rax, cr4",
    "or eax, 0x40000",
    "mov cr4, rax",
    "xor ecx, ecx",
    "mov eax, 7",
    "xor edx, edx",
    "xsetbv",
    "jmp gate_return",
    "gate_write_debug:",
    "mov dr0, rax",
    "mov dr1, rcx",
    "mov dr2, rdx",
    "jmp gate_return",
    "gate_read_debug:",
    "mov rax, dr0",
    "mov rcx, dr1",
    "mov rdx, dr2",
    "jmp gate_return",
    "gate_stop:",
    "cli",
    "hlt",
    "jmp gate_stop",
    // An exception with an empty IDT is a triple fault.
    "gate_triple_fault:",
    "lidt [empty_idt_pointer]",
    "ud2",

    ".balign 8",
    "gate_table:",
    ".quad gate_arm_and_wait, gate_count_and_wait, gate_write_msr, gate_read_msr, gate_cpuid, gate_interrupts_on",
    ".quad gate_enable_xsave, gate_write_debug, gate_read_debug, gate_stop, gate_triple_fault",
    "empty_idt_pointer:",
    ".fill 10, 1, 0",
    magic = const GATE_MAGIC,
);

// Builds a `fatal::Frame` on the stack and goes on in ring 3, on the same stack below it.
global_asm!(
    ".section .boot, \"ax\", @progbits",
    ".balign 16",
    "exception_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    // Vectors with an error code: 8, 10–14, 17, 21, 29, 30.
    ".if vector > 31 || (0x60227d00 >> vector) & 1 == 0",
    "push 0",
    ".endif",
    "push vector",
    "jmp exception_common",
    ".set vector, vector + 1",
    ".endr",
    "exception_common:",
    "push rdi",
    "push rax",
    "mov rax, cr2",
    "push rax",
    "mov rdi, rsp",
    "lea rax, [rsp - 128]",
    "and rax, -16",
    "sub rax, 8",
    "push {user_data}",
    "push rax",
    "push 2",
    "push {user_code}",
    "push offset {fatal}",
    "iretq",
    ".text",
    user_data = const USER_DATA,
    user_code = const USER_CODE,
    fatal = sym fatal::exception,
);
