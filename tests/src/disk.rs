//! Disk images that tests make.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;

use crate::Lab;
use crate::file_lock::{IMAGE, RECORD, set_lock};
use crate::wait::{SOON, wait_for};

/// Makes a sparse raw image of this many bytes in the test's directory.
///
/// # Panics
/// When the file cannot be made.
#[must_use]
pub fn image(lab: &Lab, name: &str, bytes: u64) -> PathBuf {
    let path = lab.path(name);
    resize(&path, bytes);
    path
}

/// Gives an image another size.
///
/// # Panics
/// When the file cannot be made.
pub fn resize(path: &Path, bytes: u64) {
    let file = File::options().create(true).truncate(false).write(true).open(path).expect("an image can be made");
    file.set_len(bytes).expect("an image can be resized");
}

/// Makes an image larger by this many bytes.
///
/// # Panics
/// When the file cannot be made larger.
pub fn grow(path: &Path, bytes: u64) {
    let now = std::fs::metadata(path).expect("there is an image").len();
    resize(path, now + bytes);
}

/// Checks what the guest of this seed has written to an image; see [`intact`].
///
/// # Panics
/// When a sector holds anything else, or the image cannot be read.
#[must_use]
pub fn assert_intact(image: &Path, seed: u64) -> usize {
    intact(image, seed).unwrap_or_else(|why| panic!("{why}"))
}

/// Looks whether every sector is empty or one whole stamp of its own place by the guest of this
/// seed (`guest/kernel/disk.rs`). Nobody writes meanwhile. Returns how many sectors hold a stamp.
///
/// # Errors
/// When one is torn, in another's place or of another guest, or the image cannot be read.
pub fn intact(image: &Path, seed: u64) -> Result<usize, String> {
    const SECTOR: usize = 512;
    let bytes = std::fs::read(image).map_err(|error| format!("the image {}: {error}", image.display()))?;
    let mut stamped = 0;
    for (sector, content) in (0_u64..).zip(bytes.chunks(SECTOR)) {
        let words: Vec<_> =
            content.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect();
        if words.iter().all(|word| *word == 0) {
            continue;
        }
        stamped += 1;
        let stamp = &words[..4];
        if (stamp[0], stamp[2]) != (sector, seed) {
            return Err(format!("sector {sector} holds another's stamp: {stamp:x?}"));
        }
        if words.chunks(4).any(|other| other != stamp) {
            return Err(format!("sector {sector} is torn: {words:x?}"));
        }
    }
    Ok(stamped)
}

/// A third party that wants an image's lock, and takes it as soon as it is free.
#[derive(Debug)]
pub struct Lock {
    waiting: JoinHandle<File>,
    taken: Arc<AtomicBool>,
    bytes: i64,
}

impl Lock {
    /// Begins to wait for the lock of `image`, which somebody holds.
    ///
    /// # Panics
    /// When the image cannot be opened.
    #[must_use]
    pub fn wait_for(image: &Path) -> Self {
        Self::wait_for_first(image, IMAGE)
    }

    /// As [`Lock::wait_for`], for the lock of an ownership record.
    ///
    /// # Panics
    /// When the record cannot be opened.
    #[must_use]
    pub fn wait_for_record(record: &Path) -> Self {
        Self::wait_for_first(record, RECORD)
    }

    fn wait_for_first(image: &Path, bytes: i64) -> Self {
        let file = File::options().read(true).write(true).open(image).expect("the image can be opened");
        let taken = Arc::new(AtomicBool::new(false));
        let told = taken.clone();
        let waiting = std::thread::spawn(move || {
            set_lock(&file, libc::F_WRLCK, bytes);
            told.store(true, Relaxed);
            file
        });
        Lock { waiting, taken, bytes }
    }

    /// Waits until it has the lock.
    ///
    /// # Panics
    /// When it does not get it in time.
    pub fn wait_taken(&self) {
        wait_for("the lock to be free", SOON, || self.taken.load(Relaxed));
    }

    /// Whether it has the lock.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.taken.load(Relaxed)
    }

    /// Lets go of the lock, once it was taken.
    ///
    /// # Panics
    /// When the lock could not be taken.
    pub fn release(self) {
        let file = self.waiting.join().expect("waiting for a lock does not fail");
        // Closing would not do while a process that another test is starting holds a copy of the
        // descriptor.
        set_lock(&file, libc::F_UNLCK, self.bytes);
    }
}
