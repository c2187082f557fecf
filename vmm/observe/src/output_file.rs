//! Files that Ferry writes to a path from the operator: the serial log, the trace, the pages of a
//! report. No other file is overwritten.
//!
//! A path is mistyped easily, and a file that is emptied is lost. So a file is emptied only if its
//! content is of the kind that is about to be written; logs and traces are only ever appended to;
//! and a file that another process has locked, as a running guest's disk image is, is left alone.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ferry_devices::advice;
use ferry_devices::virtio::block::format as image_format;

/// Bytes at the start of a file that identify its kind.
const START_BYTES: u64 = 1024;
/// Text in the first line of a trace, in every version.
const TRACE: &str = r#""format":"ferry-trace/"#;
/// Bytes in a sector of a disk.
const SECTOR: usize = 512;

/// The purpose of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The guest's serial output: any text.
    SerialLog,
    /// A trace.
    Trace,
    /// A page of `ferry report`.
    Page,
    /// Verdicts as JUnit XML.
    JUnit,
}

/// Why a file is not written.
#[derive(Debug, thiserror::Error)]
pub enum OutputFileError {
    /// It cannot be opened or examined.
    #[error("{} cannot be opened: {source}; {}", path.display(), advice::opening(source))]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It was opened, but cannot be written.
    #[error("{} cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A FIFO that no process reads.
    #[error("{} is a FIFO that no process reads: start its reader first", path.display())]
    NoReader {
        /// The FIFO.
        path: PathBuf,
    },
    /// Not a regular file.
    #[error("{} is no regular file: give the path of one, or of one that is not there yet", path.display())]
    NotAFile {
        /// Its path.
        path: PathBuf,
    },
    /// Another process has locked it.
    #[error("{} is in use: another process has locked it, as a guest's disk image is; give another path", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// It holds content of another kind.
    #[error("{} holds {holds}, and is left as it is: give another path", path.display())]
    Holds {
        /// The file.
        path: PathBuf,
        /// What it holds.
        holds: &'static str,
    },
}

/// Opens the file at `path` to append to it, making it if there is none. Its content stays. Does
/// not wait: a serial log may also be a FIFO or a terminal, where a write may then fail with
/// `WouldBlock`.
///
/// # Errors
/// When it cannot be opened, or is not a file for this purpose.
pub fn append(path: &Path, purpose: Purpose) -> Result<File, OutputFileError> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let path = || path.to_owned();
    let failed = |source: io::Error| match source.raw_os_error() {
        Some(libc::ENXIO) => OutputFileError::NoReader { path: path() },
        _ => OutputFileError::Open { path: path(), source },
    };
    let file = options.open(path()).map_err(failed)?;
    check(&file, &path(), purpose)?;
    Ok(file)
}

/// Puts `text` into the file at `path`, in place of an older one of the same purpose.
///
/// # Errors
/// When it cannot be opened or written, or is not a file for this purpose.
pub fn replace(path: &Path, purpose: Purpose, text: &str) -> Result<(), OutputFileError> {
    let file = append(path, purpose)?;
    let written = file.set_len(0).and_then(|()| (&file).write_all(text.as_bytes()));
    written.map_err(|source| OutputFileError::Write { path: path.to_owned(), source })
}

fn check(file: &File, path: &Path, purpose: Purpose) -> Result<(), OutputFileError> {
    let failed = |source| OutputFileError::Open { path: path.to_owned(), source };
    let metadata = file.metadata().map_err(failed)?;
    let kind = metadata.file_type();
    if !kind.is_file() {
        let is_stream = kind.is_fifo() || kind.is_char_device();
        let fits = is_stream && purpose == Purpose::SerialLog;
        return if fits { Ok(()) } else { Err(OutputFileError::NotAFile { path: path.to_owned() }) };
    }
    if is_locked(file).map_err(failed)? {
        return Err(OutputFileError::Locked { path: path.to_owned() });
    }
    if metadata.len() == 0 {
        return Ok(());
    }
    match objection(&start_of(file, purpose).map_err(failed)?, purpose) {
        Some(holds) => Err(OutputFileError::Holds { path: path.to_owned(), holds }),
        None => Ok(()),
    }
}

/// The content of a file with this start, if it is not of the wanted kind.
fn objection(start: &[u8], purpose: Purpose) -> Option<&'static str> {
    let is_trace = String::from_utf8_lossy(start).lines().next().is_some_and(|line| line.contains(TRACE));
    let is_right = match purpose {
        Purpose::Trace => is_trace,
        Purpose::Page => start.starts_with(b"<!doctype html>"),
        Purpose::JUnit => start.starts_with(b"<?xml"),
        Purpose::SerialLog => false,
    };
    if is_right {
        return None;
    }
    let known = if start.starts_with(b"FERRYOWN") {
        Some("an ownership record")
    } else if image_format::of_start(start).is_some() || is_raw_disk(start) {
        Some("a disk image")
    } else if start.starts_with(b"\x7fELF") {
        Some("a program or a kernel")
    } else if is_trace {
        Some("a trace")
    } else {
        None
    };
    known.or(match purpose {
        Purpose::SerialLog => None,
        Purpose::Trace => Some("something else than a trace"),
        Purpose::Page => Some("something else than a page of ferry report"),
        Purpose::JUnit => Some("something else than JUnit XML"),
    })
}

