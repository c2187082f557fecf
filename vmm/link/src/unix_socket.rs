//! Listening on a Unix socket, for the QMP server and for an incoming migration.
//!
//! A process that was killed leaves its socket file behind. [`listen`] replaces such a file, but
//! neither one that a process still listens on nor one that is no socket.
//!
//! Dropping [`Listening`] removes the file first and then closes the socket. In the other order, a
//! successor could replace the file in between, and its file would be removed. Also, while the
//! socket is open no other file can have its inode number, which identifies the file.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

mod address;

pub use address::{Address, NAME_MAX, PATH_MAX, connect, objection};

/// Access for the owner alone: a client of either socket commands the guest.
const MODE: u32 = 0o600;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;
/// Longest that another process may hold the lock under which a socket is replaced: it holds it
/// for a few system calls.
const LOCK_WAIT: Duration = Duration::from_secs(1);
/// Pause between two tries to get that lock.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// A Unix socket could not be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A process listens there.
    #[error("another process is listening there; give each process a path of its own")]
    InUse,
    /// The path is taken by something that is no socket.
    #[error("the path exists and is no socket; remove it or give another path")]
    NotASocket,
    /// The system refused.
    #[error("cannot {what}: {source}; see whether the folder exists and may be written to, or give another path")]
    Io {
        /// The operation that failed.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// Names what was being done in an error of the system.
fn io<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> ListenError {
    move |source| ListenError::Io { what, source: source.into() }
}

/// Which file a path names: device and inode.
pub type FileId = (u64, u64);

/// The file at `path` itself, a symbolic link not followed; `None` when none can be seen.
#[must_use]
pub fn file_id(path: &Path) -> Option<FileId> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// A socket that is listened on. Dropping this removes its file, if the path still names that one,
/// and then closes it.
#[derive(Debug)]
pub struct Listening {
    // In this order: fields are dropped as they are declared.
    file: SocketFile,
    socket: UnixListener,
}

impl Listening {
    /// Its file.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.file.id
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &UnixListener {
        &self.socket
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The file of a socket that is listened on; dropping this removes the file, if it is still this
/// one.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    id: FileId,
}

impl SocketFile {
    fn remove(&self) {
        if file_id(&self.path) == Some(self.id) {
            // A file that is gone by now needs no removing.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Between the look and the removal no other process may replace the file.
        let _alone = lock_folder(&self.path);
        self.remove();
    }
}

/// Listens at `path`, with access for the owner alone under any umask. A socket file that no
/// process listens on is replaced.
///
/// # Errors
/// When a process listens there, the path is taken by something else, or the system refuses.
pub fn listen(path: &Path) -> Result<Listening, ListenError> {
    let reached = Address::of(path).map_err(io("use the path"))?;
    let address = reached.get();
    // Between the look at the file and `listen(2)`, no other process may do the same: each would
    // take the other's socket for a stale one.
    let alone = lock_folder(path);
    remove_stale(path, address)?;
    let socket = socket().map_err(io("create a socket"))?;
    // The file that bind creates has this mode, less the umask.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(MODE)).map_err(io("set the socket's mode"))?;
    rustix::net::bind(&socket, address).map_err(io("create the socket's file"))?;
    let found = fs::symlink_metadata(path).map_err(io("look at it"))?;
    let listening =
        Listening { file: SocketFile { path: path.to_owned(), id: (found.dev(), found.ino()) }, socket: socket.into() };
    let begun = begin(&listening, path, found.permissions().mode());
    // After a failure, removing the file takes the lock itself.
    drop(alone);
    begun.map(|()| listening)
}

/// Lets connections in.
fn begin(listening: &Listening, path: &Path, mode: u32) -> Result<(), ListenError> {
    if mode & 0o777 != MODE {
        // The umask restricts the owner.
        fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(io("set the socket's mode"))?;
    }
    rustix::net::listen(listening, BACKLOG).map_err(io("listen"))?;
    rustix::io::ioctl_fionbio(listening, false).map_err(io("make it blocking"))
}

fn socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Removes a socket file that no process listens on.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), ListenError> {
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => return Err(ListenError::NotASocket),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("look at it")(error)),
    }
    let probe = socket().map_err(io("create a socket"))?;
    match rustix::net::connect(&probe, address) {
        // EAGAIN: its queue is full, so a process listens, however busy it is.
        Ok(()) | Err(Errno::AGAIN) => Err(ListenError::InUse),
        Err(Errno::CONNREFUSED) => match fs::remove_file(path) {
            // Its owner has just removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(io("remove what a process left behind")),
        },
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(io("find out whether a process listens there")(error)),
    }
}

