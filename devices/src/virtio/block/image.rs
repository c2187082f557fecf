//! The disk image: a raw file or block device, and the lock that says which process's guest may
//! use it.
//!
//! Opening takes no lock, so that a destination can open the image while the source's guest runs.
//! [`Image::lock`] is `acquire`'s part and [`Image::unlock`] is `release`'s. The lock ([`lock`])
//! belongs to this opening of the file, and is gone when the process is.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::format;
use super::lock::{self, ImageLock};
use super::sign::Sign;
use crate::advice;
use crate::fault::{FaultControl, Place};

/// Bytes in a sector, the unit of every virtio-blk address (virtio 1.2 §5.2.6).
pub(super) const SECTOR_BYTES: u64 = 512;

/// A disk that cannot be offered to a guest.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The file cannot be opened or examined.
    #[error("cannot open disk image {path}: {source}; {advice}", advice = advice::opening(source))]
    Open {
        /// The image.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// Neither a regular file nor a block device.
    #[error("disk image {path} is neither a regular file nor a block device: give the path of a raw image")]
    NotAnImage {
        /// The image.
        path: PathBuf,
    },
    /// Empty, or not made of whole sectors.
    #[error(
        "disk image {path} has {bytes} bytes, not a positive multiple of 512: is it a raw image? If so, `truncate -s %512 \
         {path}` rounds it up"
    )]
    Size {
        /// The image.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The content is of another format than raw.
    #[error(
        "disk image {path} holds a {format} image, and the guest would see its raw bytes: convert it, `qemu-img convert -O raw \
         {path} RAW`, and give RAW; if it is a raw disk whose guest wrote these bytes, say so with --disk {path},format=raw"
    )]
    NotRaw {
        /// The image.
        path: PathBuf,
        /// The format.
        format: &'static str,
    },
    /// The host has no eventfd or thread left.
    #[error("cannot set up the disk {path}: {source}; raise this process's limits on files and threads")]
    Host {
        /// The image.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

/// An open image.
pub(super) struct Image {
    pub(super) file: File,
    /// Its size when it was opened.
    bytes: u64,
    /// The size of the disk that the guest was offered; at most that of the image.
    capacity: AtomicU64,
    pub(super) read_only: bool,
    /// What is to go wrong with it.
    pub(super) faults: Arc<FaultControl>,
    path: PathBuf,
    lock: ImageLock,
    /// The lock is this guest's. A try to take it again that fails does not lose it.
    held: AtomicBool,
    /// The guest came from elsewhere, or this process has let go of it: it does not boot the guest
    /// when it takes the lock.
    has_part: AtomicBool,
    sign: Sign,
    /// Something was written since the file was last made durable.
    unsynced: AtomicBool,
    /// The kernel has lost written data at a moment at which the guest had asked for nothing: its
    /// next flush fails.
    pub(super) lost_data: AtomicBool,
    /// A thread makes the file durable ahead of a pause.
    flushing_ahead: Arc<AtomicBool>,
}

impl Image {
    pub(super) fn open(path: &Path, read_only: bool, faults: Arc<FaultControl>) -> Result<Self, BlockError> {
        let failed = |source| BlockError::Open { path: path.to_owned(), source };
        faults.before(Place::DiskOpen).map_err(failed)?;
        // O_NONBLOCK: a FIFO in the image's place must not make the open wait. It means nothing to
        // an image.
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
        Ok(Image {
            file,
            bytes,
            capacity: AtomicU64::new(bytes),
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

    /// Size of the image in bytes when it was opened.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Size of the disk in bytes, as the guest knows it: that of the image when the guest booted.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::SeqCst)
    }

    /// A guest arrives that was offered a disk of so many bytes, which the image has.
    pub(super) fn arrives(&self, bytes: u64) {
        self.capacity.store(bytes, Ordering::SeqCst);
        self.has_part.store(true, Ordering::SeqCst);
    }

    /// Refuses content of another format than raw.
    pub(super) fn check_raw(&self) -> Result<(), BlockError> {
        let path = || self.path.clone();
        match format::detect(&self.file, self.bytes) {
            Ok(None) => Ok(()),
            Ok(Some(format)) => Err(BlockError::NotRaw { path: path(), format }),
            Err(source) => Err(BlockError::Open { path: path(), source }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the lock: alone, or shared with other readers when read-only. Taking it again changes
    /// nothing, also when it fails: the lock is kept then, since another process that gets it may
    /// run the guest.
    ///
    /// # Errors
    ///
    /// Another process, or another guest of this one, holds it; or the image has become smaller
    /// than the guest's disk. A larger one does: the guest keeps the capacity that it was offered.
    pub(super) fn lock(&self) -> io::Result<()> {
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
        if let Err(error) = self.check_size().and_then(|()| self.check_boot(had)) {
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

    fn check_size(&self) -> io::Result<()> {
        let (bytes, expected) = (size(&self.file)?, self.capacity());
        if bytes >= expected {
            return Ok(());
        }
        let path = self.path.display();
        let text = format!(
            "disk image {path} has {bytes} bytes now, less than the guest's disk ({expected}): restore its size"
        );
        Err(io::Error::other(text))
    }

    /// A guest that boots must not find its image in a hand-over: some process may have its newest
    /// state.
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

    /// Gives the lock back, if it is held. From before that on a boot of the image is refused,
    /// until the lock is had again or [`Image::leave_handover`].
    pub(super) fn unlock(&self) -> io::Result<()> {
        if self.held.swap(false, Ordering::SeqCst) {
            self.expect_handover();
            self.follow_handover();
        }
        self.give_back()
    }

    fn give_back(&self) -> io::Result<()> {
        self.lock
            .give_back(&self.file)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot unlock {}: {error}", self.path.display())))
    }

    /// From the next [`Image::follow_handover`] on boots of the image are kept away, by any path
    /// and with any record.
    pub(super) fn expect_handover(&self) {
        self.has_part.store(true, Ordering::SeqCst);
        self.sign.want(!self.read_only);
    }

    /// Ends that, from the next [`Image::follow_handover`] on; whether there is anything to end.
    pub(super) fn leave_handover(&self) -> bool {
        self.sign.want(false)
    }

    /// Shows whether a hand-over is under way, as it is known by now. May wait for storage.
    pub(super) fn follow_handover(&self) {
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

    /// Lets another process find `nonce` in this very file; see [`lock`].
    pub(super) fn show_proof(&self, nonce: u64) -> io::Result<()> {
        self.faults.before(Place::DiskProve)?;
        lock::show_proof(&self.file, nonce)
    }

    /// Ends that.
    pub(super) fn end_proof(&self, nonce: u64) -> io::Result<()> {
        lock::end_proof(&self.file, nonce)
    }

    /// Whether another process shows `nonce` in this very file.
    pub(super) fn sees_proof(&self, nonce: u64) -> io::Result<bool> {
        self.faults.before(Place::DiskProve)?;
        lock::sees_proof(&self.file, nonce)
    }

    /// Notes that a write may have reached the file.
    pub(super) fn mark_unsynced(&self) {
        self.unsynced.store(true, Ordering::SeqCst);
    }

    /// Whether a write may have reached the file since it was last made durable.
    pub(super) fn is_unsynced(&self) -> bool {
        self.unsynced.load(Ordering::SeqCst)
    }

    /// Makes everything written so far durable, for the guest.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.flush(Place::DiskSync, true)?;
        if self.lost_data.swap(false, Ordering::SeqCst) {
            let path = self.path.display();
            let text =
                format!("an earlier flush of disk image {path} failed, and the host has dropped what was written");
            return Err(io::Error::other(text));
        }
        Ok(())
    }

    /// As [`Image::sync`], when there is anything to make durable: at the end of a pause.
    pub(super) fn sync_if_written(&self) -> io::Result<()> {
        self.flush(Place::DiskFlush, self.is_unsynced())
    }

    /// Begins to make durable what was written so far, on a thread of its own, so that the flush
    /// at the end of a pause has little left to do. That one counts: a failure here has no effect.
    /// Does nothing while an earlier one is under way.
    pub(super) fn flush_ahead(self: &Arc<Self>) {
        if !self.is_unsynced() || self.flushing_ahead.swap(true, Ordering::SeqCst) {
            return;
        }
        let (image, flushing) = (Arc::clone(self), Arc::clone(&self.flushing_ahead));
        let flush = move || {
            // Through an opening of its own: the kernel tells each opening once of data that it
            // could not write, and `file` must not miss that.
            let opened = File::open(format!("/proc/self/fd/{}", image.file.as_raw_fd()));
            // With the image goes its lock, which slow storage must not keep.
            let path = image.path.clone();
            drop(image);
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

    /// Whether [`Image::flush_ahead`] is at work.
    #[cfg(test)]
    pub(super) fn is_flushing_ahead(&self) -> bool {
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

/// Works for block devices too, whose metadata has no size.
fn size(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}
