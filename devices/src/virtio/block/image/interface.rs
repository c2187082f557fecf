//! The interface of a disk to its content.

use std::io;

use super::vectors::Vectors;
use crate::device::Storage;

/// Bytes in a sector, the unit of every virtio-blk address (virtio 1.2 §5.2.6).
pub const SECTOR_BYTES: u64 = 512;

/// The content of a disk. Opening one takes no lock, so that a destination can open it while the
/// source's guest runs.
///
/// The disk's worker reads, writes and flushes; the machine's thread locks and unlocks.
pub trait Image: Storage + 'static {
    /// Its size in bytes when it was opened, whole sectors.
    fn bytes(&self) -> u64;

    /// Fills all of `into` with the content from byte `offset`.
    ///
    /// # Errors
    /// The host cannot read; some of `into` may have been filled.
    fn read(&self, into: Vectors<'_>, offset: u64) -> io::Result<()>;

    /// Writes all of `from` at byte `offset`.
    ///
    /// # Errors
    /// The host cannot write, or not all of it.
    fn write(&self, from: Vectors<'_>, offset: u64) -> io::Result<()>;

    /// Makes all writes so far durable, at the guest's request.
    ///
    /// # Errors
    /// The host cannot, or has lost writes since the guest's last request.
    fn sync(&self) -> io::Result<()>;

    /// Makes all writes so far durable, at the end of a pause.
    ///
    /// # Errors
    /// The host cannot. If it has lost writes, the guest's next [`Image::sync`] fails too.
    fn sync_for_pause(&self) -> io::Result<()>;

    /// A guest that uses the image has arrived: the next [`Image::lock`] is no boot.
    fn guest_arrives(&self);

    /// Takes the lock: exclusive, or shared with other readers when read-only. The guest's disk has
    /// `capacity` bytes. Taking it again changes nothing: even if that fails the lock is kept,
    /// because another process that gets it may run the guest.
    ///
    /// # Errors
    /// Another process, or another guest of this one, holds it; the image has become smaller than
    /// the guest's disk; or the guest would boot from an image that is in a hand-over.
    fn lock(&self, capacity: u64) -> io::Result<()>;

    /// Releases the lock, if it is held. From just before the release a boot of the image is
    /// refused, until the lock is held again or [`Storage::leave_handover`].
    ///
    /// # Errors
    /// The host refuses.
    fn unlock(&self) -> io::Result<()>;
}
