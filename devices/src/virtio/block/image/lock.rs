//! The locks of an image (fcntl(2), open file description locks) and what they are for.
//!
//! - Bytes 0 to 2^62 - 1, the main lock: whose guest may use the image. The process that runs the
//!   guest holds it.
//! - Byte 2^62, the sign of a hand-over, shared: a process that does not hold the main lock may have
//!   the newest state of the guest, or is about to run it. A source holds it from the release of the
//!   main lock until it has it back or the guest has gone, and a destination from the greeting until
//!   it has the main lock.
//! - Byte 2^62 + N, the proof of nonce N: two processes have opened the same file. A migration's
//!   source holds it until its destination has checked.
//!
//! A lock belongs to the inode. So a destination that finds the source's nonce among the locks of
//! its own file has opened the same file, on any host and by any path. A copy of the
//! image, or a file that took its name, has no such lock.
//!
//! No process holds the main lock after the source has released it and before the destination has
//! taken it, nor while a migration is uncertain. The ownership record blocks a boot then, if the
//! boot reads the same record. The sign blocks every boot from the same file, by any path and with
//! any record, as long as one of the two processes lives.
//!
//! An inode is not always the whole disk. With the main lock [`ImageLock`] takes that of the file
//! behind a loop device, and a claim (`O_EXCL`) on a block device, which also conflicts with users
//! of its other nodes, its partitions and its mounts. `docs/ownership.md` lists the uses that no
//! lock detects.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::backing;

/// Bytes of the main lock, from 0 on. Every lock of the whole file conflicts with it.
const MAIN_BYTES: i64 = 1 << 62;
/// The byte of the sign of a hand-over. Its lock is shared, so the kernel does not merge it with
/// the main lock.
const SIGN: i64 = MAIN_BYTES;
/// The bits of a nonce that are used.
const NONCE_MASK: u64 = (1 << 62) - 1;
/// `f_type` of an overlay file system (statfs(2)).
const OVERLAYFS_MAGIC: i64 = 0x794c_7630;

/// The main lock of an image, with everything that is taken with it.
#[derive(Debug)]
pub(super) struct ImageLock {
    path: PathBuf,
    /// For a writable block device: its claim, while the lock is held.
    claim: Option<Mutex<Option<File>>>,
    /// The files behind a loop device.
    below: Vec<Below>,
}

/// A file behind a loop device.
#[derive(Debug)]
struct Below {
    path: PathBuf,
    file: File,
}

impl ImageLock {
    /// For the image at `path`, which is open as `file`. Takes no lock; warns of uses that a lock
    /// here does not detect.
    pub(super) fn new(file: &File, path: &Path, read_only: bool) -> io::Result<Self> {
        let is_device = file.metadata()?.file_type().is_block_device();
        let below = if is_device { backing::files(file, path, read_only) } else { Vec::new() };
        if !read_only && rustix::fs::fstatfs(file).is_ok_and(|fs| fs.f_type == OVERLAYFS_MAGIC) {
            tracing::warn!(
                image = %path.display(),
                "the image is on an overlay file system: its lock is not seen by a process that opens it in the upper folder or through \
                 another overlay; give every ferry the path on the file system below, or the same mount"
            );
        }
        Ok(ImageLock {
            path: path.to_owned(),
            claim: (is_device && !read_only).then(Mutex::default),
            below: below.into_iter().map(|(path, file)| Below { path, file }).collect(),
        })
    }

    /// Takes the main lock and everything that belongs to it, or nothing. `had`: it is held
    /// already; then everything that is held is kept, even if this fails.
    pub(super) fn take(&self, file: &File, read_only: bool, had: bool) -> io::Result<()> {
        set_main(file, read_only)?;
        self.take_the_rest(file, read_only).inspect_err(|_| {
            if !had && let Err(error) = self.give_back(file) {
                tracing::warn!(%error, "a lock that was not wanted after all is still held");
            }
        })
    }

    fn take_the_rest(&self, file: &File, read_only: bool) -> io::Result<()> {
        for below in &self.below {
            set_main(&below.file, read_only).map_err(|error| behind(&below.path, &error))?;
        }
        let Some(claim) = &self.claim else { return Ok(()) };
        let mut claim = claim.lock().unwrap_or_else(PoisonError::into_inner);
        if claim.is_none() {
            *claim = Some(claim_device(file, &self.path)?);
        }
        Ok(())
    }

