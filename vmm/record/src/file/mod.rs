//! The ownership record in a file on storage that both sides see, by default `IMAGE.owner` beside
//! the guest's disk.
//!
//! Every operation takes an OFD lock, checks that the path still names the file that is open, and
//! releases the lock. The file stays open between operations, so that its inode number cannot be
//! reused. A write goes to the slot that is not the newest and counts after `fdatasync`; the bytes
//! are those of `ferry_migration::ownership::file`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ferry_devices::fault::{FaultControl, Place};
use ferry_migration::ownership::file::{self as format, Newest};
use ferry_migration::ownership::judge;
use ferry_migration::ownership::swap::{Verdict, judge_create};

use crate::faulty::Tear;
use crate::file::lock::Kind;
use crate::{Expected, Ownership, OwnershipError, Record, Sign, Stay, Stays, Swap};

mod create;
mod lock;
mod presence;

/// How long an operation waits for another process's lock, by default. A lock is held for one write
/// at a time.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// A record in a file.
#[derive(Debug)]
pub struct FileRecord {
    path: PathBuf,
    lock_timeout: Duration,
    /// Open since the first operation that found the file.
    held: Mutex<Option<File>>,
    /// Open, with its lock, as long as this process shows that it has the guest.
    presence: Mutex<Option<Arc<File>>>,
    /// Held while presence is being shown, which waits for storage.
    showing: Mutex<()>,
    stays: Stays,
    /// See [`Tear`].
    tear: Mutex<Option<usize>>,
    faults: Arc<FaultControl>,
}

impl FileRecord {
    /// The record at `path`, which need not exist yet. Nothing is opened before the first
    /// operation. `faults` may make operations on the storage fail.
    #[must_use]
    pub fn new(path: PathBuf, lock_timeout: Duration, faults: Arc<FaultControl>) -> Self {
        let (held, presence, showing, stays, tear) = <_>::default();
        FileRecord { path, lock_timeout, held, presence, showing, stays, tear, faults }
    }

    /// Where the record of a guest with this disk image is: beside the file that holds the image,
    /// links followed, so that both sides find the same one by any path that names the image.
    ///
    /// # Errors
    /// When the image cannot be found, or is the root folder.
    pub fn beside(image: &Path) -> io::Result<PathBuf> {
        let image = image.canonicalize()?;
        let mut name = image.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_owned();
        name.push(".owner");
        Ok(image.with_file_name(name))
    }

    /// Runs `operate` on the open file under its lock; none if there never was a file.
    fn locked<T>(
        &self,
        kind: Kind,
        operate: impl FnOnce(&File) -> Result<T, OwnershipError>,
    ) -> Result<Option<T>, OwnershipError> {
        let deadline = Instant::now() + self.lock_timeout;
        let mut held = self.held();
        if held.is_none() {
            *held = self.open()?;
        }
        let Some(file) = &*held else { return Ok(None) };
        let locked = self.faults.before(Place::RecordLock).and_then(|()| lock::acquire(file, kind, deadline));
        locked.map_err(|error| self.unreachable("locking it", false, error))?;
        let result = self.check_in_place(file).and_then(|()| operate(file));
        let stale = matches!(&result, Err(OwnershipError::Unreachable { source, .. }) if is_stale(source));
        // Closing also releases the lock, and allows a file that is stale on its server to be
        // opened anew.
        if lock::release(file).is_err() || stale {
            *held = None;
        }
        result.map(Some)
    }

