//! Where the bench works: a directory of its own that is gone at the end, also after a signal.
//!
//! Children ask the kernel to be killed when this process ends ([`crate::process`]), so after a signal only the directory
//! is left to remove.

use std::io;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::error::BenchError;

const SIGNALS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Makes the directory, and watches for signals from now on. To be called before any other thread is started.
pub fn prepare() -> Result<TempDir, BenchError> {
    // Short names: the path of a Unix socket may have 107 bytes.
    let directory =
        tempfile::Builder::new().prefix("ferry-b").tempdir().map_err(BenchError::system("make a directory"))?;
    let signals = block_signals().map_err(BenchError::system("watch for signals"))?;
    let path = directory.path().to_owned();
    std::thread::Builder::new()
        .name("bench-signals".into())
        .spawn(move || leave_on_signal(signals, path))
        .map_err(BenchError::system("start a thread"))?;
    Ok(directory)
}

fn block_signals() -> io::Result<libc::sigset_t> {
    // SAFETY: the set is plain data that sigemptyset initialises; all pointers are to locals.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in SIGNALS {
            libc::sigaddset(&mut set, signal);
        }
        match libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) {
            0 => Ok(set),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn leave_on_signal(signals: libc::sigset_t, directory: PathBuf) {
    let mut signal = 0;
    // SAFETY: both pointers are to locals; the set was initialised by `block_signals`.
    while unsafe { libc::sigwait(&signals, &mut signal) } != 0 {}
    // Nobody is left to hear of a failure.
    let _ = std::fs::remove_dir_all(directory);
    std::process::exit(128 + signal);
}
