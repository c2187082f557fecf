//! Where the bench works: directories of its own that are gone at the end, also after a signal.
//!
//! Children ask the kernel to be killed when this process ends ([`crate::process`]), so after a
//! signal only the directories are left to remove.

use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::BenchError;

const SIGNALS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// The directories, which go with this value.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// With a short name: the path of a Unix socket may have 107 bytes.
    pub sockets: TempDir,
    /// On the storage where the results go: the usual temporary directory may be memory, where
    /// nothing takes time to be durable.
    pub storage: TempDir,
}

/// Makes the directories, and watches for signals from now on. To be called before any other
/// thread is started.
pub(crate) fn prepare(output: &Path) -> Result<Surroundings, BenchError> {
    let sockets =
        tempfile::Builder::new().prefix("ferry-b").tempdir().map_err(BenchError::system("make a directory"))?;
    let storage = tempfile::Builder::new().prefix("storage").tempdir_in(output);
    let storage = storage.map_err(BenchError::system(format!("make a directory in {}", output.display())))?;
    let signals = block_signals().map_err(BenchError::system("watch for signals"))?;
    let paths = [sockets.path().to_owned(), storage.path().to_owned()];
    std::thread::Builder::new()
        .name("bench-signals".into())
        .spawn(move || leave_on_signal(signals, &paths))
        .map_err(BenchError::system("start a thread"))?;
    Ok(Surroundings { sockets, storage })
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

fn leave_on_signal(signals: libc::sigset_t, directories: &[PathBuf]) {
    let mut signal = 0;
    // SAFETY: both pointers are to locals; the set was initialised by `block_signals`.
    while unsafe { libc::sigwait(&signals, &mut signal) } != 0 {}
    // Nobody is left to hear of a failure.
    directories.iter().for_each(|directory| drop(std::fs::remove_dir_all(directory)));
    std::process::exit(128 + signal);
}
