//! ELF kernels: the tiny guest, any PVH kernel, and Linux's `vmlinux` (System V ABI with its i386
//! and x86-64 supplements).
//!
//! A PVH kernel is entered in 32-bit protected mode, so that it may be ELF32 as well as ELF64.
//! Without a PVH note only ELF64 does: it is a `vmlinux`, entered in 64-bit mode.
//!
//! The whole layout is checked before the first byte is written to guest memory.

use ferry_devices::GuestMemory;
use ferry_migration::description::RamRange;
use vm_memory::{Bytes, GuestAddress};

use super::Entry;
use super::error::Problem;
use super::image::Image;
use super::layout::KERNEL_MIN;

/// Program headers that an image may have.
const HEADERS_MAX: u16 = 128;
/// Bytes of notes that are searched for the PVH entry.
const NOTES_MAX: u64 = 64 << 10;
/// Xen's note type for the 32-bit entry point (xen/include/public/elfnote.h).
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;

/// A checked ELF image.
#[derive(Debug)]
pub(super) struct Elf {
    segments: Vec<Segment>,
    /// Where and how it is entered.
    pub(super) entry: Entry,
    /// First address past everything it loads.
    pub(super) end: u64,
}

/// Width of the file's addresses, on which the offsets of its fields depend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Elf32,
    Elf64,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    kind: u32,
    offset: u64,
    file_len: u64,
    start: u64,
    end: u64,
}

/// Whether the image begins with ELF's magic number.
pub(super) fn is_elf(magic: [u8; 4]) -> bool {
    magic == *b"\x7fELF"
}

impl Elf {
    /// Reads the headers of `image` and checks that it can be loaded into RAM at `ranges`.
    pub(super) fn parse(image: &Image, ranges: &[RamRange]) -> Result<Self, Problem> {
        let (class, headers) = program_headers(image)?;
        let mut segments: Vec<_> = headers.iter().copied().filter(|s| s.kind == PT_LOAD && s.end > s.start).collect();
        segments.sort_by_key(|segment| segment.start);
        check_segments(&segments, ranges)?;
        let end = segments.last().ok_or(Problem::NoSegments)?.end;
        let entry = match pvh_entry(image, &headers)? {
            Some(entry) => Entry::Pvh(entry),
            None if class == Class::Elf32 => return Err(Problem::NoPvhNote),
            None => {
                let mut entry = [0; 8];
                image.read(24, &mut entry, "ELF header")?;
                Entry::Linux64(u64::from_le_bytes(entry))
            }
        };
        let address = entry.address();
        if !segments.iter().any(|segment| (segment.start..segment.end).contains(&address)) {
            return Err(Problem::NoEntry { entry: address });
        }
        Ok(Elf { segments, entry, end })
    }

    /// Writes all segments, and zeros where a segment is longer in memory than in the file.
    pub(super) fn load(&self, image: &Image, memory: &GuestMemory) -> Result<(), Problem> {
        const ZEROS: [u8; 4096] = [0; 4096];
        for segment in &self.segments {
            image.copy(segment.offset, segment.file_len, (memory, segment.start), "segments")?;
            let mut at = segment.start + segment.file_len;
            while at < segment.end {
                let len = (segment.end - at).min(ZEROS.len() as u64);
                memory.write_slice(&ZEROS[..len as usize], GuestAddress(at))?;
                at += len;
            }
        }
        Ok(())
    }
}

impl Class {
    /// From the bytes that both classes begin with: the identification, the type and the processor.
    fn of(start: &[u8; 20]) -> Result<Self, Problem> {
        if start[5] != 1 {
            return Err(Problem::WrongElf("it is big-endian"));
        }
        match (start[4], u16_at(start, 18)) {
            // Both are entered alike; 64-bit kernels that GRUB can load are often packed as ELF32.
            (1, EM_386 | EM_X86_64) => Ok(Class::Elf32),
            (2, EM_X86_64) => Ok(Class::Elf64),
            (1 | 2, _) => Err(Problem::WrongElf("it is for another processor")),
            _ => Err(Problem::WrongElf("it is neither 32-bit nor 64-bit")),
        }
    }

    fn header_len(self) -> usize {
        if self == Class::Elf32 { 52 } else { 64 }
    }

    /// Offset of the program headers, length of each, and their number.
    fn table(self, header: &[u8]) -> (u64, u16, u16) {
        match self {
            Class::Elf32 => (u32_at(header, 28).into(), u16_at(header, 42), u16_at(header, 44)),
            Class::Elf64 => (u64_at(header, 32), u16_at(header, 54), u16_at(header, 56)),
        }
    }

    fn program_header_len(self) -> usize {
        if self == Class::Elf32 { 32 } else { 56 }
    }