    /// Opens the file if there is one; refuses anything but a regular file.
    fn open(&self) -> Result<Option<File>, OwnershipError> {
        // O_NONBLOCK: a FIFO or a device in the file's place must not block the open. The flag has
        // no effect on a file.
        let flags = libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = match OpenOptions::new().read(true).write(true).custom_flags(flags).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.not_opened(error)),
        };
        let metadata = file.metadata().map_err(|error| self.unreachable("looking at it", false, error))?;
        if !metadata.is_file() {
            return Err(OwnershipError::Foreign { at: self.place(), found: "a device or a pipe".to_owned() });
        }
        Ok(Some(file))
    }

    fn not_opened(&self, error: io::Error) -> OwnershipError {
        let found = match error.raw_os_error() {
            Some(libc::ELOOP) => "a symbolic link",
            Some(libc::EISDIR) => "a folder",
            Some(libc::ENXIO) => "a socket or a device",
            _ => return self.unreachable("opening it", false, error),
        };
        OwnershipError::Foreign { at: self.place(), found: found.to_owned() }
    }

    /// The path must still name the open file: a process that opens it now must see the same
    /// record.
    fn check_in_place(&self, file: &File) -> Result<(), OwnershipError> {
        let fail = |error| self.unreachable("looking at it", false, error);
        let replaced = |how| OwnershipError::Replaced { at: self.place(), how };
        let at_path = match self.path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(replaced("removed")),
            Err(error) => return Err(fail(error)),
        };
        let open = file.metadata().map_err(fail)?;
        if (open.dev(), open.ino()) == (at_path.dev(), at_path.ino()) { Ok(()) } else { Err(replaced("replaced")) }
    }

    fn newest(&self, file: &File) -> Result<Newest, OwnershipError> {
        self.faults.before(Place::RecordRead).map_err(|error| self.unreachable("reading it", false, error))?;
        // One byte more than the format has, to detect a file that is too long.
        let mut bytes = [0; format::FILE_LEN + 1];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.unreachable("reading it", false, error)),
            }
        }
        format::read(&bytes[..filled]).map_err(|error| OwnershipError::format(&self.place(), error))
    }

    /// Makes `record` the newest, durably. From the first byte on, a failure may have applied it.
    fn write(&self, file: &File, newest: &Newest, record: &Record) -> Result<(), OwnershipError> {
        let write = newest.next(record).map_err(|error| OwnershipError::format(&self.place(), error))?;
        if let Some(bytes) = self.tear.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let torn = file.write_all_at(&write.bytes[..bytes.min(write.bytes.len())], write.offset);
            let error = torn.err().unwrap_or_else(|| io::Error::other("a planned fault ended the write"));
            return Err(self.unreachable("writing it", true, error));
        }
        let written =
            self.faults.before(Place::RecordWrite).and_then(|()| file.write_all_at(&write.bytes, write.offset));
        written.map_err(|error| self.unreachable("writing it", true, error))?;
        let synced = self.faults.before(Place::RecordSync).and_then(|()| file.sync_data());
        synced.map_err(|error| self.unreachable("making it durable", true, error))
    }

    fn unreachable(&self, doing: &'static str, maybe_applied: bool, source: io::Error) -> OwnershipError {
        let advice = advice(&source);
        OwnershipError::Unreachable { at: self.place(), doing, maybe_applied, source, advice }
    }

    fn held(&self) -> MutexGuard<'_, Option<File>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ownership for FileRecord {
    fn place(&self) -> String {
        format!("file:{}", self.path.display())
    }

    fn read(&self) -> Result<Option<Record>, OwnershipError> {
        self.locked(Kind::Shared, |file| Ok(self.newest(file)?.record))
    }

    fn create(&self, record: &Record) -> Result<Swap, OwnershipError> {
        // The first process to create the file wins; the second pass finds a file that the first
        // pass missed.
        for _ in 0..2 {
            if let Some(swap) = self.locked(Kind::Exclusive, |file| self.create_over(file, record))? {
                return Ok(swap);
            }
            if self.create_file(record)? {
                return Ok(Swap::Won);
            }
        }
        Err(OwnershipError::Replaced { at: self.place(), how: "removed" })
    }

    fn swap(&self, expected: &Expected, record: &Record) -> Result<Swap, OwnershipError> {
        let swapped = self.locked(Kind::Exclusive, |file| {
            let newest = self.newest(file)?;
            let verdict = judge(&newest.record, expected, record)
                .map_err(|source| OwnershipError::Rule { at: self.place(), source })?;
            self.carry_out(file, newest, verdict, record)
        })?;
        swapped.ok_or_else(|| OwnershipError::Missing { at: self.place() })
    }

    fn stay(&self) -> Stay {
        self.stays.present()
    }

    fn show_presence(&self, alone: bool, stay: Stay) -> Result<(), OwnershipError> {
        self.take_presence(alone, stay)
    }

    fn end_presence(&self) -> Sign {
        self.give_up_presence()
    }
}

impl FileRecord {
    fn carry_out(
        &self,
        file: &File,
        newest: Newest,
        verdict: Verdict,
        record: &Record,
    ) -> Result<Swap, OwnershipError> {
        match verdict {
            Verdict::Lost => return Ok(Swap::Lost(newest.record)),
            Verdict::Write => self.write(file, &newest, record)?,
            // A `fdatasync` that failed leaves pages that a later one takes for written: only
            // writing again is sure.
            Verdict::Repeat => self.write(file, &newest, &newest.record)?,
        }
        Ok(Swap::Won)
    }

    /// [`Ownership::create`] when there is a file.
    fn create_over(&self, file: &File, record: &Record) -> Result<Swap, OwnershipError> {
        let newest = self.newest(file)?;
        let verdict =
            judge_create(&newest.record, record).map_err(|source| OwnershipError::Rule { at: self.place(), source })?;
        let swap = self.carry_out(file, newest, verdict, record)?;
        if swap == Swap::Won {
            self.sync_folder()?;
        }
        Ok(swap)
    }
}

impl Tear for FileRecord {
    fn tear_next_write(&self, bytes: usize) {
        *self.tear.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
    }
}

fn is_stale(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESTALE)
}

/// What the operator can do about an error of the storage.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => "free some space there, then try again",
        Some(libc::EACCES | libc::EPERM) => "give the user that runs ferry permission to read and write it",
        Some(libc::EROFS) => "make the file system writable, or name another place with --ownership file:PATH",
        Some(libc::ENOLCK | libc::EOPNOTSUPP | libc::ENOSYS) => {
            "the file system must know locks and hard links: name another place with --ownership file:PATH"
        }
        _ if error.kind() == io::ErrorKind::TimedOut => {
            "see which process holds its lock (lslocks), and end it if it hangs"
        }
        _ => "check that its storage is there and mounted, then try again",
    }
}

#[cfg(test)]
mod race_tests;
#[cfg(test)]
mod tests;
