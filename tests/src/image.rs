//! Kernel images that tests make: tiny PVH guests that do one thing, and ELF files with one thing
//! wrong.
//!
//! Format: ELF-64 (System V ABI) with one segment of code and one Xen note
//! (`XEN_ELFNOTE_PHYS32_ENTRY`), which a PVH loader enters in 32-bit protected mode.

use std::path::PathBuf;

use crate::Lab;

/// Where the code lies in guest memory.
pub const BASE: u64 = 0x10_0000;

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const NOTE_AT: usize = HEADER + 2 * PROGRAM_HEADER;
const CODE_AT: usize = 0x1000;
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// An image, with what can be wrong about it.
#[derive(Clone, Debug)]
pub struct Elf {
    /// 32-bit machine code.
    pub code: Vec<u8>,
    /// Where it is loaded.
    pub load_at: u64,
    /// Bytes that it takes in memory.
    pub memory_bytes: u64,
    /// Where it is entered.
    pub entry: u32,
    /// `e_ident[EI_CLASS]`: 2 for 64-bit.
    pub class: u8,
    /// `e_machine`: 62 for x86-64.
    pub machine: u16,
}

impl Elf {
    /// An image of this code with nothing wrong about it.
    #[must_use]
    pub fn new(code: Vec<u8>) -> Self {
        let memory_bytes = code.len() as u64;
        Elf { code, load_at: BASE, memory_bytes, entry: BASE as u32, class: 2, machine: 62 }
    }

    /// The file's bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0; CODE_AT];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[0x7f, b'E', b'L', b'F', self.class, 1, 1]);
        put(16, &2u16.to_le_bytes());
        put(18, &self.machine.to_le_bytes());
        put(20, &1u32.to_le_bytes());
        put(24, &u64::from(self.entry).to_le_bytes());
        put(32, &(HEADER as u64).to_le_bytes());
        put(52, &(HEADER as u16).to_le_bytes());
        put(54, &(PROGRAM_HEADER as u16).to_le_bytes());
        put(56, &2u16.to_le_bytes());
        let length = self.code.len() as u64;
        put(HEADER, &segment(1, CODE_AT as u64, self.load_at, length, self.memory_bytes));
        let note = self.note();
        let length = note.len() as u64;
        put(HEADER + PROGRAM_HEADER, &segment(4, NOTE_AT as u64, 0, length, length));
        put(NOTE_AT, &note);
        out.extend_from_slice(&self.code);
        out
    }

    /// The same image as ELF-32 for i386, which a PVH loader takes as well.
    #[must_use]
    pub fn bytes32(&self) -> Vec<u8> {
        let mut out = vec![0; CODE_AT];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[0x7f, b'E', b'L', b'F', 1, 1, 1]);
        put(16, &[2, 0, 3, 0, 1, 0, 0, 0]);
        put(24, &self.entry.to_le_bytes());
        put(28, &52u32.to_le_bytes());
        put(40, &[52, 0, 32, 0, 2, 0]);
        let note = self.note();
        let (code_at, length) = (CODE_AT as u32, self.code.len() as u32);
        let headers = [
            [1, code_at, self.load_at as u32, self.load_at as u32, length, self.memory_bytes as u32, 7, 4],
            [4, NOTE_AT as u32, 0, 0, note.len() as u32, note.len() as u32, 4, 4],
        ];
        for (at, word) in headers.as_flattened().iter().enumerate() {
            put(52 + 4 * at, &u32::to_le_bytes(*word));
        }
        put(NOTE_AT, &note);
        out.extend_from_slice(&self.code);
        out
    }

    fn note(&self) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [4, 4, XEN_ELFNOTE_PHYS32_ENTRY] {
            note.extend_from_slice(&u32::to_le_bytes(word));
        }
        note.extend_from_slice(b"Xen\0");
        note.extend_from_slice(&self.entry.to_le_bytes());
        note
    }
}

/// A program header.
fn segment(kind: u32, offset: u64, address: u64, file_bytes: u64, memory_bytes: u64) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&kind.to_le_bytes());
    // Readable, writable, executable.
    out.extend_from_slice(&7u32.to_le_bytes());
    for word in [offset, address, address, file_bytes, memory_bytes, 4] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out
}

/// Writes a file in the test's directory.
///
/// # Panics
/// When it cannot be written.
#[must_use]
pub fn write(lab: &Lab, name: &str, bytes: &[u8]) -> PathBuf {
    let path = lab.path(name);
    std::fs::write(&path, bytes).expect("a file of the test can be written");
    path
}

/// Code that prints `text` on the serial port.
#[must_use]
pub fn print(text: &str) -> Vec<u8> {
    // mov edx, 0x3f8; then for each byte: mov al, byte; out dx, al
    let mut code = vec![0xba, 0xf8, 0x03, 0, 0];
    code.extend(text.bytes().flat_map(|byte| [0xb0, byte, 0xee]));
    code
}

/// Code that sleeps for ever.
#[must_use]
pub fn halt() -> Vec<u8> {
    // cli; hlt; jmp back to hlt
    vec![0xfa, 0xf4, 0xeb, 0xfd]
}

/// Code that writes `request` to the exit device.
#[must_use]
pub fn exit(request: u8) -> Vec<u8> {
    // mov edx, 0x501; mov al, request; out dx, al; then sleep
    [vec![0xba, 0x01, 0x05, 0, 0, 0xb0, request, 0xee], halt()].concat()
}

/// Code that faults without an interrupt table, which no processor survives: a triple fault.
#[must_use]
pub fn triple_fault() -> Vec<u8> {
    // lidt [0x1000], where memory is zero: an empty table; then ud2
    vec![0x0f, 0x01, 0x1d, 0x00, 0x10, 0, 0, 0x0f, 0x0b]
}

/// Code that goes on where there is neither memory nor a device, which KVM cannot execute on any
/// host.
#[must_use]
pub fn leave_memory() -> Vec<u8> {
    // mov eax, 0xd8000000; jmp eax
    vec![0xb8, 0, 0, 0, 0xd8, 0xff, 0xe0]
}

/// Code that fills `bytes` at `address` with this 32-bit value.
#[must_use]
pub fn fill(address: u32, bytes: u32, value: u32) -> Vec<u8> {
    // cld; mov edi, address; mov ecx, bytes / 4; mov eax, value; rep stosd
    let mut code = vec![0xfc];
    for (register, value) in [(0xbf, address), (0xb9, bytes / 4), (0xb8, value)] {
        code.push(register);
        code.extend(value.to_le_bytes());
    }
    code.extend([0xf3, 0xab]);
    code
}

/// Code that waits for a byte on the serial port.
#[must_use]
pub fn wait_for_input() -> Vec<u8> {
    // mov edx, 0x3fd; then: in al, dx; test al, 1; jz back to in
    vec![0xba, 0xfd, 0x03, 0, 0, 0xec, 0xa8, 0x01, 0x74, 0xfb]
}
