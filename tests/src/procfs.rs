//! What a process holds, read from `/proc`: threads, descriptors, memory, locks, children. For
//! leak checks.
//!
//! [`Holdings`] counts; an [`Inventory`] names, so that what is left behind can be told.

mod descriptors;
mod inventory;

use std::fmt;
use std::fs;

pub use self::inventory::Inventory;

/// What each thread of a process waits for: its state, and the kernel's function, if any.
#[must_use]
pub fn where_it_stands(pid: u32) -> String {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().map(|task| {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let stat = read("stat");
        let state = stat.rsplit_once(") ").and_then(|(_, fields)| fields.chars().next()).unwrap_or('?');
        format!("{} {state} {}", read("comm").trim_end(), read("wchan"))
    });
    threads.collect::<Vec<_>>().join(", ")
}

/// A look at a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub fds: u64,
    /// Resident memory in KiB, guest memory included.
    pub rss_kib: u64,
}

impl Holdings {
    /// Looks at a process.
    ///
    /// # Panics
    /// When there is no such process.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a living process has a status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel writes this field");
            line.trim_start_matches(':').split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
        };
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).expect("a living process has descriptors").count() as u64;
        Holdings { threads: field("Threads"), fds, rss_kib: field("VmRSS") }
    }
}

/// The threads of a process whose names begin so.
#[must_use]
pub fn threads(pid: u32, name: &str) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let is_named =
        |entry: &fs::DirEntry| fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.starts_with(name));
    entries.filter(is_named).filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Whether every thread of a process is stopped by a signal. A signal takes its time to reach all
/// of them.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn is_stopped(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a living process has threads");
    tasks.flatten().all(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // The state follows the name, which is in parentheses and may hold anything (proc(5)).
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}

/// The parent of the process with this `stat`: the second field after its name, which may hold
/// anything (proc(5)).
#[must_use]
pub fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

impl fmt::Display for Holdings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} threads, {} fds, {} MiB resident", self.threads, self.fds, self.rss_kib >> 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_and_a_thread_are_seen() {
        let before = Holdings::of(std::process::id());
        let file = fs::File::open("/dev/null").unwrap();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || stopped.recv());
        let during = Holdings::of(std::process::id());
        assert!(during.threads > 0 && during.fds > 0 && before.rss_kib > 0);
        let names = fs::read_dir("/proc/self/fd").unwrap().filter_map(|e| fs::read_link(e.unwrap().path()).ok());
        assert!(names.into_iter().any(|name| name == std::path::Path::new("/dev/null")));
        drop((stop, file));
        assert!(thread.join().unwrap().is_err());
    }
}