    /// Place in the file, physical address, length in the file and length in memory.
    fn program_header(self, header: &[u8]) -> [u64; 4] {
        match self {
            Class::Elf32 => [4, 12, 16, 20].map(|at| u32_at(header, at).into()),
            Class::Elf64 => [8, 24, 32, 40].map(|at| u64_at(header, at)),
        }
    }
}

fn program_headers(image: &Image) -> Result<(Class, Vec<Segment>), Problem> {
    let mut start = [0; 20];
    image.read(0, &mut start, "ELF header")?;
    let class = Class::of(&start)?;
    let mut header = vec![0; class.header_len()];
    image.read(0, &mut header, "ELF header")?;
    let (offset, entry_len, count) = class.table(&header);
    if count == 0 {
        return Err(Problem::NoSegments);
    }
    let len = class.program_header_len();
    if usize::from(entry_len) != len {
        return Err(Problem::BadHeader(match class {
            Class::Elf32 => "program headers are not of 32 bytes",
            Class::Elf64 => "program headers are not of 56 bytes",
        }));
    }
    if count > HEADERS_MAX {
        return Err(Problem::BadHeader("it has more than 128 program headers"));
    }
    let mut table = vec![0; usize::from(count) * len];
    image.read(offset, &mut table, "program headers")?;
    let segments = table.chunks_exact(len).map(|header| segment(class, header, image)).collect::<Result<_, _>>()?;
    Ok((class, segments))
}

fn segment(class: Class, header: &[u8], image: &Image) -> Result<Segment, Problem> {
    let kind = u32_at(header, 0);
    let [offset, start, file_len, memory_len] = class.program_header(header);
    if kind != PT_LOAD && kind != PT_NOTE {
        return Ok(Segment { kind, offset: 0, file_len: 0, start: 0, end: 0 });
    }
    let file_end = offset.checked_add(file_len).ok_or(Problem::BadHeader("a segment's place in the file overflows"))?;
    if file_end > image.len() {
        return Err(Problem::Truncated { part: "segments", needed: file_end, len: image.len() });
    }
    if kind == PT_LOAD && file_len > memory_len {
        return Err(Problem::BadHeader("a segment is longer in the file than in memory"));
    }
    let end = start.checked_add(memory_len).ok_or(Problem::BadHeader("a segment's address overflows"))?;
    Ok(Segment { kind, offset, file_len, start, end })
}

/// Checks segments sorted by address against RAM and against each other.
fn check_segments(segments: &[Segment], ranges: &[RamRange]) -> Result<(), Problem> {
    for segment in segments {
        if segment.start < KERNEL_MIN {
            return Err(Problem::TooLow { start: segment.start });
        }
        let fits = |range: &RamRange| segment.start >= range.start && segment.end <= range.start + range.len;
        if !ranges.iter().any(fits) {
            return Err(Problem::OutsideRam { start: segment.start, end: segment.end });
        }
    }
    match segments.array_windows().find(|[a, b]| b.start < a.end) {
        Some([_, b]) => Err(Problem::Overlap { at: b.start }),
        None => Ok(()),
    }
}

fn pvh_entry(image: &Image, headers: &[Segment]) -> Result<Option<u32>, Problem> {
    for notes in headers.iter().filter(|header| header.kind == PT_NOTE) {
        let mut bytes = vec![0; notes.file_len.min(NOTES_MAX) as usize];
        image.read(notes.offset, &mut bytes, "notes")?;
        if let Some(entry) = find_pvh_note(&bytes)? {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// Walks notes: name length, description length, type, then both padded to 4 bytes.
fn find_pvh_note(mut notes: &[u8]) -> Result<Option<u32>, Problem> {
    while notes.len() >= 12 {
        let (name_len, len, kind) = (u32_at(notes, 0) as usize, u32_at(notes, 4) as usize, u32_at(notes, 8));
        let name_end = 12 + name_len.next_multiple_of(4);
        let Some(description) = notes.get(name_end..).and_then(|rest| rest.get(..len)) else {
            return Ok(None);
        };
        if kind == XEN_ELFNOTE_PHYS32_ENTRY && notes.get(12..12 + name_len) == Some(b"Xen\0") {
            let bytes = description.first_chunk().ok_or(Problem::BadHeader("its PVH note is shorter than 4 bytes"))?;
            // The value may be as wide as the file's addresses; the entry is in the first 4 GiB.
            if description[4..].iter().any(|byte| *byte != 0) {
                return Err(Problem::BadHeader("its PVH entry is not below 4 GiB"));
            }
            return Ok(Some(u32::from_le_bytes(*bytes)));
        }
        notes = notes.get(name_end + len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(None)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
