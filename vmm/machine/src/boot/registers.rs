//! The state of the first vCPU at a kernel's first instruction.

use ferry_devices::GuestMemory;
use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress};

use super::Entry;
use super::error::Problem;
use super::layout::{GDT, PAGE_TABLES, START_INFO, ZERO_PAGE};

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// RFLAGS with interrupts off; bit 1 is always set.
const RFLAGS: u64 = 2;

/// Selectors of the table that both protocols share; Linux requires 0x10 and 0x18.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

/// Writes the descriptor table that [`special`] points at.
pub(super) fn write_descriptors(memory: &GuestMemory, entry: Entry) -> Result<(), Problem> {
    for (selector, segment) in [(CODE, code(entry)), (DATA, data()), (TASK, task())] {
        memory.write_obj(descriptor(&segment), GuestAddress(GDT + u64::from(selector)))?;
    }
    for unused in [0u64, 8] {
        memory.write_obj(0u64, GuestAddress(GDT + unused))?;
    }
    Ok(())
}

/// General registers at the entry.
#[must_use]
pub(crate) fn general(entry: Entry) -> kvm_regs {
    match entry {
        Entry::Pvh(entry) => kvm_regs { rip: entry.into(), rbx: START_INFO, rflags: RFLAGS, ..Default::default() },
        Entry::Linux64(entry) => kvm_regs { rip: entry, rsi: ZERO_PAGE, rflags: RFLAGS, ..Default::default() },
    }
}

/// Changes the power-on `sregs` to flat protected mode (PVH) or 64-bit mode (Linux).
pub(crate) fn special(entry: Entry, sregs: &mut kvm_sregs) {
    sregs.cs = code(entry);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data(), data(), data(), data(), data());
    sregs.tr = task();
    sregs.gdt = kvm_dtable { base: GDT, limit: TASK + 7, ..Default::default() };
    sregs.idt = kvm_dtable::default();
    sregs.cr0 = CR0_PE | CR0_ET;
    if let Entry::Linux64(_) = entry {
        sregs.cr0 |= CR0_PG;
        sregs.cr3 = PAGE_TABLES;
        sregs.cr4 = CR4_PAE;
        sregs.efer = EFER_LME | EFER_LMA;
    }
}

fn code(entry: Entry) -> kvm_segment {
    let long = matches!(entry, Entry::Linux64(_));
    kvm_segment { type_: 0xb, selector: CODE, db: (!long).into(), l: long.into(), ..data() }
}

fn data() -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: DATA,
        type_: 3,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

fn task() -> kvm_segment {
    kvm_segment { limit: 0x67, selector: TASK, type_: 0xb, present: 1, ..Default::default() }
}

/// The descriptor in memory (Intel SDM volume 3, 3.4.5).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 { segment.limit >> 12 } else { segment.limit });
    let access = u64::from(segment.type_ | segment.s << 4 | segment.dpl << 5 | segment.present << 7);
    let flags = u64::from(segment.avl | segment.l << 1 | segment.db << 2 | segment.g << 3);
    limit & 0xffff
        | (segment.base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (segment.base >> 24 & 0xff) << 56
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_the_well_known_ones() {
        assert_eq!(descriptor(&code(Entry::Pvh(0))), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(&code(Entry::Linux64(0))), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&data()), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&task()), 0x0000_8b00_0000_0067);
    }
}
