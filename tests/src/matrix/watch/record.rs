//! Reads an ownership record by its specification (`docs/ownership-record.md`), with code that is
//! not Ferry's: a mistake in Ferry's own reading shows as a difference.

use std::fs;
use std::path::Path;

use crate::matrix::evidence::{Named, RecordView};

/// Where the slots are in the file.
const SLOTS: [usize; 2] = [0, 4096];
/// Bytes of a slot.
const SLOT: usize = 512;
/// Bytes of the file.
const FILE: usize = 8192;

/// Reads the record at `path`.
///
/// # Errors
/// When it cannot be read, or is none by its specification.
pub fn read(path: &Path) -> Result<RecordView, String> {
    let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&bytes).map_err(|why| format!("{}: {why}", path.display()))
}

/// Who a record names, if it can be read.
#[must_use]
pub fn named(path: &Path) -> Option<Named> {
    let view = read(path).ok()?;
    Some(Named { generation: view.generation, pid: view.pid() })
}

fn parse(file: &[u8]) -> Result<RecordView, String> {
    if file.len() != FILE {
        return Err(format!("it is {} bytes long, not {FILE}", file.len()));
    }
    let slots = SLOTS.map(|at| slot(&file[at..at + SLOT]));
    let whole = slots.into_iter().flatten();
    whole.max_by_key(|(write, _)| *write).map(|(_, view)| view).ok_or_else(|| "no slot is whole".into())
}

/// A slot's write number and what it says; `None` if it is not whole.
fn slot(bytes: &[u8]) -> Option<(u64, RecordView)> {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let checksum = u32::from_le_bytes(bytes[508..].try_into().expect("four bytes"));
    let known = bytes[..8] == *b"FERRYOWN" && bytes[8..10] == [1, 0] && checksum == crc32c::crc32c(&bytes[..508]);
    if !known {
        return None;
    }
    let text = |at: usize, len: u8| String::from_utf8(bytes.get(at..at + usize::from(len.min(64)))?.to_vec()).ok();
    let (vm, owner) = (text(72, bytes[11])?, text(136, bytes[12])?);
    Some((number(16), RecordView { vm, generation: number(24), owner, settled: bytes[10] & 1 != 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slot as the specification draws it.
    fn made(write: u64, generation: u64, settled: bool) -> [u8; SLOT] {
        let mut bytes = [0; SLOT];
        bytes[..8].copy_from_slice(b"FERRYOWN");
        bytes[8] = 1;
        bytes[10] = settled.into();
        (bytes[11], bytes[12]) = (5, 7);
        bytes[16..24].copy_from_slice(&write.to_le_bytes());
        bytes[24..32].copy_from_slice(&generation.to_le_bytes());
        bytes[72..77].copy_from_slice(b"guest");
        bytes[136..143].copy_from_slice(b"host:42");
        let checksum = crc32c::crc32c(&bytes[..508]);
        bytes[508..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn file(first: [u8; SLOT], second: [u8; SLOT]) -> Vec<u8> {
        let mut bytes = vec![0; FILE];
        bytes[..SLOT].copy_from_slice(&first);
        bytes[4096..4096 + SLOT].copy_from_slice(&second);
        bytes
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let view = parse(&file(made(3, 1, true), made(4, 2, false))).unwrap();
        assert_eq!((view.generation, view.settled, view.pid(), &*view.vm), (2, false, Some(42), "guest"));
        let mut torn = made(4, 2, false);
        torn[100] ^= 1;
        assert_eq!(parse(&file(made(3, 1, true), torn)).unwrap().generation, 1);
        assert_eq!(parse(&file([0; SLOT], torn)).unwrap_err(), "no slot is whole");
        assert!(parse(&[0; 10]).unwrap_err().contains("10 bytes"));
    }
}
