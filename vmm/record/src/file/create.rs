//! The first record of a guest: a file that appears whole, or not at all, and never in the place
//! of another.
//!
//! The file is written and made durable under a name of its own, then linked to the record's:
//! `link` fails when the name is taken, on every file system that supports it, also across hosts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ferry_devices::fault::{FaultControl, Place};
use ferry_migration::ownership::file as format;

use crate::file::FileRecord;
use crate::{OwnershipError, Record, random};

impl FileRecord {
    /// Makes the file; false if the name is taken by now.
    pub(super) fn create_file(&self, record: &Record) -> Result<bool, OwnershipError> {
        let failed = |error| self.unreachable("creating it", false, error);
        let draft = Draft::write(self.draft_path().map_err(failed)?, record, &self.faults).map_err(failed)?;
        match fs::hard_link(&draft.path.0, &self.path) {
            Ok(()) => {
                // Kept open from here on, so that a replacement of the file before its first use is
                // detected.
                *self.held() = Some(self.linked(draft));
                self.sync_folder().map(|()| true)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            // Refused: the file system has no links, or the permission is missing.
            Err(error) if is_refusal(&error) => Err(failed(error)),
            // A file system on another host may have carried it out and lost the answer.
            Err(error) => Err(self.unreachable("creating it", true, error)),
        }
    }

    /// The file of `draft`, which has the record's name now: opened by that name, so that
    /// lslocks(8) shows it for the holder of its lock, and so that the draft's name is not that of
    /// an open file when it is removed (NFS would keep it beside the record). Returns the draft's
    /// own file if the name leads to another one.
    fn linked(&self, draft: Draft) -> File {
        match self.open() {
            Ok(Some(file)) if is_same(&file, &draft.file) => file,
            _ => draft.file,
        }
    }

    /// Makes the file's name durable.
    pub(super) fn sync_folder(&self) -> Result<(), OwnershipError> {
        let synced = File::open(self.folder()).and_then(|folder| folder.sync_all());
        synced.map_err(|error| self.unreachable("making its name durable", true, error))
    }

    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    /// A name that no other process uses, hidden, beside the record.
    fn draft_path(&self) -> io::Result<PathBuf> {
        let name = self.path.file_name().ok_or_else(|| io::Error::other("the path ends in no file name"))?;
        let random = random()?;
        let mut draft = std::ffi::OsString::from(".");
        draft.push(name);
        draft.push(format!(".{random:032x}.new"));
        Ok(self.folder().join(draft))
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::EROFS | libc::EXDEV | libc::EMLINK))
}

fn is_same(one: &File, other: &File) -> bool {
    let id = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    matches!((id(one), id(other)), (Ok(one), Ok(other)) if one == other)
}

/// A file that is being created; its first name is removed when this is dropped, after the file was
/// closed.
struct Draft {
    file: File,
    path: DraftName,
}

/// Removes the name when it is dropped.
struct DraftName(PathBuf);

impl Draft {
    fn write(path: PathBuf, record: &Record, faults: &FaultControl) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600).custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW);
        let mut file = options.open(&path)?;
        let path = DraftName(path);
        faults.before(Place::RecordWrite).and_then(|()| file.write_all(&format::create(record)))?;
        faults.before(Place::RecordSync).and_then(|()| file.sync_all())?;
        Ok(Draft { file, path })
    }
}

impl Drop for DraftName {
    fn drop(&mut self) {
        // A name that stays is a file of 8 KiB that no process reads.
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!("{} could not be removed: {error}; remove it by hand", self.0.display());
        }
    }
}
