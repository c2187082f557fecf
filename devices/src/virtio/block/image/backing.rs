//! The file behind a loop device, which must be locked with it.
//!
//! sysfs names the file by a path, which may mean another file by now, or in this process's mounts:
//! the device's own answer (loop(4), `LOOP_GET_STATUS64`) decides. A file that cannot be opened
//! causes a warning, not a failure.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Loop devices can be nested. The kernel allows more levels, which no host uses.
const DEEPEST: usize = 8;
/// loop(4), `linux/loop.h`.
const LOOP_GET_STATUS64: libc::c_ulong = 0x4c05;
/// Words of `struct loop_info64`: the first is the file's device, the second its inode.
const INFO_WORDS: usize = 29;

/// The files behind the block device that `path` names and that is open as `device`: none, unless
/// it is a loop device or part of one.
pub(super) fn files(device: &File, path: &Path, read_only: bool) -> Vec<(PathBuf, File)> {
    let mut found: Vec<(PathBuf, File)> = Vec::new();
    while found.len() < DEEPEST {
        let above = found.last().map_or(device, |(_, file)| file);
        match file_behind(above, read_only) {
            Ok(Some(next)) => found.push(next),
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(
                    device = %path.display(),
                    %error,
                    "the file behind the loop device cannot be locked with it: a process that opens that file by its own name is not \
                     noticed; make it accessible here, or give every ferry the same device"
                );
                break;
            }
        }
    }
    found
}

fn file_behind(device: &File, read_only: bool) -> io::Result<Option<(PathBuf, File)>> {
    let metadata = device.metadata()?;
    if !metadata.file_type().is_block_device() {
        return Ok(None);
    }
    let Some(path) = named_by_sysfs(metadata.rdev())? else { return Ok(None) };
    let Some((dev, inode)) = named_by_device(device)? else { return Ok(None) };
    let open = OpenOptions::new().read(true).write(!read_only).open(&path);
    let file = open.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    let there = file.metadata()?;
    if (there.dev(), there.ino()) != (dev, inode) {
        return Err(io::Error::other(format!("{} is another file by now", path.display())));
    }
    Ok(Some((path, file)))
}

/// The file that sysfs names for a loop device, or for the one that a partition is part of.
fn named_by_sysfs(rdev: u64) -> io::Result<Option<PathBuf>> {
    let device = format!("/sys/dev/block/{}:{}", libc::major(rdev), libc::minor(rdev));
    for at in ["loop/backing_file", "../loop/backing_file"] {
        match fs::read(format!("{device}/{at}")) {
            Ok(bytes) => {
                let name = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
                return Ok(Some(PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name))));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Device and inode of the file behind a loop device; `None` if it has none.
fn named_by_device(device: &File) -> io::Result<Option<(u64, u64)>> {
    let mut info = [0u64; INFO_WORDS];
    // SAFETY: the descriptor is open, and the command writes one `struct loop_info64`, for which
    // `info` has exactly the room.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, info.as_mut_ptr()) };
    match result {
        0 => Ok(Some((info[0], info[1]))),
        _ => match io::Error::last_os_error() {
            // No file is behind it now, or it is no loop device.
            error if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENOTTY)) => Ok(None),
            error => Err(error),
        },
    }
}
