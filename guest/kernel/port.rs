//! Port I/O, which ring 3 may do because the task-state segment's I/O bitmap opens the ports below
//! 0x508.

use core::arch::asm;

/// Reads a byte.
pub fn read(port: u16) -> u8 {
    let value: u8;
    // SAFETY: a port access touches no memory of ours.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) };
    value
}

/// Writes a byte.
pub fn write(port: u16, value: u8) {
    // SAFETY: a port access touches no memory of ours.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) };
}
