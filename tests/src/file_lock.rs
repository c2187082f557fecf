//! The locks of an image and of a record, as a process takes them that has no part in what goes
//! on.

use std::fs::File;
use std::os::fd::AsRawFd;

/// Bytes of an image's main lock. Behind them is the sign of a hand-over.
pub(crate) const IMAGE: i64 = 1 << 62;
/// Bytes of a record's lock. Behind them is the sign of a process that has the guest.
pub(crate) const RECORD: i64 = 8192;

/// Takes, waiting for it, or lets go of the open file description's lock of the first `bytes`
/// (fcntl(2), `F_OFD_SETLKW`).
pub(crate) fn set_lock(file: &File, kind: libc::c_int, bytes: i64) {
    let lock = libc::flock { l_type: kind as i16, l_whence: 0, l_start: 0, l_len: bytes, l_pid: 0 };
    // SAFETY: the descriptor is open, and F_OFD_SETLKW reads one `flock`, which `lock` is.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLKW, &lock) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
