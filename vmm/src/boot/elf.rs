//! ELF64 kernels: the tiny guest, any PVH kernel, and Linux's `vmlinux` (System V ABI, x86-64 supplement).
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

const HEADER_LEN: usize = 64;
const PROGRAM_HEADER_LEN: usize = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const EM_X86_64: u16 = 62;

/// What a checked ELF image wants.
#[derive(Debug)]
pub(super) struct Elf {
    segments: Vec<Segment>,
    /// Where and how it is entered.
    pub(super) entry: Entry,
    /// First address past everything it loads.
    pub(super) end: u64,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    kind: u32,
    offset: u64,
    file_len: u64,
    start: u64,
    end: u64,
}

/// Whether the image says that it is ELF.
pub(super) fn is_elf(magic: [u8; 4]) -> bool {
    magic == *b"\x7fELF"
}

impl Elf {
    /// Reads the headers of `image` and checks that it can be loaded into RAM at `ranges`.
    pub(super) fn parse(image: &Image, ranges: &[RamRange]) -> Result<Self, Problem> {
        let headers = program_headers(image)?;
        let mut segments: Vec<_> = headers.iter().copied().filter(|s| s.kind == PT_LOAD && s.end > s.start).collect();
        segments.sort_by_key(|segment| segment.start);
        check_segments(&segments, ranges)?;
        let end = segments.last().ok_or(Problem::NoSegments)?.end;
        let entry = match pvh_entry(image, &headers)? {
            Some(entry) => Entry::Pvh(entry),
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

fn program_headers(image: &Image) -> Result<Vec<Segment>, Problem> {
    let mut header = [0; HEADER_LEN];
    image.read(0, &mut header, "ELF header")?;
    if header[4] != 2 {
        return Err(Problem::WrongElf("it is 32-bit"));
    }
    if header[5] != 1 {
        return Err(Problem::WrongElf("it is big-endian"));
    }
    if u16_at(&header, 18) != EM_X86_64 {
        return Err(Problem::WrongElf("it is for another processor"));
    }
    let (offset, entry_len, count) = (u64_at(&header, 32), u16_at(&header, 54), u16_at(&header, 56));
    if count == 0 {
        return Err(Problem::NoSegments);
    }
    if usize::from(entry_len) != PROGRAM_HEADER_LEN {
        return Err(Problem::BadHeader("program headers are not of 56 bytes"));
    }
    if count > HEADERS_MAX {
        return Err(Problem::BadHeader("it has more than 128 program headers"));
    }
    let mut table = vec![0; usize::from(count) * PROGRAM_HEADER_LEN];
    image.read(offset, &mut table, "program headers")?;
    table.chunks_exact(PROGRAM_HEADER_LEN).map(|header| segment(header, image)).collect()
}

fn segment(header: &[u8], image: &Image) -> Result<Segment, Problem> {
    let (kind, offset, start) = (u32_at(header, 0), u64_at(header, 8), u64_at(header, 24));
    let (file_len, memory_len) = (u64_at(header, 32), u64_at(header, 40));
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
