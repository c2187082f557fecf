//! The Linux 64-bit boot protocol: the zero page and identity page tables (Linux
//! `Documentation/arch/x86/boot.rst`).

use ferry_devices::GuestMemory;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{Bytes, GuestAddress};

use super::Initrd;
use super::error::Problem;
use super::layout::{COMMAND_LINE, MapEntry, PAGE_TABLES, ZERO_PAGE};

/// "Undefined" boot loader.
const LOADER_UNDEFINED: u8 = 0xff;
/// Gibibytes mapped one to one for the kernel's first instructions.
const MAPPED_GIB: u64 = 4;

/// The header for an image without one (`vmlinux`).
pub(super) fn header_for_elf() -> setup_header {
    setup_header {
        boot_flag: 0xaa55,
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x20f,
        kernel_alignment: 0x0100_0000,
        ..Default::default()
    }
}

/// Writes the zero page and the page tables; the command line is written by the caller.
pub(super) fn write(
    memory: &GuestMemory,
    header: &setup_header,
    map: &[MapEntry],
    initrd: Option<Initrd>,
) -> Result<(), Problem> {
    let mut params = boot_params { hdr: *header, ..Default::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = COMMAND_LINE as u32;
    if let Some(initrd) = initrd {
        params.hdr.ramdisk_image = initrd.start as u32;
        params.hdr.ramdisk_size = initrd.len as u32;
    }
    for (slot, entry) in map.iter().enumerate() {
        params.e820_table[slot] = boot_e820_entry { addr: entry.start, size: entry.len, r#type: entry.kind as u32 };
    }
    params.e820_entries = map.len() as u8;
    memory.write_obj(params, GuestAddress(ZERO_PAGE))?;
    write_page_tables(memory)
}

/// One page of top level, one of the next, and one page of 2 MiB entries for each gibibyte.
fn write_page_tables(memory: &GuestMemory) -> Result<(), Problem> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    let (pointers, directories) = (PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000);
    let mut page = [0u64; 512];
    page[0] = pointers | PRESENT_WRITABLE;
    write_page(memory, PAGE_TABLES, &page)?;
    page[0] = 0;
    for gib in 0..MAPPED_GIB {
        page[gib as usize] = (directories + gib * 0x1000) | PRESENT_WRITABLE;
    }
    write_page(memory, pointers, &page)?;
    for gib in 0..MAPPED_GIB {
        for (entry, slot) in page.iter_mut().enumerate() {
            *slot = ((gib << 30) + ((entry as u64) << 21)) | PRESENT_WRITABLE | LARGE;
        }
        write_page(memory, directories + gib * 0x1000, &page)?;
    }
    Ok(())
}

fn write_page(memory: &GuestMemory, at: u64, entries: &[u64; 512]) -> Result<(), Problem> {
    let mut bytes = [0u8; 4096];
    for (to, entry) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(entries) {
        *to = entry.to_le_bytes();
    }
    Ok(memory.write_slice(&bytes, GuestAddress(at))?)
}
