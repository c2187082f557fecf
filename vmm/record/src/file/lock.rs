//! The OFD locks of a record's file (fcntl(2), "Open file description locks"): one around each
//! operation, on the record's bytes, and one for as long as a process has the guest, on the byte
//! after them.
//!
//! Such a lock belongs to the open file, not to the process: threads with files of their own
//! exclude each other, and closing one file does not end the lock of another. The kernel releases
//! it when its holder dies.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use ferry_migration::ownership::file::FILE_LEN;

/// Whether others may hold the lock at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Others may, if they hold it shared.
    Shared,
    /// No other may.
    Exclusive,
}

impl Kind {
    fn as_raw(self) -> libc::c_int {
        match self {
            Kind::Shared => libc::F_RDLCK,
            Kind::Exclusive => libc::F_WRLCK,
        }
    }
}

/// Bytes of the file that a lock is on.
#[derive(Clone, Copy, Debug)]
struct Bytes {
    start: usize,
    len: usize,
}

/// The lock of an operation.
const RECORD: Bytes = Bytes { start: 0, len: FILE_LEN };
/// The lock of a process that has the guest. The file never has this byte; a lock does not need it.
const PRESENCE: Bytes = Bytes { start: FILE_LEN, len: 1 };

const FIRST_PAUSE: Duration = Duration::from_micros(200);
/// Longer than the lock is held by one write on a good disk, shorter than an operator would notice.
const LONGEST_PAUSE: Duration = Duration::from_millis(5);

/// Takes the lock, or fails with `TimedOut` at the deadline.
///
/// It polls, because waiting in the kernel (`F_OFD_SETLKW`) has no deadline.
pub(super) fn acquire(file: &File, kind: Kind, deadline: Instant) -> io::Result<()> {
    let mut pause = FIRST_PAUSE;
    loop {
        match set(file, RECORD, kind.as_raw()) {
            Err(error) if is_busy(&error) => {}
            result => return result,
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "another process kept its lock for too long"));
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Releases the lock.
pub(super) fn release(file: &File) -> io::Result<()> {
    set(file, RECORD, libc::F_UNLCK)
}

/// Takes the lock of a process that has the guest, or changes its kind; false if another process's
/// lock excludes it. Closing the file releases it.
pub(super) fn show_presence(file: &File, kind: Kind) -> io::Result<bool> {
    match set(file, PRESENCE, kind.as_raw()) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES | libc::EINTR))
}

fn set(file: &File, bytes: Bytes, kind: libc::c_int) -> io::Result<()> {
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: bytes.start as libc::off_t,
        l_len: bytes.len as libc::off_t,
        // Must be 0 for OFD locks.
        l_pid: 0,
    };
    // SAFETY: the descriptor is open for the whole call, and F_OFD_SETLK only reads the struct
    // that is passed to it.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
