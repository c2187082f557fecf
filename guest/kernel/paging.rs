//! Maps all RAM and the devices, one to one and open to ring 3. `boot.rs` has mapped the first GiB
//! at link time.
//!
//! Ring 3 can do this because the tables lie in memory that it may write. Only absent entries are
//! filled, so nothing needs to be flushed.

use crate::boot::{boot_pdpt, boot_pdpt_high};
use crate::cpu::Shared;
use crate::pvh::BootInfo;

const GIB: u64 = 1 << 30;
const LARGE_PAGE: u64 = 2 << 20;
/// Present, writable, user.
const TABLE: u64 = 0x7;
/// The same, large.
const LARGE: u64 = 0x87;
/// The same, not cached.
const DEVICE: u64 = 0x97;
/// The GiB below 4 GiB holds the devices.
const DEVICE_GIB: u64 = 3;
/// RAM ends below this: 16 GiB and the hole.
pub const LIMIT: u64 = 17 * GIB;

#[repr(align(4096))]
#[expect(dead_code, reason = "the processor reads it")]
struct Directory([u64; 512]);

/// Directories of the GiBs from 1 on. Processor 0 writes them before any other starts.
#[unsafe(link_section = ".bss.uninit")]
static DIRECTORIES: Shared<[Directory; (LIMIT / GIB) as usize - 1]> =
    Shared::new([const { Directory([0; 512]) }; (LIMIT / GIB) as usize - 1]);

/// Maps the GiBs in which there is RAM, up to [`LIMIT`], and the devices' GiB.
pub fn map(boot: &BootInfo) {
    for gib in 1..LIMIT / GIB {
        if gib == DEVICE_GIB {
            map_gib(gib, DEVICE);
        } else if boot.ram().iter().any(|ram| ram.start < (gib + 1) * GIB && gib * GIB < ram.end) {
            map_gib(gib, LARGE);
        }
    }
}

fn map_gib(gib: u64, flags: u64) {
    let directory = DIRECTORIES.get().cast::<u64>().wrapping_add((gib as usize - 1) * 512);
    for entry in 0..512 {
        // SAFETY: the directory is ours, and not linked yet.
        unsafe { directory.add(entry).write(gib * GIB + entry as u64 * LARGE_PAGE + flags) };
    }
    let value = directory as u64 + TABLE;
    // SAFETY: the tables are ours, the entries absent; `LIMIT` keeps `gib` within the table.
    unsafe {
        (&raw mut boot_pdpt).cast::<u64>().add(gib as usize).write_volatile(value);
        // The topmost 2 GiB of addresses show physical 2–4 GiB, where the local APIC is.
        if gib == DEVICE_GIB {
            (&raw mut boot_pdpt_high).cast::<u64>().add(511).write_volatile(value);
        }
    }
}
