//! Tries what Ferry needs of a host, for `ci/setup`: that this program can be built at all proves a compiler and a linker; started
//! with `kvm` or `userfaultfd` it uses that as Ferry will. Prints why not. Exit status 1, or 13 where the host forbids it.

use std::ffi::{c_int, c_long, c_ulong};
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::ExitCode;

unsafe extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
}

const O_CLOEXEC: c_long = 0o2000000;
const SYS_USERFAULTFD: c_long = 323;
const KVM_GET_API_VERSION: c_ulong = 0xae00;
const KVM_CREATE_VM: c_ulong = 0xae01;
const USERFAULTFD_IOC_NEW: c_ulong = 0xaa00;
const UFFDIO_API: c_ulong = 0xc018_aa3f;
const UFFD_API: u64 = 0xaa;
/// Missing and minor faults of shared memory: `UFFD_FEATURE_MISSING_SHMEM`, `UFFD_FEATURE_MINOR_SHMEM`.
const FEATURES: u64 = 1 << 5 | 1 << 10;

fn main() -> ExitCode {
    let tried = match std::env::args().nth(1).as_deref() {
        Some("kvm") => kvm(),
        Some("userfaultfd") => userfaultfd(),
        _ => Err(Error::other("usage: probe kvm|userfaultfd")),
    };
    match tried {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::from(if error.kind() == ErrorKind::PermissionDenied { 13 } else { 1 })
        }
    }
}

/// A VM can be created.
fn kvm() -> Result<()> {
    let device = File::options().read(true).write(true).open("/dev/kvm")?;
    // SAFETY: neither call takes memory; a descriptor that the kernel returns belongs to nothing else.
    unsafe {
        let version = checked(ioctl(device.as_raw_fd(), KVM_GET_API_VERSION, 0).into())?;
        if version != 12 {
            return Err(Error::other(format!("KVM speaks version {version} of its interface, not 12")));
        }
        drop(OwnedFd::from_raw_fd(checked(ioctl(device.as_raw_fd(), KVM_CREATE_VM, 0).into())?));
    }
    Ok(())
}

/// Faults of the kernel itself can be handled, through the device or by the system call, and minor faults too.
fn userfaultfd() -> Result<()> {
    let uffd = match File::options().read(true).write(true).open("/dev/userfaultfd") {
        // SAFETY: the call takes flags; the descriptor that the kernel returns belongs to nothing else.
        Ok(device) => unsafe {
            let fd = checked(ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, O_CLOEXEC).into())?;
            OwnedFd::from_raw_fd(fd)
        },
        // SAFETY: as above.
        Err(_) => unsafe { OwnedFd::from_raw_fd(checked(syscall(SYS_USERFAULTFD, O_CLOEXEC))?) },
    };
    // `struct uffdio_api`: the version, features, and room for the answer.
    let mut arguments = [UFFD_API, FEATURES, 0];
    // SAFETY: the arguments have the size that is part of the request's number, and outlive the call.
    checked(unsafe { ioctl(uffd.as_raw_fd(), UFFDIO_API, arguments.as_mut_ptr()) }.into())?;
    Ok(())
}

fn checked(result: c_long) -> Result<c_int> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result as c_int) }
}
