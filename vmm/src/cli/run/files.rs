//! The files that `ferry run` names: no two options may name the same one, if either writes it.
//!
//! A log that is a disk's image, or a record that is a log, is destroyed by the first byte. So this
//! is checked before anything is opened. Files are identified as the kernel does it, by device and
//! inode; one that does not exist yet, by its folder and its name.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use ferry_link::endpoint::Endpoint;
use ferry_machine::{DiskConfig, SerialSink};

use super::Options;
use super::options::Incoming;
use crate::cli::CliError;

/// Most symbolic links that are followed to a missing file.
const LINKS_MAX: usize = 40;

/// A file that an option names.
#[derive(Debug)]
struct Named {
    option: &'static str,
    path: PathBuf,
    writes: bool,
    identity: Option<Identity>,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let between = if self.option.ends_with(':') || self.path.as_os_str().is_empty() { "" } else { " " };
        write!(f, "{}{between}{}", self.option, self.path.display())
    }
}

/// The identity of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Identity {
    File { device: u64, inode: u64 },
    Disk { device: u64 },
    NotThere { device: u64, folder: u64, name: std::ffi::OsString },
}

/// Refuses two options that name one file.
///
/// # Errors
/// Names both.
pub(super) fn check(options: &Options) -> Result<(), CliError> {
    let all = named(options);
    for (index, first) in all.iter().enumerate() {
        for second in &all[index + 1..] {
            let same = first.identity.is_some() && first.identity == second.identity;
            if same && (first.writes || second.writes) {
                return Err(CliError::Usage(format!("{first} and {second} name the same file: give each its own")));
            }
        }
    }
    Ok(())
}

fn named(options: &Options) -> Vec<Named> {
    let mut all = Vec::new();
    let mut add = |option, path: Option<&Path>, writes, is_socket| {
        let Some(path) = path else { return };
        let identity = if is_socket { identity_of_name(path, LINKS_MAX) } else { identity(path, LINKS_MAX) };
        all.push(Named { option, path: path.to_owned(), writes, identity });
    };
    let disk = options.disk.as_ref();
    let serial = match &options.serial {
        SerialSink::File(path) => Some(path.as_path()),
        SerialSink::Stdio | SerialSink::Null => None,
    };
    let incoming = match &options.incoming {
        Some(Incoming::At(Endpoint::Unix(path))) => Some(path.as_path()),
        _ => None,
    };
    let record = options.ownership.path(disk).ok().flatten();
    add("--disk", disk.map(|disk| disk.path.as_path()), disk.is_some_and(|disk| !disk.read_only), false);
    add("--kernel", options.kernel.as_deref(), false, false);
    add("--initrd", options.initrd.as_deref(), false, false);
    add(record_option(disk, record.as_deref()), record.as_deref(), true, false);
    add("--trace", options.trace.as_deref(), true, false);
    add("--serial file:", serial, true, false);
    add("--qmp unix:", options.qmp.as_deref(), true, true);
    add("--incoming unix:", incoming, true, true);
    // Standard output and error may be one file, and the serial log that file too: these are
    // appended to.
    let standard = standard_output(&all);
    all.extend(standard);
    all
}

/// The name of the record's file in errors.
fn record_option(disk: Option<&DiskConfig>, record: Option<&Path>) -> &'static str {
    let beside = disk.and_then(|disk| ferry_record::file::FileRecord::beside(&disk.path).ok());
    if beside.as_deref() == record { "the ownership record" } else { "--ownership file:" }
}

/// Standard output or error, if it is a file that an option names and that is no log.
fn standard_output(all: &[Named]) -> Option<Named> {
    [(libc::STDOUT_FILENO, "standard output"), (libc::STDERR_FILENO, "standard error")].into_iter().find_map(
        |(descriptor, option)| {
            // SAFETY: the descriptor is open from the start of the process on; the file is not
            // dropped, so it is not closed.
            let file = ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) });
            let identity = identity_of(&file.metadata().ok()?);
            let clashes = |named: &Named| named.option != "--serial file:" && named.identity == identity;
            (identity.is_some() && all.iter().any(clashes)).then(|| Named {
                option,
                path: PathBuf::new(),
                writes: true,
                identity,
            })
        },
    )
}