/// The lock of the folder that holds `path`. `None` where the folder cannot be locked: not
/// readable, a filesystem without, or locked by a process that keeps the lock.
fn lock_folder(path: &Path) -> Option<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = File::open(folder).ok()?;
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(folder),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(LOCK_PAUSE),
            // Also when another user keeps the lock, as is possible in a shared folder.
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        (folder, path)
    }

    #[test]
    fn a_socket_that_was_left_behind_is_replaced() {
        let (_folder, path) = folder();
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listening = listen(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(listening);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_is_listened_on_stays() {
        let (_folder, path) = folder();
        let listener = UnixListener::bind(&path).unwrap();
        let id = file_id(&path);
        assert!(matches!(listen(&path), Err(ListenError::InUse)));
        // One that is too busy to let a further connection in is no other.
        listener.accept().unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _waits = UnixStream::connect(&path).unwrap();
        assert!(matches!(listen(&path), Err(ListenError::InUse)));
        assert_eq!(file_id(&path), id);
    }

    #[test]
    fn what_is_no_socket_stays() {
        let (_folder, path) = folder();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(&path), Err(ListenError::NotASocket)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        // A link to a socket is not replaced either.
        std::os::unix::fs::symlink(path.with_file_name("elsewhere"), &path).unwrap();
        assert!(matches!(listen(&path), Err(ListenError::NotASocket)));
    }

    #[test]
    fn only_its_own_file_is_removed() {
        let (_folder, path) = folder();
        let listening = listen(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let theirs = listen(&path).unwrap();
        assert_ne!(listening.id(), theirs.id());
        drop(listening);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn while_its_file_is_there_a_socket_lets_connections_in() {
        let (_folder, path) = folder();
        let listening = listen(&path).unwrap();
        // The removal waits for this lock, which shows what comes before it and what behind it.
        let _alone = lock_folder(&path).unwrap();
        std::thread::scope(|scope| {
            let end = scope.spawn(|| drop(listening));
            while !end.is_finished() {
                let reached = Address::of(&path).unwrap();
                match rustix::net::connect(socket().unwrap(), reached.get()) {
                    // Its queue is full: it listens.
                    Ok(()) | Err(Errno::AGAIN) => {}
                    Err(_) if !path.exists() => break,
                    Err(error) => panic!("a successor would take the file for one that was left behind: {error}"),
                }
            }
        });
        assert!(!path.exists());
    }

    #[test]
    fn a_removal_waits_for_its_turn_and_not_for_ever() {
        let (_folder, path) = folder();
        let listening = listen(&path).unwrap();
        let _alone = lock_folder(&path).unwrap();
        let began = Instant::now();
        drop(listening);
        assert!(began.elapsed() >= LOCK_WAIT, "a successor may be at it");
        assert!(!path.exists());
    }

    #[test]
    fn the_owner_alone_has_access() {
        let (_folder, path) = folder();
        let _listening = listen(&path).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
    }

    #[test]
    fn of_many_that_come_at_once_one_listens() {
        let (_folder, path) = folder();
        for _ in 0..20 {
            drop(UnixListener::bind(&path).unwrap());
            let start = std::sync::Barrier::new(4);
            let listening = std::thread::scope(|scope| {
                let all: Vec<_> = (0..4).map(|_| scope.spawn(|| (start.wait(), listen(&path)).1)).collect();
                all.into_iter().filter_map(|one| one.join().unwrap().ok()).collect::<Vec<_>>()
            });
            assert_eq!(listening.len(), 1);
            UnixStream::connect(&path).unwrap();
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_told() {
        let error = listen(Path::new("/nonexistent/socket")).unwrap_err().to_string();
        assert!(error.contains("folder"), "{error}");
    }
}
