//! The local APIC and the I/O APIC, driven from ring 3 through their memory-mapped registers.
//!
//! Only the end-of-interrupt register is written in ring 0 (`traps.rs`).

use crate::port;
use crate::traps::{DISK, SERIAL, SPURIOUS, WATCHDOG};

const LOCAL: usize = 0xfee0_0000;
const IO: usize = 0xfec0_0000;

const TASK_PRIORITY: usize = 0x80;
const SPURIOUS_VECTOR: usize = 0xf0;
const COMMAND_LOW: usize = 0x300;
const COMMAND_HIGH: usize = 0x310;
/// Local vector table entry of the pin that the old interrupt controller drives.
const LINT0_ENTRY: usize = 0x350;
/// Local vector table entry of the timer.
pub const TIMER_ENTRY: usize = 0x320;
pub const TIMER_INITIAL_COUNT: usize = 0x380;
pub const TIMER_CURRENT_COUNT: usize = 0x390;
pub const TIMER_DIVIDE: usize = 0x3e0;

pub const MASKED: u32 = 1 << 16;

const COMMAND_INIT: u32 = 0x4500;
const COMMAND_STARTUP: u32 = 0x4600;
const SOFTWARE_ENABLE: u32 = 0x100;

const PIC_MASKS: [u16; 2] = [0x21, 0xa1];
const SERIAL_PIN: u32 = 4;
/// Where the PIT's interrupt arrives: pin 2 on PCs; pin 0 where a VMM leaves KVM's own routing as
/// it is.
const PIT_PINS: [u32; 2] = [0, 2];
const PIT_COMMAND: u16 = 0x43;
const PIT_CHANNEL_0: u16 = 0x40;

/// Lets this processor's local APIC accept interrupts.
pub fn enable() {
    write(TASK_PRIORITY, 0);
    write(LINT0_ENTRY, MASKED);
    write(SPURIOUS_VECTOR, SOFTWARE_ENABLE | u32::from(SPURIOUS));
}

/// Silences the old interrupt controller (8259A), which would deliver everything a second time,
/// under vectors of its own.
pub fn disable_pic() {
    for port in PIC_MASKS {
        port::write(port, 0xff);
    }
}

/// Routes the serial port's interrupt, and that of the PIT, which then ticks 18.2 times a second:
/// processor 0 wakes up even if its own timer is lost, and can say so.
pub fn enable_watchdog() {
    route(SERIAL_PIN, SERIAL);
    for pin in PIT_PINS {
        route(pin, WATCHDOG);
    }
    port::write(PIT_COMMAND, 0x34);
    port::write(PIT_CHANNEL_0, 0);
    port::write(PIT_CHANNEL_0, 0);
}

/// Routes the disk's interrupt.
pub fn route_disk(pin: u32) {
    route(pin, DISK);
}

/// Resets a processor, so that it waits for a start-up message.
pub fn send_init(cpu: u32) {
    write(COMMAND_HIGH, cpu << 24);
    write(COMMAND_LOW, COMMAND_INIT);
}

/// Starts a processor in real mode at the start of this page.
pub fn send_startup(cpu: u32, page: u8) {
    write(COMMAND_HIGH, cpu << 24);
    write(COMMAND_LOW, COMMAND_STARTUP | u32::from(page));
}

/// Reads a register of this processor's local APIC.
pub fn read(register: usize) -> u32 {
    // SAFETY: the local APIC's page is mapped, and `register` is one of its registers.
    unsafe { ((LOCAL + register) as *const u32).read_volatile() }
}

/// Writes a register of this processor's local APIC.
pub fn write(register: usize, value: u32) {
    // SAFETY: the local APIC's page is mapped, and `register` is one of its registers.
    unsafe { ((LOCAL + register) as *mut u32).write_volatile(value) };
}

/// Sends an interrupt pin, edge triggered, to processor 0.
fn route(pin: u32, vector: u8) {
    write_io(0x11 + 2 * pin, 0);
    write_io(0x10 + 2 * pin, vector.into());
}

fn write_io(register: u32, value: u32) {
    // SAFETY: the I/O APIC's page is mapped; its select register and its window are there.
    unsafe {
        (IO as *mut u32).write_volatile(register);
        ((IO + 0x10) as *mut u32).write_volatile(value);
    }
}
