//! What a third party does to an ownership record, by its specification
//! (`docs/ownership-record.md`), with code that is not Ferry's.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use crate::file_lock::{RECORD, set_lock};

const SLOTS: [usize; 2] = [0, 4096];
const SLOT_LEN: usize = 512;
const WRITE_NUMBER: usize = 16;

/// Leaves the record as a crash in the middle of the next write would: the slot that is not the
/// newest has the first half of a newer one, and what it had before in the second.
///
/// # Panics
/// When there is no record.
pub fn tear_next_write(record: &Path) {
    let bytes = std::fs::read(record).expect("there is a record");
    let number = |slot: usize| {
        let at = slot + WRITE_NUMBER;
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
    };
    let [first, second] = SLOTS;
    let (newest, older) = if number(first) < number(second) { (second, first) } else { (first, second) };
    let mut half = bytes[newest..newest + SLOT_LEN / 2].to_vec();
    half[WRITE_NUMBER..WRITE_NUMBER + 8].copy_from_slice(&(number(newest) + 1).to_le_bytes());
    let mut file = File::options().write(true).open(record).expect("the record can be written");
    file.seek(SeekFrom::Start(older as u64)).expect("a file can be sought in");
    file.write_all(&half).expect("the record can be written");
}

/// Holds a record's lock until dropped.
#[derive(Debug)]
pub struct Held(File);

impl Held {
    /// Takes the lock of a record that nobody has.
    ///
    /// # Panics
    /// When there is no record, or somebody has its lock for good.
    #[must_use]
    pub fn of(record: &Path) -> Self {
        let file = File::options().read(true).write(true).open(record).expect("there is a record");
        set_lock(&file, libc::F_WRLCK, RECORD);
        Held(file)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Closing would not do while a process that another test is starting holds a copy of the
        // descriptor.
        set_lock(&self.0, libc::F_UNLCK, RECORD);
    }
}
