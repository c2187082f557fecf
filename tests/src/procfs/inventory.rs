//! Everything that a process holds, by name.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use serde::Serialize;

use super::{descriptors, parent};

/// What a process holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// Threads, by name.
    pub threads: BTreeMap<String, usize>,
    /// Descriptors, by what they are open on.
    pub descriptors: BTreeMap<String, usize>,
    /// Mappings of memory.
    pub mappings: usize,
    /// File locks: `write PATH` or `read PATH`.
    pub locks: Vec<String>,
    /// Children, by name.
    pub children: Vec<String>,
}

impl Inventory {
    /// Looks at a process.
    ///
    /// # Errors
    /// When there is no such process, or it may not be looked at.
    pub fn of(pid: u32) -> io::Result<Self> {
        let descriptors = descriptors::of(pid)?;
        let mut locks: Vec<_> = descriptors.iter().flat_map(|descriptor| descriptor.locks.clone()).collect();
        locks.sort_unstable();
        Ok(Inventory {
            threads: count(thread_names(pid)?),
            descriptors: count(descriptors.into_iter().map(|descriptor| descriptor.target)),
            mappings: fs::read_to_string(format!("/proc/{pid}/maps"))?.lines().count(),
            locks,
            children: children(pid)?,
        })
    }
}

fn count(names: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for name in names {
        *counted.entry(name).or_default() += 1;
    }
    counted
}

fn thread_names(pid: u32) -> io::Result<Vec<String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
    // A thread may end between two looks.
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    Ok(names.map(|name| name.trim_end().to_owned()).collect())
}

/// The processes whose parent this one is; not every kernel lists them under the parent.
fn children(pid: u32) -> io::Result<Vec<String>> {
    let processes = fs::read_dir("/proc")?.flatten();
    let children = processes.filter_map(|entry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let name = || stat.split_once('(')?.1.rsplit_once(')').map(|(name, _)| name.to_owned());
        if parent(&stat) == Some(pid) { name() } else { None }
    });
    Ok(children.collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixListener;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::disk::Lock;

    /// A process of our own that holds nothing but its end of a pipe, and takes whatever is passed
    /// to it.
    fn quiet() -> std::process::Child {
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn a_thread_a_file_a_lock_sockets_and_a_child_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("disk.img");
        fs::write(&image, "").unwrap();
        let lock = Lock::wait_for(&image);
        lock.wait_taken();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let path = directory.path().join("s");
        let unix = UnixListener::bind(&path).unwrap();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("odd-one".into()).spawn(move || stopped.recv()).unwrap();
        let mut child = quiet();
        let held = Inventory::of(std::process::id()).unwrap();
        assert_eq!(held.threads.get("odd-one"), Some(&1), "{held:?}");
        assert!(held.locks.contains(&format!("write {}", image.display())), "{held:?}");
        for target in
            ["tcp listening", "tcp established", &*image.to_string_lossy(), &format!("unix {}", path.display())]
        {
            assert!(held.descriptors.contains_key(target), "{target} in {held:?}");
        }
        assert!(held.children.contains(&"cat".to_owned()) && held.mappings > 10, "{held:?}");
        drop((stop, stream, unix));
        assert!(thread.join().unwrap().is_err());
        lock.release();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_holds_little_has_a_short_inventory() {
        let mut child = quiet();
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        let held = Inventory::of(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(held.threads.values().sum::<usize>(), 1);
        assert!(held.locks.is_empty() && held.children.is_empty(), "{held:?}");
        assert!(Inventory::of(child.id()).is_err(), "it has ended and was reaped");
    }
}
