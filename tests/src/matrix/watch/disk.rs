//! Learns from the kernel which process writes into a disk image (fanotify(7), `FAN_MODIFY`).
//!
//! **What it sees.** Every process that writes by write(2), pwrite(2), their vectored forms,
//! io_uring or truncation is told by its process id, in the order of the writes, whatever Ferry
//! says. Beside each write it notes what the ownership record says.
//!
//! **What it cannot see.** Which bytes were written: `disk_stamps` looks at those. How many
//! writes: while an event waits to be read, the kernel merges further writes of the same process
//! into it. It does not merge those of two processes, so a second writer always shows. Measured:
//! 10,000 writes in 16 ms were some 2,900 events, 200 writes a millisecond apart were 200. The
//! watch reads every few milliseconds at the latest and at once when it sleeps. Writes through a
//! shared mapping are not told (Ferry makes none), and neither are writes from another host.
//!
//! **The record's word.** A write becomes known shortly after it was made, and the record may have
//! changed in between. So a write bears all that the record said from before the previous look to
//! after this one: at most about twice [`PERIOD`], unless this machine is very busy.
//!
//! It needs CAP_SYS_ADMIN: without it the kernel does not tell who wrote.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crate::matrix::evidence::{Named, Write};
use crate::matrix::watch::record;

/// Longest between two looks at the record and at the writes.
pub const PERIOD: Duration = Duration::from_millis(5);
/// Bytes of one event (fanotify(7), `struct fanotify_event_metadata`): its length is at offset 0,
/// the mask at 8, the descriptor at 16, the process at 20.
const EVENT: usize = 24;
/// Events that are read in one go.
const EVENTS: usize = 256;

/// A watch on one image.
#[derive(Debug)]
pub struct Watch {
    end: Arc<AtomicBool>,
    watching: JoinHandle<Result<Vec<Write>, String>>,
}

impl Watch {
    /// Begins to watch `image`, whose guest has its ownership record at `record`, if it has one.
    ///
    /// # Errors
    /// When the kernel does not let this process watch; the text says why.
    pub fn start(image: &Path, record: Option<PathBuf>) -> Result<Self, String> {
        let group = group(image).map_err(|error| format!("nobody can watch who writes the disk: {error}"))?;
        let end = Arc::new(AtomicBool::new(false));
        let told = end.clone();
        let watching = std::thread::spawn(move || watch(group, record.as_deref(), &told));
        Ok(Watch { end, watching })
    }

    /// Ends, and returns who wrote, in order.
    ///
    /// # Errors
    /// When the kernel ceased to tell, or lost events.
    ///
    /// # Panics
    /// When the thread has panicked.
    pub fn finish(self) -> Result<Vec<Write>, String> {
        self.end.store(true, Relaxed);
        self.watching.join().expect("the watch only reads")
    }
}

/// Asks for the writes into a file.
fn group(image: &Path) -> io::Result<File> {
    let flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
    let of_events = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_LARGEFILE) as libc::c_uint;
    // SAFETY: the call takes two words and returns a new descriptor or -1.
    let group = unsafe { libc::fanotify_init(flags, of_events) };
    if group < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let group = unsafe { File::from_raw_fd(group) };
    let path = CString::new(image.as_os_str().as_bytes()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open and the path is a string that ends in zero; both outlive the
    // call.
    let marked = unsafe {
        libc::fanotify_mark(group.as_raw_fd(), libc::FAN_MARK_ADD, libc::FAN_MODIFY, libc::AT_FDCWD, path.as_ptr())
    };
    if marked == 0 { Ok(group) } else { Err(io::Error::last_os_error()) }
}

fn watch(mut group: File, record: Option<&Path>, end: &AtomicBool) -> Result<Vec<Write>, String> {
    let look = || record.and_then(record::named);
    let mut writes = Vec::new();
    // An event may have waited since before the last look, so two old looks are kept.
    let mut looks = [look(), look()];
    loop {
        // What was written before the order to end is still to be told.
        let last = end.load(Relaxed);
        wait(group.as_raw_fd());
        let writers = read(&mut group).map_err(|error| format!("the kernel ceased to tell of writes: {error}"))?;
        let now = look();
        let mut named: Vec<Named> = [looks[0], looks[1], now].into_iter().flatten().collect();
        named.dedup();
        let at = SystemTime::now();
        writes.extend(writers.into_iter().map(|pid| Write { at, pid, named: named.clone() }));
        looks = [looks[1], now];
        if last {
            return Ok(writes);
        }
    }
}

/// Waits until there are events, but not for long.
fn wait(group: RawFd) {
    let mut poll = libc::pollfd { fd: group, events: libc::POLLIN, revents: 0 };
    // SAFETY: one `pollfd`, which outlives the call. What comes of it does not matter: the
    // descriptor does not block.
    let _ = unsafe { libc::poll(&mut poll, 1, PERIOD.as_millis() as libc::c_int) };
}

/// The processes that wrote since the last look, in order.
fn read(group: &mut File) -> io::Result<Vec<u32>> {
    let mut writers = Vec::new();
    let mut buffer = vec![0; EVENT * EVENTS];
    loop {
        let len = match group.read(&mut buffer) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(writers),
            Err(error) => return Err(error),
        };
        let mut rest = &buffer[..len];
        while rest.len() >= EVENT {
            let word = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().expect("four bytes"));
            let (size, mask, file, pid) = (word(0) as usize, word(8), word(16) as i32, word(20));
            if file >= 0 {
                // SAFETY: the kernel opened this descriptor for us with the event, and nobody else
                // knows of it.
                drop(unsafe { OwnedFd::from_raw_fd(file) });
            }
            if u64::from(mask) & libc::FAN_Q_OVERFLOW != 0 {
                return Err(io::Error::other("so many at once that some were dropped"));
            }
            writers.push(pid);
            rest = &rest[size.clamp(EVENT, rest.len())..];
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    /// The watch, or nothing where it needs rights that this process lacks.
    fn watch(image: &Path) -> Option<Watch> {
        match Watch::start(image, None) {
            Ok(watch) => Some(watch),
            Err(why) => {
                assert_ne!(rustix::process::geteuid().as_raw(), 0, "{why}");
                None
            }
        }
    }

    #[test]
    fn writers_are_told_apart_and_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("disk.img");
        fs::write(&image, "before").unwrap();
        let Some(watch) = watch(&image) else { return };
        fs::write(&image, "mine").unwrap();
        let mut other = Command::new("sh");
        let mut other = other.args(["-c", "echo theirs >> disk.img"]).current_dir(directory.path()).spawn().unwrap();
        let pid = other.id();
        assert!(other.wait().unwrap().success());
        fs::write(&image, "mine again").unwrap();
        fs::write(directory.path().join("another.img"), "not this one").unwrap();
        let mut writers: Vec<_> = watch.finish().unwrap().into_iter().map(|write| write.pid).collect();
        writers.dedup();
        let own = std::process::id();
        assert_eq!(writers, [own, pid, own]);
    }

    #[test]
    fn an_image_that_is_not_there_is_an_error_that_says_so() {
        let error = Watch::start(Path::new("/nonexistent/disk.img"), None).unwrap_err();
        assert!(error.starts_with("nobody can watch who writes the disk: "), "{error}");
    }
}
