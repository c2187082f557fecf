//! A raw image: a file or block device whose bytes are the disk's.
//!
//! Its lock ([`lock`]) belongs to this opening of the file, and ends with the process.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::error::BlockError;
use super::format;
use super::interface::{Image, SECTOR_BYTES};
use super::lock::{self, ImageLock};
use super::sign::Sign;
use super::vectors::Vectors;
use crate::device::Storage;
use crate::fault::{FaultControl, Place};

/// An open raw image.
pub struct RawImage {
    file: Arc<File>,
    /// Its size when it was opened.
    bytes: u64,
    read_only: bool,
    /// The faults to inject.
    faults: Arc<FaultControl>,
    path: PathBuf,
    lock: ImageLock,
    /// The lock is held. A failed attempt to take it again does not lose it.
    held: AtomicBool,
    /// The guest has arrived from another process, or this one has released the lock: taking the
    /// lock is then no boot.
    has_part: AtomicBool,
    sign: Sign,
    /// A write was made since the file was last made durable.
    unsynced: AtomicBool,
    /// The kernel has lost written data in a flush that the guest had not requested: its next flush
    /// fails.
    pub(in crate::virtio::block) lost_data: AtomicBool,
    /// A thread makes the file durable ahead of a pause.
    flushing_ahead: Arc<AtomicBool>,
}

impl RawImage {
    /// Opens the image at `path`, without its lock. `faults` may make its operations fail.
    ///
    /// # Errors
    ///
    /// It cannot be opened, is not a file or block device, or is not made of whole sectors.
    pub fn open(path: &Path, read_only: bool, faults: Arc<FaultControl>) -> Result<Self, BlockError> {
        let failed = |source| BlockError::Open { path: path.to_owned(), source };
        faults.before(Place::DiskOpen).map_err(failed)?;
        // O_NONBLOCK: a FIFO in the image's place must not block the open. The flag has no effect
        // on an image.
        let mut options = OpenOptions::new();
        options.read(true).write(!read_only).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let file = options.open(path).map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(BlockError::NotAnImage { path: path.to_owned() });
        }
        let bytes = size(&file).map_err(failed)?;
        if bytes == 0 || !bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(BlockError::Size { path: path.to_owned(), bytes });
        }
        let lock = ImageLock::new(&file, path, read_only).map_err(failed)?;
        Ok(RawImage {
            file: Arc::new(file),
            bytes,
            read_only,
            faults,
            path: path.to_owned(),
            lock,
            held: AtomicBool::new(false),
            has_part: AtomicBool::new(false),
            sign: Sign::new(),
            unsynced: AtomicBool::new(false),
            lost_data: AtomicBool::new(false),
            flushing_ahead: Arc::default(),
        })
    }

    /// Refuses content of another format than raw.
    ///
    /// For a guest that boots. The image of a guest that arrives was checked where it booted; and a
    /// host that reads the image before the guest arrives may cache content that the source's guest
    /// changes after that.
    ///
    /// # Errors
    ///
    /// The image holds another format, or cannot be read.
    pub fn check_raw(&self) -> Result<(), BlockError> {
        let path = || self.path.clone();
        match format::detect(&self.file, self.bytes) {
            Ok(None) => Ok(()),
            Ok(Some(format)) => Err(BlockError::NotRaw { path: path(), format }),
            Err(source) => Err(BlockError::Open { path: path(), source }),
        }
    }

    fn check_size(&self, expected: u64) -> io::Result<()> {
        let bytes = size(&self.file)?;
        if bytes >= expected {
            return Ok(());
        }
        let path = self.path.display();
        let text = format!(
            "disk image {path} has {bytes} bytes now, less than the guest's disk ({expected}): restore its size"
        );
        Err(io::Error::other(text))
    }

    /// Refuses to boot from an image that is in a hand-over: another process may have the guest's
    /// newest state.
    fn check_boot(&self, had: bool) -> io::Result<()> {
        let boots = !had && !self.read_only && !self.has_part.load(Ordering::SeqCst);
        match boots && self.lock.sees_handover(&self.file)? {
            false => Ok(()),
            true => Err(io::Error::new(
                ErrorKind::ResourceBusy,
                format!(
                    "disk image {} is in a hand-over: another process has the guest that uses it, or waits for it; let the migration \
                     end, or end that process",
                    self.path.display()
                ),
            )),
        }
    }

    fn give_back(&self) -> io::Result<()> {
        self.lock
            .give_back(&self.file)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot unlock {}: {error}", self.path.display())))
    }

    /// Notes that a write may have reached the file.
    fn mark_unsynced(&self) {
        self.unsynced.store(true, Ordering::SeqCst);
    }

    /// Whether a write may have reached the file since it was last made durable.
    pub(in crate::virtio::block) fn is_unsynced(&self) -> bool {
        self.unsynced.load(Ordering::SeqCst)
    }

    /// Whether [`Storage::flush_ahead`] is at work.
    #[cfg(test)]
    pub(in crate::virtio::block) fn is_flushing_ahead(&self) -> bool {
        self.flushing_ahead.load(Ordering::SeqCst)
    }

    fn flush(&self, place: Place, needed: bool) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        let flushed = self.faults.before(place).and_then(|()| {
            if !needed {
                return Ok(());
            }
            self.unsynced.store(false, Ordering::SeqCst);
            self.file.sync_data().inspect_err(|_| {
                self.mark_unsynced();
                self.lost_data.store(place == Place::DiskFlush, Ordering::SeqCst);
            })
        });
        let path = self.path.display();
        flushed.map_err(|error| io::Error::new(error.kind(), format!("cannot flush disk image {path}: {error}")))
    }
}

