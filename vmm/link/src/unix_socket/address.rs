//! The address of a Unix socket, at any path that a file can have.
//!
//! A socket address holds 107 bytes of path (unix(7)), fewer than many working folders have. A
//! longer path is given to the kernel through a descriptor of its folder, so only the socket's own
//! name is limited.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Bytes of path in a socket address, with the closing zero after them.
const ADDRESS_MAX: usize = 107;
/// Bytes in the name of a socket, so that it fits an address behind its folder's descriptor.
pub const NAME_MAX: usize = 64;
/// Bytes in a path (limits.h), with the closing zero after them.
pub const PATH_MAX: usize = 4095;

/// The address of a socket, in the form that the kernel takes.
#[derive(Debug)]
pub struct Address {
    address: SocketAddrUnix,
    /// Open for as long as the address names it.
    _folder: Option<OwnedFd>,
}

impl Address {
    /// The address of the socket at `path`, which need not exist.
    ///
    /// # Errors
    /// When its folder does not open, or its name is too long.
    pub fn of(path: &Path) -> io::Result<Self> {
        let (path, folder) = reachable(path)?;
        Ok(Address { address: SocketAddrUnix::new(&path)?, _folder: folder })
    }

    /// The address for a system call, valid for as long as `self` lives.
    #[must_use]
    pub fn get(&self) -> &SocketAddrUnix {
        &self.address
    }
}

/// A path of the same file that fits an address, and the descriptor that it goes through.
fn reachable(path: &Path) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    if path.as_os_str().len() <= ADDRESS_MAX {
        return Ok((path.to_owned(), None));
    }
    let name = path.file_name().filter(|name| name.len() <= NAME_MAX).ok_or_else(|| {
        let text = format!("the name of a socket has at most {NAME_MAX} bytes; give it a shorter one");
        io::Error::new(io::ErrorKind::InvalidFilename, text)
    })?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let folder = rustix::fs::openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok((Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name), Some(folder)))
}

/// Connects to the socket at `path`.
///
/// # Errors
/// The kernel's error.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let address = Address::of(path)?;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    loop {
        match rustix::net::connect(&fd, address.get()) {
            Ok(()) => return Ok(fd),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Why `path` cannot be a socket's; `None` if it can.
#[must_use]
pub fn objection(path: &Path) -> Option<&'static str> {
    let whole = path.as_os_str();
    let name = path.file_name().map_or(0, |name| name.len());
    match whole.len() {
        0 => Some("the path is empty"),
        len if len > PATH_MAX => Some("the path is longer than the 4095 bytes that a path can have"),
        len if len > ADDRESS_MAX && name > NAME_MAX => {
            Some("the socket's name is longer than 64 bytes, in a path of more than 107")
        }
        _ if whole.as_bytes().contains(&0) => Some("the path holds a zero byte"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unix_socket::{ListenError, listen};

    /// A folder whose path does not fit a socket address.
    fn deep(dir: &Path) -> PathBuf {
        let folder = dir.join("a-folder-with-a-long-name".repeat(3)).join("and-another-one-below-it".repeat(3));
        std::fs::create_dir_all(&folder).unwrap();
        assert!(folder.as_os_str().len() > ADDRESS_MAX);
        folder
    }

    #[test]
    fn a_socket_in_a_long_folder_is_listened_on_and_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = deep(dir.path()).join("m.sock");
        let _listening = listen(&path).unwrap();
        assert!(path.exists());
        connect(&path).unwrap();
        assert!(matches!(listen(&path), Err(ListenError::InUse)));
    }

    #[test]
    fn a_long_name_in_a_long_path_is_refused_by_name() {
        let path = PathBuf::from(format!("/{}/{}", "x".repeat(100), "y".repeat(65)));
        assert!(objection(&path).unwrap().contains("64 bytes"));
        assert!(Address::of(&path).unwrap_err().to_string().contains("64 bytes"));
        assert_eq!(objection(Path::new("")), Some("the path is empty"));
        assert_eq!(objection(&PathBuf::from(format!("/{}/m", "x".repeat(200)))), None);
        assert!(objection(&PathBuf::from("x".repeat(5000))).unwrap().contains("4095"));
    }
}
