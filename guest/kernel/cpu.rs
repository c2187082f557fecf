//! What every processor owns: its block, its stacks, its task-state segment. Also starts the
//! application processors.
//!
//! `boot.rs` loads these tables into the processor; `traps.rs` counts interrupts in the block,
//! which GS points to in both rings. Everything is laid out at link time.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::boot::{FIRST_TSS, TRAMPOLINE, USER_CODE, USER_DATA, starting_cpu, trampoline_end, trampoline_start};
use crate::{apic, time};

/// The most processors that the guest runs.
pub const MAX_CPUS: usize = 16;

const USER_STACK: usize = 16 << 10;
/// Interrupts need little; `fatal` formats its last words here.
const KERNEL_STACK: usize = 8 << 10;
/// I/O ports that ring 3 may use: up to the debug-exit port and the PIT, serial port and keyboard
/// controller below it.
const PORTS: usize = 0x508;

/// A static that several processors or rings write, each its own part.
#[repr(transparent)]
pub struct Shared<T>(UnsafeCell<T>);

// SAFETY: the users of each such static say who writes which part.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    pub const fn get(&self) -> *mut T {
        self.0.get()
    }
}

/// What `iretq` pops.
#[repr(C)]
pub struct ReturnFrame {
    rip: *const (),
    cs: u64,
    rflags: u64,
    rsp: *const u8,
    ss: u64,
}

/// One processor's block.
#[repr(C, align(64))]
pub struct Cpu {
    /// The first entry into ring 3.
    pub frame: ReturnFrame,
    /// Timer interrupts.
    pub ticks: AtomicU64,
    /// Interrupts of the disk.
    pub disk_irqs: AtomicU64,
    /// Interrupts of the serial port.
    pub serial_irqs: AtomicU64,
    /// Interrupts of the PIT, which wakes processor 0 should the local timer be lost.
    pub watchdog_irqs: AtomicU64,
    /// The task register's selector.
    pub tss_selector: u16,
    /// Counts from 0; equals the local APIC's id.
    pub index: u32,
    /// The TSC until which this processor sleeps; 0 while it is awake.
    pub asleep_until: AtomicU64,
    /// See [`State`].
    pub state: AtomicU32,
}

/// How far a processor has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum State {
    Off,
    Started,
    /// Has printed its last report.
    Done,
}

impl Cpu {
    pub fn set_state(&self, state: State) {
        self.state.store(state as u32, Ordering::Release);
    }

    pub fn reached(&self, state: State) -> bool {
        self.state.load(Ordering::Acquire) >= state as u32
    }

    const fn new(index: usize) -> Self {
        let entry = if index == 0 { crate::start as *const () } else { crate::start_secondary as *const () };
        let frame = ReturnFrame {
            rip: entry,
            cs: USER_CODE as u64,
            rflags: 2,
            // As after a call: the stack pointer is 8 off a multiple of 16.
            rsp: USER_STACKS.get().cast::<u8>().wrapping_add((index + 1) * USER_STACK - 8),
            ss: USER_DATA as u64,
        };
        Self {
            frame,
            ticks: AtomicU64::new(0),
            disk_irqs: AtomicU64::new(0),
            serial_irqs: AtomicU64::new(0),
            watchdog_irqs: AtomicU64::new(0),
            tss_selector: FIRST_TSS + 16 * index as u16,
            index: index as u32,
            asleep_until: AtomicU64::new(0),
            state: AtomicU32::new(State::Off as u32),
        }
    }
}

// SAFETY: the pointers in the frame are only read, by the processor itself, when it starts.
unsafe impl Sync for Cpu {}

/// A task-state segment (Intel SDM volume 3, 8.7) with its I/O permission bitmap: a clear bit
/// opens a port.
#[repr(C, packed(4))]
pub struct Tss {
    reserved0: u32,
    rsp0: *const u8,
    unused: [u32; 22],
    reserved1: u16,
    io_map_base: u16,
    io_map: [u8; PORTS / 8],
    end: [u8; 4],
}

impl Tss {
    const fn new(index: usize) -> Self {
        Self {
            reserved0: 0,
            rsp0: KERNEL_STACKS.get().cast::<u8>().wrapping_add((index + 1) * KERNEL_STACK),
            unused: [0; 22],
            reserved1: 0,
            io_map_base: 104,
            io_map: [0; PORTS / 8],
            end: [0xff; 4],
        }
    }
}

