//! The PVH boot protocol: `hvm_start_info` version 1 and the tables that it points at (Xen
//! `docs/misc/pvh.pandoc`).

use ferry_devices::GuestMemory;
use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress};

use super::Initrd;
use super::error::Problem;
use super::layout::{COMMAND_LINE, MEMORY_MAP, MODULE_LIST, MapEntry, START_INFO};

/// Writes the start info for a guest with memory `map`; the command line is written by the caller.
pub(super) fn write(memory: &GuestMemory, map: &[MapEntry], initrd: Option<Initrd>) -> Result<(), Problem> {
    for (at, entry) in map.iter().enumerate() {
        let entry =
            hvm_memmap_table_entry { addr: entry.start, size: entry.len, type_: entry.kind as u32, reserved: 0 };
        memory.write_obj(entry, GuestAddress(MEMORY_MAP + (at * size_of::<hvm_memmap_table_entry>()) as u64))?;
    }
    if let Some(initrd) = initrd {
        let module = hvm_modlist_entry { paddr: initrd.start, size: initrd.len, ..Default::default() };
        memory.write_obj(module, GuestAddress(MODULE_LIST))?;
    }
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        nr_modules: u32::from(initrd.is_some()),
        modlist_paddr: if initrd.is_some() { MODULE_LIST } else { 0 },
        cmdline_paddr: COMMAND_LINE,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    Ok(memory.write_obj(info, GuestAddress(START_INFO))?)
}