/// A disk with a boot sector, or one that is not partitioned yet.
fn is_raw_disk(start: &[u8]) -> bool {
    let sector = start.get(..SECTOR);
    sector.is_some_and(|sector| sector.ends_with(&[0x55, 0xaa]) || sector.iter().all(|byte| *byte == 0))
}

/// The first bytes, through an opening of their own: the file may be open for writing only. A log
/// that may not be read yields none.
fn start_of(file: &File, purpose: Purpose) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    match File::open(format!("/proc/self/fd/{}", file.as_raw_fd())) {
        Ok(reader) => drop(reader.take(START_BYTES).read_to_end(&mut start)?),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && purpose == Purpose::SerialLog => {}
        Err(error) => return Err(error),
    }
    Ok(start)
}

/// Whether another opening of the file holds a lock on any part of it (fcntl(2), open file
/// description locks).
fn is_locked(file: &File) -> io::Result<bool> {
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        // Must be 0 for OFD locks.
        l_pid: 0,
    };
    // SAFETY: the descriptor is open for the whole call, which reads and writes only the
    // structure.
    let asked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    match io::Error::last_os_error() {
        _ if asked == 0 => Ok(lock.l_type != libc::F_UNLCK as libc::c_short),
        // A file system without locks has no locked files.
        error
            if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOLCK | libc::EOPNOTSUPP | libc::ENOSYS)) =>
        {
            Ok(false)
        }
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn file(bytes: &[u8]) -> tempfile::TempPath {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file.into_temp_path()
    }

    fn lock(path: &Path, kind: i32) -> File {
        let file = File::options().read(true).write(true).open(path).unwrap();
        // SAFETY: all zeros are a valid value, and stand for the whole file.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = kind as libc::c_short;
        // SAFETY: the descriptor is open, and the structure outlives the call.
        assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) }, 0);
        file
    }

    #[test]
    fn a_log_is_appended_to() {
        let path = file(b"before\n");
        append(&path, Purpose::SerialLog).unwrap().write_all(b"after\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"before\nafter\n");
    }

    #[test]
    fn what_is_locked_is_left_alone_for_every_purpose() {
        for kind in [libc::F_WRLCK, libc::F_RDLCK] {
            let path = file(b"precious");
            let _held = lock(&path, kind);
            for purpose in [Purpose::SerialLog, Purpose::Trace, Purpose::Page, Purpose::JUnit] {
                assert!(matches!(replace(&path, purpose, "x"), Err(OutputFileError::Locked { .. })), "{purpose:?}");
            }
            assert_eq!(fs::read(&path).unwrap(), b"precious");
        }
    }

    #[test]
    fn what_is_another_kind_of_file_is_left_alone() {
        let trace = b"{\"at_us\":1,\"what\":\"start\",\"format\":\"ferry-trace/1\"}\n";
        let boot = [&[7; 510][..], &[0x55, 0xaa]].concat();
        for (bytes, holds) in [
            (&b"FERRYOWN and more"[..], "an ownership record"),
            (b"QFI\xfb\0\0\0\x03", "a disk image"),
            (&[0; 4096], "a disk image"),
            (&boot, "a disk image"),
            (b"\x7fELF\x02", "a program or a kernel"),
            (trace, "a trace"),
        ] {
            let path = file(bytes);
            let error = append(&path, Purpose::SerialLog).unwrap_err().to_string();
            assert!(error.contains(holds), "{error}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        assert!(append(&file(trace), Purpose::Trace).is_ok());
        for purpose in [Purpose::Trace, Purpose::Page, Purpose::JUnit] {
            let path = file(b"some letter to a friend");
            let error = replace(&path, purpose, "x").unwrap_err().to_string();
            assert!(error.contains("something else than"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), b"some letter to a friend");
        }
        let page = file(b"<!doctype html>\nold and longer");
        replace(&page, Purpose::Page, "<!doctype html>").unwrap();
        assert_eq!(fs::read(&page).unwrap(), b"<!doctype html>");
    }

    #[test]
    fn what_is_no_file_does_not_make_the_open_wait() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let name = std::ffi::CString::new(fifo.to_str().unwrap()).unwrap();
        // SAFETY: the string is a valid path with its closing zero.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let refused = |purpose| append(&fifo, purpose).unwrap_err();
        assert!(matches!(refused(Purpose::SerialLog), OutputFileError::NoReader { .. }));
        let _reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
        append(&fifo, Purpose::SerialLog).unwrap();
        assert!(matches!(refused(Purpose::Trace), OutputFileError::NotAFile { .. }));
        append(Path::new("/dev/null"), Purpose::SerialLog).unwrap();
        assert!(matches!(append(dir.path(), Purpose::SerialLog), Err(OutputFileError::Open { .. })));
        let error = append(Path::new("/nowhere/log"), Purpose::SerialLog).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/log cannot be opened") && error.ends_with("permissions"), "{error}");
    }
}
