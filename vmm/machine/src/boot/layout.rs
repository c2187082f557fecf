//! Addresses of boot data in guest memory, and the memory map that every boot protocol passes to
//! the guest.
//!
//! All of it lies below 1 MiB, where no kernel segment may lie, so that a reset can write it again
//! over a running system.

use ferry_migration::description::RamRange;

/// Global descriptor table for the first instruction.
pub(super) const GDT: u64 = 0x500;
/// `hvm_start_info` (PVH).
pub(super) const START_INFO: u64 = 0x6000;
/// `hvm_modlist_entry` of the initrd (PVH).
pub(super) const MODULE_LIST: u64 = 0x6100;
/// `hvm_memmap_table_entry` array (PVH).
pub(super) const MEMORY_MAP: u64 = 0x6200;
/// `boot_params`, the zero page (Linux).
pub(super) const ZERO_PAGE: u64 = 0x7000;
/// Top level of the page tables that map the first 4 GiB one to one (Linux); five more pages
/// follow.
pub(super) const PAGE_TABLES: u64 = 0x9000;
/// The command line, closed by a zero byte.
pub(super) const COMMAND_LINE: u64 = 0x2_0000;
/// The longest command line in bytes, without the zero byte.
pub(super) const COMMAND_LINE_MAX: usize = 0xffff;
/// End of base memory, where the extended BIOS data area would begin.
pub(super) const BASE_MEMORY_END: u64 = 0x9_fc00;
/// The MP table, in the BIOS area that kernels search for it.
pub(super) const MP_TABLE: u64 = 0xf_0000;
/// The first address that a kernel may occupy.
pub(super) const KERNEL_MIN: u64 = 0x10_0000;

/// The kind of a range of the memory map (the numbers of e820 and of Xen's PVH agree on these).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    /// Usable RAM.
    Ram = 1,
    /// Not for the guest's allocator.
    Reserved = 2,
}

/// One range of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MapEntry {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Its kind.
    pub kind: Kind,
}

/// The memory map for RAM at `ranges`, whose first begins at 0 and is longer than 1 MiB.
#[must_use]
pub(super) fn memory_map(ranges: &[RamRange]) -> Vec<MapEntry> {
    let ram = |start, end| MapEntry { start, len: end - start, kind: Kind::Ram };
    let mut map =
        vec![ram(0, BASE_MEMORY_END), MapEntry { start: MP_TABLE, len: KERNEL_MIN - MP_TABLE, kind: Kind::Reserved }];
    for range in ranges {
        map.push(ram(range.start.max(KERNEL_MIN), range.start + range.len));
    }
    map
}
