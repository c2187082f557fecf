//! What the VMM hands over at boot: Xen's `hvm_start_info`, version 1, with the memory map and the
//! command line.
//!
//! Everything is copied out before any other memory is written, for the VMM may have put it
//! anywhere.

use core::slice;

use crate::cpu::Shared;

const MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;
const CMDLINE_MAX: usize = 2048;
const RANGES_MAX: usize = 16;
/// All that the tables made at link time map.
const MAPPED: u64 = 1 << 30;

#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    cmdline: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

#[repr(C)]
struct MapEntry {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// Addresses from `start` to below `end`.
#[derive(Clone, Copy, Default)]
pub struct Range {
    pub start: u64,
    pub end: u64,
}

impl Range {
    pub fn size(self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

/// What the VMM handed over.
pub struct BootInfo {
    pub cmdline: &'static str,
    ranges: [Range; RANGES_MAX],
    count: usize,
}

impl BootInfo {
    /// The ranges of RAM.
    pub fn ram(&self) -> &[Range] {
        &self.ranges[..self.count]
    }
}

unsafe extern "C" {
    static mut kernel_bss_start: u8;
    static kernel_bss_end: u8;
    static kernel_end: u8;
}

/// Where memory that the image does not take begins.
pub fn image_end() -> u64 {
    &raw const kernel_end as u64
}

/// Clears the zero-initialised statics: a VMM that resets the machine need not.
pub fn clear_bss() {
    let start = &raw mut kernel_bss_start;
    let size = &raw const kernel_bss_end as usize - start as usize;
    // SAFETY: the linker script puts these bounds around .bss, and nothing has used it yet.
    unsafe { start.write_bytes(0, size) };
}

/// Copies out what the VMM handed over.
pub fn read(info: u64) -> BootInfo {
    // SAFETY: the VMM put a start info there, by the PVH boot protocol; the magic number tells.
    let info = unsafe { at::<StartInfo>(info, 1) }.first().filter(|info| info.magic == MAGIC);
    let info = info.expect("EBX holds no PVH start info: boot this kernel by its PVH note");
    assert!(info.version >= 1, "the start info has no memory map: the VMM must give version 1");

    let mut boot = BootInfo { cmdline: copy_cmdline(info.cmdline), ranges: [Range::default(); RANGES_MAX], count: 0 };
    // SAFETY: as above; the start info tells where the map is and how long.
    let map = unsafe { at::<MapEntry>(info.memory_map, info.memory_map_entries as usize) };
    for entry in map.iter().filter(|entry| entry.kind == RAM).take(RANGES_MAX) {
        boot.ranges[boot.count] = Range { start: entry.address, end: entry.address + entry.size };
        boot.count += 1;
    }
    boot
}

fn copy_cmdline(address: u64) -> &'static str {
    static CMDLINE: Shared<[u8; CMDLINE_MAX]> = Shared::new([0; CMDLINE_MAX]);
    if address == 0 {
        return "";
    }
    // SAFETY: the start info points to a string that ends in 0, in mapped memory; processor 0
    // alone gets here, once.
    let text = unsafe {
        let source = at::<u8>(address, CMDLINE_MAX);
        let length = source.iter().position(|byte| *byte == 0).unwrap_or(CMDLINE_MAX);
        let copy = slice::from_raw_parts_mut(CMDLINE.get().cast::<u8>(), length);
        copy.copy_from_slice(&source[..length]);
        &*copy
    };
    str::from_utf8(text).expect("the command line is no UTF-8 text")
}

/// # Safety
///
/// There must be `count` values of `T` at `address`.
unsafe fn at<T>(address: u64, count: usize) -> &'static [T] {
    let end = address + (count * size_of::<T>()) as u64;
    assert!(address != 0 && end <= MAPPED, "the VMM put boot data at {address:#x}, but it must lie below 1 GiB");
    // SAFETY: as the caller promises; the range is mapped.
    unsafe { slice::from_raw_parts(address as *const T, count) }
}
