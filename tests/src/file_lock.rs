//! The lock of a file, as a process takes it that is not Ferry.

use std::fs::File;
use std::os::fd::AsRawFd;

/// Takes, waiting for it, or lets go of the open file description's lock of the whole file
/// (fcntl(2), `F_OFD_SETLKW`).
pub(crate) fn set_lock(file: &File, kind: libc::c_int) {
    set_lock_of(file, kind, 0);
}

/// As [`set_lock`], of the first `bytes`; 0 is all.
pub(crate) fn set_lock_of(file: &File, kind: libc::c_int, bytes: i64) {
    let lock = libc::flock { l_type: kind as i16, l_whence: 0, l_start: 0, l_len: bytes, l_pid: 0 };
    // SAFETY: the descriptor is open, and F_OFD_SETLKW reads one `flock`, which `lock` is.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLKW, &lock) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