    /// Shows the sign of a hand-over on the image and on the files behind it.
    pub(super) fn show_handover(&self, file: &File) -> io::Result<()> {
        self.files(file).try_for_each(|file| call(file, libc::F_OFD_SETLK, &mut range(libc::F_RDLCK, SIGN, 1)))
    }

    /// Removes the sign.
    pub(super) fn end_handover(&self, file: &File) -> io::Result<()> {
        self.files(file).try_for_each(|file| unset(file, SIGN, 1))
    }

    /// Whether another process shows the sign.
    pub(super) fn sees_handover(&self, file: &File) -> io::Result<bool> {
        for file in self.files(file) {
            let mut lock = range(libc::F_WRLCK, SIGN, 1);
            call(file, libc::F_OFD_GETLK, &mut lock)?;
            if i32::from(lock.l_type) != libc::F_UNLCK {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn files<'a>(&'a self, file: &'a File) -> impl Iterator<Item = &'a File> {
        std::iter::once(file).chain(self.below.iter().map(|below| &below.file))
    }

    /// Releases the main lock and everything that was taken with it.
    pub(super) fn give_back(&self, file: &File) -> io::Result<()> {
        if let Some(claim) = &self.claim {
            *claim.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        let below: io::Result<()> = self.below.iter().try_for_each(|below| unset(&below.file, 0, MAIN_BYTES));
        unset(file, 0, MAIN_BYTES).and(below)
    }
}

fn behind(path: &Path, error: &io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::PermissionDenied => io::Error::new(
            ErrorKind::ResourceBusy,
            format!("the file behind it, {}, is in use: stop the guest that uses it under that name", path.display()),
        ),
        kind => io::Error::new(kind, format!("the file behind it, {}: {error}", path.display())),
    }
}

/// Claims a block device for as long as the result is open (open(2), `O_EXCL` without `O_CREAT`).
fn claim_device(file: &File, path: &Path) -> io::Result<File> {
    // Read-only: udev treats the close of a writer as a change of the disk.
    let open = |path: &Path| OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(path);
    // The descriptor leads to the same device, even if its name means another one by now. There may
    // be no /proc.
    let claim = open(format!("/proc/self/fd/{}", file.as_raw_fd()).as_ref()).or_else(|error| match error.kind() {
        ErrorKind::NotFound => open(path),
        _ => Err(error),
    });
    let claim = claim.map_err(|error| match error.kind() {
        ErrorKind::ResourceBusy => io::Error::new(
            ErrorKind::ResourceBusy,
            "the device is in use: it, a partition of it or the disk that it is part of is mounted, or claimed by another process; \
             unmount it, or stop what uses it",
        ),
        kind => io::Error::new(kind, format!("the device cannot be claimed: {error}")),
    })?;
    if claim.metadata()?.rdev() == file.metadata()?.rdev() {
        return Ok(claim);
    }
    Err(io::Error::other("its path names another device by now: give this process the device's present path"))
}

/// Shows `nonce` to every process that has opened the same file, until [`end_proof`].
pub(super) fn show_proof(file: &File, nonce: u64) -> io::Result<()> {
    call(file, libc::F_OFD_SETLK, &mut range(libc::F_WRLCK, proof_at(nonce), 1))
}

/// Ends what [`show_proof`] began.
pub(super) fn end_proof(file: &File, nonce: u64) -> io::Result<()> {
    unset(file, proof_at(nonce), 1)
}

/// Whether another opening of this very file shows `nonce`.
pub(super) fn sees_proof(file: &File, nonce: u64) -> io::Result<bool> {
    let mut lock = range(libc::F_WRLCK, proof_at(nonce), 1);
    call(file, libc::F_OFD_GETLK, &mut lock)?;
    // A lock of the whole file covers this byte too, and proves nothing.
    Ok(i32::from(lock.l_type) != libc::F_UNLCK && lock.l_start == proof_at(nonce))
}

/// The byte of a nonce's lock. Never next to the main lock, with which the kernel would merge it.
fn proof_at(nonce: u64) -> i64 {
    MAIN_BYTES + (nonce & NONCE_MASK).max(1) as i64
}

fn set_main(file: &File, read_only: bool) -> io::Result<()> {
    let kind = if read_only { libc::F_RDLCK } else { libc::F_WRLCK };
    call(file, libc::F_OFD_SETLK, &mut range(kind, 0, MAIN_BYTES))
}

fn unset(file: &File, start: i64, bytes: i64) -> io::Result<()> {
    call(file, libc::F_OFD_SETLK, &mut range(libc::F_UNLCK, start, bytes))
}

fn range(kind: i32, start: i64, bytes: i64) -> libc::flock {
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: start, l_len: bytes, l_pid: 0 }
}

fn call(file: &File, command: i32, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `file` lives, and these commands read or write
    // one `flock`, which outlives the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::virtio::block::tests::Scratch;

    fn open(path: &Path) -> File {
        File::options().read(true).write(true).open(path).unwrap()
    }

    #[test]
    fn the_same_file_shows_the_nonce_by_any_path() {
        let image = Scratch::new(4096);
        let link = Scratch(image.0.with_extension("link"));
        fs::hard_link(&image.0, &link.0).unwrap();
        for nonce in [0, 1, 7, NONCE_MASK, u64::MAX] {
            let source = open(&image.0);
            set_main(&source, false).unwrap();
            show_proof(&source, nonce).unwrap();
            for path in [&image.0, &link.0] {
                assert!(sees_proof(&open(path), nonce).unwrap(), "{nonce} {}", path.display());
                assert!(!sees_proof(&open(path), nonce ^ 2).unwrap(), "another nonce");
            }
            end_proof(&source, nonce).unwrap();
            assert!(!sees_proof(&open(&image.0), nonce).unwrap(), "it has ended");
            assert!(set_main(&open(&image.0), false).is_err(), "the main lock is as it was");
        }
    }

    #[test]
    fn a_hand_over_is_seen_by_any_path_beside_the_main_lock_and_by_others_only() {
        let image = Scratch::new(4096);
        let link = Scratch(image.0.with_extension("sign"));
        fs::hard_link(&image.0, &link.0).unwrap();
        let opened = |path: &Path| {
            let file = open(path);
            let lock = ImageLock::new(&file, path, false).unwrap();
            (file, lock)
        };
        let [(source, ours), (destination, theirs), (boot, third)] =
            [&image.0, &image.0, &link.0].map(|path| opened(path));
        ours.take(&source, false, false).unwrap();
        ours.show_handover(&source).unwrap();
        ours.give_back(&source).unwrap();
        theirs.show_handover(&destination).unwrap();
        third.take(&boot, false, false).expect("the sign is no main lock");
        assert!(third.sees_handover(&boot).unwrap());
        ours.end_handover(&source).unwrap();
        assert!(third.sees_handover(&boot).unwrap(), "the destination still shows it");
        theirs.end_handover(&destination).unwrap();
        assert!(!third.sees_handover(&boot).unwrap());
        third.show_handover(&boot).unwrap();
        assert!(!third.sees_handover(&boot).unwrap(), "it does not see its own");
    }

    #[test]
    fn a_copy_or_a_file_that_took_the_name_does_not() {
        let image = Scratch::new(4096);
        let copy = Scratch(image.0.with_extension("copy"));
        fs::copy(&image.0, &copy.0).unwrap();
        let source = open(&image.0);
        show_proof(&source, 9).unwrap();
        assert!(!sees_proof(&open(&copy.0), 9).unwrap());
        fs::rename(&copy.0, &image.0).unwrap();
        assert!(!sees_proof(&open(&image.0), 9).unwrap());
    }

    #[test]
    fn a_lock_of_the_whole_file_is_no_proof_and_meets_the_main_lock() {
        let image = Scratch::new(4096);
        let (whole, ours) = (open(&image.0), open(&image.0));
        call(&whole, libc::F_OFD_SETLK, &mut range(libc::F_WRLCK, 0, 0)).unwrap();
        assert!(!sees_proof(&ours, 5).unwrap());
        assert_eq!(set_main(&ours, false).unwrap_err().kind(), ErrorKind::WouldBlock);
        unset(&whole, 0, 0).unwrap();
        set_main(&ours, false).unwrap();
        assert!(call(&whole, libc::F_OFD_SETLK, &mut range(libc::F_WRLCK, 0, 0)).is_err());
    }

    #[test]
    fn a_proof_stands_in_no_guests_way() {
        let image = Scratch::new(4096);
        let (source, destination) = (open(&image.0), open(&image.0));
        show_proof(&source, 3).unwrap();
        set_main(&destination, false).unwrap();
        assert!(sees_proof(&destination, 3).unwrap());
        // A process that asks does not see its own lock.
        assert!(!sees_proof(&source, 3).unwrap());
    }
}