/// Terminals and other character devices may be named any number of times.
fn identity_of(metadata: &Metadata) -> Option<Identity> {
    let kind = metadata.file_type();
    if kind.is_block_device() {
        return Some(Identity::Disk { device: metadata.rdev() });
    }
    let counts = kind.is_file() || kind.is_fifo() || kind.is_socket();
    counts.then(|| Identity::File { device: metadata.dev(), inode: metadata.ino() })
}

/// The file at `path`, links followed. `None` if that is not known: opening the file reports the
/// error.
fn identity(path: &Path, links: usize) -> Option<Identity> {
    match fs::metadata(path) {
        Ok(metadata) => identity_of(&metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_link(path) {
            Ok(_) if links == 0 => None,
            Ok(target) => identity(&path.parent()?.join(target), links - 1),
            Err(_) => not_there(path),
        },
        Err(_) => None,
    }
}

/// The identity of a socket that is to be created at `path`.
fn identity_of_name(path: &Path, links: usize) -> Option<Identity> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => identity(path, links),
        Ok(metadata) => identity_of(&metadata),
        Err(_) => not_there(path),
    }
}

fn not_there(path: &Path) -> Option<Identity> {
    let name = path.file_name()?.to_owned();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let metadata = fs::metadata(folder).ok()?;
    Some(Identity::NotThere { device: metadata.dev(), folder: metadata.ino(), name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn refusal(arguments: &[String]) -> Option<String> {
        let all = std::iter::once("run".to_owned()).chain(arguments.iter().cloned());
        check(&Command::try_parse_from(all).unwrap().options).err().map(|error| error.to_string())
    }

    #[test]
    fn two_options_that_name_one_file_are_both_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        for name in ["disk", "kernel"] {
            fs::write(at(name), [7; 512]).unwrap();
        }
        std::os::unix::fs::symlink(at("disk"), at("link")).unwrap();
        fs::hard_link(at("disk"), at("hard")).unwrap();
        std::os::unix::fs::symlink("later", at("dangling")).unwrap();
        for (first, second, says) in [
            (format!("--disk={}", at("disk")), format!("--serial=file:{}", at("disk")), ["--disk", "--serial file:"]),
            (format!("--disk={}", at("disk")), format!("--trace={}", at("link")), ["--disk", "--trace"]),
            (format!("--disk={},readonly", at("disk")), format!("--trace={}", at("hard")), ["--disk", "--trace"]),
            (format!("--kernel={}", at("kernel")), format!("--serial=file:{}", at("kernel")), ["--kernel", "--serial"]),
            (format!("--disk={}", at("disk")), format!("--serial=file:{}.owner", at("disk")), ["record", "--serial"]),
            (
                format!("--trace={}", at("new")),
                format!("--serial=file:{}/./new", dir.path().display()),
                ["--trace", "--serial"],
            ),
            (format!("--trace={}", at("later")), format!("--serial=file:{}", at("dangling")), ["--trace", "--serial"]),
            (format!("--ownership=file:{}", at("r")), format!("--trace={}", at("r")), ["--ownership file:", "--trace"]),
            (format!("--qmp=unix:{}", at("s")), format!("--incoming=unix:{}", at("s")), ["--qmp", "--incoming"]),
            (format!("--qmp=unix:{}", at("s")), format!("--serial=file:{}", at("s")), ["--serial", "--qmp"]),
        ] {
            let text = refusal(&[first.clone(), second.clone()]).unwrap_or_else(|| panic!("{first} {second}"));
            assert!(says.iter().all(|says| text.contains(says)) && text.contains("same file"), "{text}");
        }
    }

    #[test]
    fn what_may_be_shared_is_not_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        fs::write(at("disk"), [7; 512]).unwrap();
        let read_only = [format!("--disk={},readonly", at("disk")), format!("--kernel={}", at("disk"))];
        for arguments in [
            [format!("--disk={}", at("disk")), format!("--serial=file:{}", at("log"))],
            ["--serial=file:/dev/null".to_owned(), "--trace=/dev/null".to_owned()],
            read_only,
        ] {
            assert_eq!(refusal(&arguments), None, "{arguments:?}");
        }
    }
}