impl Storage for RawImage {
    fn path(&self) -> &Path {
        &self.path
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// On a thread of its own. Does nothing while an earlier flush is under way.
    fn flush_ahead(&self) {
        if !self.is_unsynced() || self.flushing_ahead.swap(true, Ordering::SeqCst) {
            return;
        }
        let (file, path, flushing) = (Arc::clone(&self.file), self.path.clone(), Arc::clone(&self.flushing_ahead));
        let flush = move || {
            // Through an opening of its own: the kernel reports data that it could not write once
            // to each opening, and `file` must not miss that.
            let opened = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()));
            // The lock belongs to the main opening: slow storage must not keep that open.
            drop(file);
            if let Err(error) = opened.and_then(|file| file.sync_data()) {
                tracing::debug!(image = %path.display(), %error, "not made durable ahead of the pause");
            }
            flushing.store(false, Ordering::SeqCst);
        };
        if let Err(error) = thread::Builder::new().name("virtio-blk-sync".to_owned()).spawn(flush) {
            tracing::debug!(image = %self.path.display(), %error, "no thread to flush it ahead of the pause");
            self.flushing_ahead.store(false, Ordering::SeqCst);
        }
    }

    fn show_proof(&self, nonce: u64) -> io::Result<()> {
        self.faults.before(Place::DiskProve)?;
        lock::show_proof(&self.file, nonce)
    }

    fn end_proof(&self, nonce: u64) -> io::Result<()> {
        lock::end_proof(&self.file, nonce)
    }

    fn sees_proof(&self, nonce: u64) -> io::Result<bool> {
        self.faults.before(Place::DiskProve)?;
        lock::sees_proof(&self.file, nonce)
    }

    fn expect_handover(&self) {
        self.has_part.store(true, Ordering::SeqCst);
        self.sign.want(!self.read_only);
    }

    fn leave_handover(&self) -> bool {
        self.sign.want(false)
    }

    fn follow_handover(&self) {
        let (image, mut showing) = (self.path.display(), false);
        let shown = self.sign.follow(|show| {
            showing = show;
            if show { self.lock.show_handover(&self.file) } else { self.lock.end_handover(&self.file) }
        });
        match shown {
            Ok(()) => {}
            Err(error) if showing => tracing::warn!(
                %error, %image,
                "a boot of the image is kept away by the ownership record only while the guest is handed over"
            ),
            Err(error) => {
                tracing::warn!(%error, %image, "no boot of the image is possible before this process ends");
            }
        }
    }
}

impl Image for RawImage {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, into: Vectors<'_>, offset: u64) -> io::Result<()> {
        self.faults.before(Place::DiskRead)?;
        into.read_from(&self.file, offset)
    }

    fn write(&self, from: Vectors<'_>, offset: u64) -> io::Result<()> {
        self.faults.before(Place::DiskWrite)?;
        self.mark_unsynced();
        from.write_to(&self.file, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.flush(Place::DiskSync, true)?;
        if self.lost_data.swap(false, Ordering::SeqCst) {
            let path = self.path.display();
            let text =
                format!("an earlier flush of disk image {path} failed, and the host has dropped what was written");
            return Err(io::Error::other(text));
        }
        Ok(())
    }

    fn sync_for_pause(&self) -> io::Result<()> {
        self.flush(Place::DiskFlush, self.is_unsynced())
    }

    fn guest_arrives(&self) {
        self.has_part.store(true, Ordering::SeqCst);
    }

    fn lock(&self, capacity: u64) -> io::Result<()> {
        let had = self.held.load(Ordering::SeqCst);
        let take = || self.lock.take(&self.file, self.read_only, had);
        let locked = self.faults.before(Place::DiskLock).and_then(|()| take());
        locked.map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::PermissionDenied => io::Error::new(
                ErrorKind::ResourceBusy,
                format!(
                    "disk image {} is in use: another process holds its lock; stop the guest that uses it, or give this one \
                     an image of its own",
                    self.path.display()
                ),
            ),
            kind => io::Error::new(kind, format!("cannot lock disk image {}: {error}", self.path.display())),
        })?;
        if let Err(error) = self.check_size(capacity).and_then(|()| self.check_boot(had)) {
            if !had {
                self.give_back()?;
            }
            return Err(error);
        }
        self.held.store(true, Ordering::SeqCst);
        self.has_part.store(false, Ordering::SeqCst);
        self.leave_handover();
        self.follow_handover();
        Ok(())
    }

    fn unlock(&self) -> io::Result<()> {
        if self.held.swap(false, Ordering::SeqCst) {
            self.expect_handover();
            self.follow_handover();
        }
        self.give_back()
    }
}

/// Works for block devices too, whose metadata has no size.
fn size(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}
