//! What the descriptors of a process are open on, and which locks they hold.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// One descriptor.
#[derive(Debug)]
pub(super) struct Descriptor {
    /// What it is open on, without numbers that tell one run from the next: a path, `tcp
    /// established`, `memfd:NAME`, `[eventfd]`, …
    pub target: String,
    /// Locks that it holds: `write PATH` or `read PATH`.
    pub locks: Vec<String>,
}

/// Every descriptor of a process.
///
/// # Errors
/// When there is no such process, or it may not be looked at.
pub(super) fn of(pid: u32) -> io::Result<Vec<Descriptor>> {
    let sockets = sockets(pid)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        // It may have been closed meanwhile.
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        let target = describe(&link.to_string_lossy(), &sockets);
        let number = entry.file_name();
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", number.to_string_lossy())).unwrap_or_default();
        let locks = info.lines().filter_map(lock_kind).map(|kind| format!("{kind} {target}")).collect();
        found.push(Descriptor { target, locks });
    }
    Ok(found)
}

/// `lock:  1: OFDLCK  ADVISORY  WRITE -1 00:1c:10 0 EOF` (proc(5), fdinfo).
fn lock_kind(line: &str) -> Option<String> {
    Some(line.strip_prefix("lock:")?.split_whitespace().nth(3)?.to_ascii_lowercase())
}

fn describe(link: &str, sockets: &BTreeMap<u64, String>) -> String {
    if let Some(inode) = link.strip_prefix("socket:[") {
        let inode = inode.trim_end_matches(']').parse().ok();
        return inode.and_then(|inode| sockets.get(&inode).cloned()).unwrap_or_else(|| "socket".into());
    }
    if link.starts_with("pipe:") {
        return "pipe".into();
    }
    if let Some(name) = link.strip_prefix("/memfd:") {
        return format!("memfd:{}", name.trim_end_matches(" (deleted)"));
    }
    link.strip_prefix("anon_inode:").unwrap_or(link).to_owned()
}

/// The sockets of a process's network namespace by inode, each in words: `tcp listening`, `unix
/// /path`, …
///
/// # Errors
/// When there is no such process, or it may not be looked at.
fn sockets(pid: u32) -> io::Result<BTreeMap<u64, String>> {
    let net = format!("/proc/{pid}/net");
    let mut found = BTreeMap::new();
    for name in ["tcp", "tcp6"] {
        // A kernel may be without IPv6.
        let Ok(table) = fs::read_to_string(Path::new(&net).join(name)) else { continue };
        found.extend(table.lines().skip(1).filter_map(tcp));
    }
    found.extend(fs::read_to_string(Path::new(&net).join("unix"))?.lines().skip(1).filter_map(unix));
    Ok(found)
}

/// A line of `/proc/net/tcp`: the state is the fourth field, the inode the tenth.
fn tcp(line: &str) -> Option<(u64, String)> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let state = match *fields.get(3)? {
        "01" => "established",
        "0A" => "listening",
        _ => "closing",
    };
    Some((fields.get(9)?.parse().ok()?, format!("tcp {state}")))
}

/// A line of `/proc/net/unix`: the inode is the seventh field, the path the eighth, if there is
/// one.
fn unix(line: &str) -> Option<(u64, String)> {
    let mut fields = line.split_whitespace().skip(6);
    let inode = fields.next()?.parse().ok()?;
    Some((inode, fields.next().map_or_else(|| "unix".into(), |path| format!("unix {path}"))))
}
