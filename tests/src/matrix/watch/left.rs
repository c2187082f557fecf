//! What is left of processes that have ended: socket files, temporaries, and processes that nobody
//! started knowingly.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::procfs;

/// What lies in a cell's directory that should have gone: sockets in `gone` (the QMP sockets, and
/// others, of processes that ended by themselves), temporary files of the ownership record, and
/// processes other than `known` that hold a file of the directory open, as an orphaned child
/// would. Children of the harness are none of them: one that it is just starting holds all that it
/// holds. Each is named for people.
#[must_use]
pub fn behind(directory: &Path, gone: &[PathBuf], known: &[u32]) -> Vec<String> {
    let mut left = Vec::new();
    for path in gone.iter().filter(|path| is_socket(path)) {
        left.push(format!("the socket {}", path.display()));
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // The first record is written as `.NAME.RANDOM.new` (docs/ownership-record.md).
        if name.starts_with('.') && name.ends_with(".new") {
            left.push(format!("the temporary file {name}"));
        }
    }
    left.extend(strangers(directory, known));
    left
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

fn strangers(directory: &Path, known: &[u32]) -> Vec<String> {
    let own = std::process::id();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse::<u32>().ok()?;
        (pid != own && !known.contains(&pid)).then_some(pid)
    });
    let started_here = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        procfs::parent(&stat) == Some(own)
    };
    let holds = |pid: &u32| {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        links.filter_map(|link| fs::read_link(link.path()).ok()).any(|target| target.starts_with(directory))
    };
    let name = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    pids.filter(holds)
        .filter(|pid| !started_here(pid))
        .map(|pid| format!("process {pid} ({}), which holds a file of the cell open", name(pid).trim_end()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    #[test]
    fn sockets_temporaries_and_orphans_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let _listener = UnixListener::bind(path("qmp")).unwrap();
        fs::write(path(".disk.img.owner.abc.new"), "").unwrap();
        fs::write(path("serial"), "").unwrap();
        // Its parent has ended, as one whose child is left.
        let orphan =
            Command::new("sh").args(["-c", "sleep 60 >> serial 2>&1 & echo $!"]).current_dir(directory.path()).output();
        let orphan = String::from_utf8(orphan.unwrap().stdout).unwrap().trim().parse::<u32>().unwrap();
        let gone = [path("qmp"), path("never-there")];
        let left = behind(directory.path(), &gone, &[]);
        let known = behind(directory.path(), &gone, &[orphan]);
        kill_process(Pid::from_raw(orphan as i32).unwrap(), Signal::KILL).unwrap();
        assert_eq!(left.len(), 3, "{left:?}");
        assert!(left[0].contains("socket") && left[1].contains(".disk.img.owner.abc.new"), "{left:?}");
        assert!(left[2].contains("sleep"), "{left:?}");
        assert_eq!(known, left[..2]);
    }
}
