//! The MP table, which describes the processors and the IOAPIC to a guest without ACPI (Intel
//! MultiProcessor Specification 1.4, chapter 4).

use ferry_devices::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::error::Problem;
use super::layout::MP_TABLE;

/// Physical address of the local APICs.
const LAPIC: u32 = 0xfee0_0000;
/// Physical address of the IOAPIC.
const IOAPIC: u32 = 0xfec0_0000;
/// Version of the in-kernel IOAPIC.
const IOAPIC_VERSION: u8 = 0x11;
/// Version of the in-kernel local APIC.
const LAPIC_VERSION: u8 = 0x14;
const ISA_INTERRUPTS: u8 = 16;
const POINTER_LEN: u64 = 16;
const HEADER_LEN: usize = 44;

/// Writes the floating pointer and the table behind it for `cpus` processors with APIC ids from 0.
pub(super) fn write(memory: &GuestMemory, cpus: u32) -> Result<(), Problem> {
    let table = table(cpus as u8);
    memory.write_slice(&table, GuestAddress(MP_TABLE + POINTER_LEN))?;
    let mut pointer = *b"_MP_\0\0\0\0\x01\x04\0\0\0\0\0\0";
    pointer[4..8].copy_from_slice(&((MP_TABLE + POINTER_LEN) as u32).to_le_bytes());
    seal(&mut pointer, 10);
    Ok(memory.write_slice(&pointer, GuestAddress(MP_TABLE))?)
}

fn table(cpus: u8) -> Vec<u8> {
    let ioapic_id = cpus;
    let mut entries = Vec::new();
    for id in 0..cpus {
        // Usable; the first one boots. Then family 6 and the features FPU and APIC.
        let flags = if id == 0 { 0b11 } else { 0b01 };
        entries.extend([0, id, LAPIC_VERSION, flags]);
        entries.extend(0x600u32.to_le_bytes());
        entries.extend(0x201u32.to_le_bytes());
        entries.extend([0; 8]);
    }
    entries.extend([1, 0]);
    entries.extend(b"ISA   ");
    entries.extend([2, ioapic_id, IOAPIC_VERSION, 1]);
    entries.extend(IOAPIC.to_le_bytes());
    for irq in 0..ISA_INTERRUPTS {
        // KVM wires the timer, ISA interrupt 0, to input 2 of its IOAPIC, and gives input 2 to no
        // other interrupt.
        let input = match irq {
            0 => 2,
            2 => continue,
            irq => irq,
        };
        entries.extend([3, 0, 0, 0, 0, irq, ioapic_id, input]);
    }
    // External interrupts reach the first processor, non-maskable ones all.
    entries.extend([4, 3, 0, 0, 0, 0, 0, 0]);
    entries.extend([4, 1, 0, 0, 0, 0, 0xff, 1]);

    let count = u16::from(cpus) + 2 + u16::from(ISA_INTERRUPTS - 1) + 2;
    let mut table = Vec::with_capacity(HEADER_LEN + entries.len());
    table.extend(b"PCMP");
    table.extend(((HEADER_LEN + entries.len()) as u16).to_le_bytes());
    table.extend([4, 0]);
    table.extend(b"FERRY   ");
    table.extend(b"FERRY       ");
    table.extend([0; 6]);
    table.extend(count.to_le_bytes());
    table.extend(LAPIC.to_le_bytes());
    table.extend([0; 4]);
    table.extend(entries);
    seal(&mut table, 7);
    table
}

/// Sets the byte at `checksum` so that all bytes add up to 0.
fn seal(bytes: &mut [u8], checksum: usize) {
    bytes[checksum] = 0;
    bytes[checksum] = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_adds_up_and_its_entries_fill_it() {
        for cpus in [1, 2, 64] {
            let table = table(cpus);
            assert_eq!(table.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)), 0);
            assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
            let (mut at, mut entries, mut processors) = (HEADER_LEN, 0u16, 0);
            while at < table.len() {
                processors += u8::from(table[at] == 0);
                at += if table[at] == 0 { 20 } else { 8 };
                entries += 1;
            }
            assert_eq!((at, processors), (table.len(), cpus));
            assert_eq!(entries, u16::from_le_bytes([table[34], table[35]]));
        }
    }
}