#[repr(align(16))]
struct Aligned<T>(T);

#[unsafe(link_section = ".bss.uninit")]
static USER_STACKS: Shared<Aligned<[u8; MAX_CPUS * USER_STACK]>> = Shared::new(Aligned([0; MAX_CPUS * USER_STACK]));
#[unsafe(link_section = ".bss.uninit")]
static KERNEL_STACKS: Shared<Aligned<[u8; MAX_CPUS * KERNEL_STACK]>> =
    Shared::new(Aligned([0; MAX_CPUS * KERNEL_STACK]));

/// The processors' blocks. Each is its processor's; the counters are atomic.
pub static CPUS: [Cpu; MAX_CPUS] = {
    let mut cpus = [const { Cpu::new(0) }; MAX_CPUS];
    let mut index = 1;
    while index < MAX_CPUS {
        cpus[index] = Cpu::new(index);
        index += 1;
    }
    cpus
};

/// The processors' task-state segments. Only the processors read them.
pub static TSSES: Shared<[Tss; MAX_CPUS]> = Shared::new({
    let mut segments = [const { Tss::new(0) }; MAX_CPUS];
    let mut index = 1;
    while index < MAX_CPUS {
        segments[index] = Tss::new(index);
        index += 1;
    }
    segments
});

const TSS_DESCRIPTOR: u64 = 0x0000_8900_0000_0000 | (size_of::<Tss>() as u64 - 1);

/// Null, 64-bit code, 32-bit code, data (ring 0), data, 64-bit code (ring 3), task-state segments.
/// Processor 0 writes it.
pub static GDT: Shared<[u64; 6 + 2 * MAX_CPUS]> = Shared::new({
    let mut gdt = [0; 6 + 2 * MAX_CPUS];
    gdt[1] = 0x00af_9b00_0000_ffff;
    gdt[2] = 0x00cf_9b00_0000_ffff;
    gdt[3] = 0x00cf_9300_0000_ffff;
    gdt[4] = 0x00cf_f300_0000_ffff;
    gdt[5] = 0x00af_fb00_0000_ffff;
    let mut entry = 6;
    while entry < gdt.len() {
        gdt[entry] = TSS_DESCRIPTOR;
        entry += 2;
    }
    gdt
});

/// The index of the processor that runs this.
pub fn current() -> u32 {
    let index: u32;
    // SAFETY: GS points to the processor's block for as long as it runs.
    unsafe {
        asm!("mov {:e}, gs:[{offset}]", out(reg) index, offset = const offset_of!(Cpu, index), options(nostack, readonly))
    };
    index
}

/// Starts a processor and waits until it runs; false when it does not come.
///
/// INIT, then start-up messages (Intel SDM volume 3, 9.4.4). The waits between them are short: no
/// KVM needs the 10 ms of real boards.
pub fn start_secondary(cpu: &'static Cpu) -> bool {
    let index = cpu.index as usize;
    let base = TSSES.get() as u64 + (index * size_of::<Tss>()) as u64;
    // SAFETY: processor 0 alone writes the GDT, the trampoline page (memory that nobody else uses)
    // and `starting_cpu`, and no processor is starting now.
    unsafe {
        let entry = (GDT.get() as *mut u64).add(6 + 2 * index);
        entry.write(TSS_DESCRIPTOR | (base & 0xff_ffff) << 16 | (base >> 24 & 0xff) << 56);
        let code = &raw const trampoline_start;
        let size = (&raw const trampoline_end).offset_from(code) as usize;
        core::ptr::copy_nonoverlapping(code, TRAMPOLINE as *mut u8, size);
        (&raw mut starting_cpu).write_volatile(cpu as *const Cpu as u32);
    }
    apic::send_init(index as u32);
    time::spin(time::cycles_of_us(100));
    for _ in 0..10 {
        apic::send_startup(index as u32, (TRAMPOLINE >> 12) as u8);
        let deadline = time::now() + time::cycles_of_us(200_000);
        while time::now() < deadline {
            if cpu.reached(State::Started) {
                return true;
            }
            core::hint::spin_loop();
        }
    }
    false
}
