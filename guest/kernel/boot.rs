//! The way from the VMM's PVH entry, or an application processor's start-up, to Rust in ring 3.
//!
//! The VMM jumps to `pvh_entry` (Xen's PVH boot protocol: 32-bit protected mode, flat segments,
//! paging off, EBX = start info). Where a host emulates ring 0, every instruction here costs about
//! a microsecond. So all tables are laid out at link time, and the code only loads registers: the
//! rest of the initialisation runs in ring 3.

use core::arch::global_asm;
use core::mem::offset_of;

use crate::cpu::{CPUS, Cpu, GDT, TSSES};
use crate::traps::IDT;

/// Selectors of the GDT that `cpu.rs` lays out.
pub const USER_DATA: u16 = 0x20 | 3;
pub const USER_CODE: u16 = 0x28 | 3;
pub const KERNEL_CODE: u16 = 0x08;
/// The first task-state segment's descriptor; each takes 16 bytes.
pub const FIRST_TSS: u16 = 0x30;

/// Where application processors start: a page below 1 MiB, as the start-up message demands.
pub const TRAMPOLINE: usize = 0x8000;

unsafe extern "C" {
    /// The application processors' first instructions, to be copied to [`TRAMPOLINE`].
    pub static trampoline_start: u8;
    pub static trampoline_end: u8;
    /// The block of the processor that starts next.
    pub static mut starting_cpu: u32;
    /// The page-directory-pointer table of the low 512 GiB.
    pub static mut boot_pdpt: [u64; 512];
    /// The one that maps the topmost 2 GiB of addresses to physical 2–4 GiB.
    pub static mut boot_pdpt_high: [u64; 512];
}

global_asm!(
    // XEN_ELFNOTE_PHYS32_ENTRY
    ".section .note.pvh, \"a\", @note",
    ".balign 4",
    ".long 4, 8, 18",
    ".asciz \"Xen\"",
    ".quad pvh_entry",

    ".section .boot, \"ax\", @progbits",
    ".code32",
    ".global pvh_entry",
    "pvh_entry:",
    "mov edi, ebx",
    "mov esi, offset {cpus}",
    // The base of a descriptor is spread over it, which no linker can fill in.
    "mov eax, offset {tsses}",
    "mov word ptr [{gdt} + {first_tss} + 2], ax",
    "shr eax, 16",
    "mov byte ptr [{gdt} + {first_tss} + 4], al",
    "mov byte ptr [{gdt} + {first_tss} + 7], ah",

    // EDI: first argument of the Rust entry; ESI: this processor's block.
    "enter_long_mode:",
    "lgdt [gdt_pointer]",
    "mov eax, 0x620", // PAE, OSFXSR, OSXMMEXCPT
    "mov cr4, eax",
    "mov eax, offset boot_pml4",
    "mov cr3, eax",
    "mov ecx, 0xc0000080", // IA32_EFER.LME
    "xor edx, edx",
    "mov eax, 0x100",
    "wrmsr",
    "mov eax, 0x80000033", // PG, NE, ET, MP, PE
    "mov cr0, eax",
    ".byte 0xea", // far jump into the 64-bit code segment
    ".long 1f",
    ".word {kernel_code}",

    ".code64",
    "1:",
    // With null selectors the return to ring 3 leaves the GS base alone.
    "xor eax, eax",
    "mov ds, eax",
    "mov es, eax",
    "mov fs, eax",
    "mov gs, eax",
    "mov ecx, 0xc0000101", // IA32_GS_BASE
    "mov eax, esi",
    "wrmsr",
    "lidt [idt_pointer]",
    "ltr word ptr [rsi + {tss_selector}]",
    "lea rsp, [rsi + {frame}]",
    "iretq",

    ".code16",
    ".global trampoline_start, trampoline_end",
    "trampoline_start:",
    "cli",
    ".byte 0x2e, 0x0f, 0x01, 0x16", // lgdt cs:[…]
    ".word 2f - trampoline_start",
    "mov eax, 0x11",
    "mov cr0, eax",
    ".byte 0x66, 0xea",
    ".long ap_entry",
    ".word 0x10",
    "2:",
    ".word {gdt_size} - 1",
    ".long {gdt}",
    "trampoline_end:",

    ".code32",
    "ap_entry:",
    "mov eax, 0x18",
    "mov ds, eax",
    "mov ss, eax",
    "mov esi, [starting_cpu]",
    "jmp enter_long_mode",
    ".code64",

    ".section .tables, \"aw\", @progbits",
    ".balign 4096",
    "boot_pml4:",
    ".quad boot_pdpt + 7",
    ".fill 510, 8, 0",
    ".quad boot_pdpt_high + 7",
    ".global boot_pdpt, boot_pdpt_high",
    "boot_pdpt:",
    ".quad boot_pd + 7",
    ".fill 511, 8, 0",
    "boot_pdpt_high:",
    ".fill 512, 8, 0",
    // The first GiB, in 2 MiB pages open to ring 3.
    "boot_pd:",
    ".set address, 0",
    ".rept 512",
    ".quad address + 0x87",
    ".set address, address + 0x200000",
    ".endr",
    "gdt_pointer:",
    ".word {gdt_size} - 1",
    ".quad {gdt}",
    "idt_pointer:",
    ".word 4095",
    ".quad {idt}",
    ".balign 4",
    ".global starting_cpu",
    "starting_cpu: .long 0",
    ".text",
    cpus = sym CPUS,
    tsses = sym TSSES,
    gdt = sym GDT,
    idt = sym IDT,
    gdt_size = const size_of_val(&GDT),
    first_tss = const FIRST_TSS,
    kernel_code = const KERNEL_CODE,
    frame = const offset_of!(Cpu, frame),
    tss_selector = const offset_of!(Cpu, tss_selector),
);
