//! Opens a userfaultfd that also catches the kernel's own accesses, or explains what the host would
//! have to allow.
//!
//! The device `/dev/userfaultfd` (Linux 6.1) and the system call have separate permissions; either
//! will do.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use ferry_devices::fault::{FaultControl, Place};
use userfaultfd::{Error, FeatureFlags, Uffd, UffdBuilder};
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;

use super::error::UserfaultError;
use crate::Backing;

// UFFD_API and UFFD_FEATURE_* of linux/userfaultfd.h.
const API: u64 = 0xaa;
/// Above all descriptors that a process of this kind has open.
const HIGH: i32 = 512;
const MISSING_SHMEM: u64 = 1 << 5;
const MINOR_SHMEM: u64 = 1 << 10;

ioctl_iowr_nr!(UFFDIO_API, 0xaa, 0x3f, ApiArguments);

/// `struct uffdio_api` of linux/userfaultfd.h.
#[repr(C)]
struct ApiArguments {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// Whether this host can wait for missing pages of such memory, found by trying. `faults` may
/// inject a failure.
///
/// # Errors
/// The missing feature or permission, and what the operator can do.
pub fn support(backing: Backing, faults: &FaultControl) -> Result<(), UserfaultError> {
    before_open(backing, faults)?;
    open(backing).map(drop)
}

/// Whether the rules of the fault device allow a userfaultfd to be opened.
///
/// # Errors
/// As when the host does not allow it.
pub fn before_open(backing: Backing, faults: &FaultControl) -> Result<(), UserfaultError> {
    faults.before(Place::HostUserfaultfd).map_err(|error| explain(error, backing))
}

/// A non-blocking userfaultfd with the features that `backing` needs.
///
/// It gets a high number: an exiting process releases its descriptors from the highest down, and
/// the userfaultfd must close before the VM, which waits for the pages that it has touched.
pub(super) fn open(backing: Backing) -> Result<Uffd, UserfaultError> {
    let uffd = open_anywhere(backing)?;
    match rustix::io::fcntl_dupfd_cloexec(&uffd, HIGH) {
        // SAFETY: the descriptor is a userfaultfd and is given away here.
        Ok(high) => Ok(unsafe { Uffd::from_raw_fd(high.into_raw_fd()) }),
        // The host allows fewer descriptors.
        Err(_) => Ok(uffd),
    }
}

fn open_anywhere(backing: Backing) -> Result<Uffd, UserfaultError> {
    let features = match backing {
        Backing::Anon => 0,
        Backing::Memfd => MISSING_SHMEM | MINOR_SHMEM,
    };
    let opened = UffdBuilder::new()
        .close_on_exec(true)
        .non_blocking(true)
        .user_mode_only(false)
        .require_features(FeatureFlags::from_bits_retain(features))
        .create();
    let error = match opened {
        Ok(uffd) => return Ok(uffd),
        Err(Error::OpenDevUserfaultfd(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            match by_system_call(features) {
                Ok(uffd) => return Ok(uffd),
                Err(error) => error,
            }
        }
        Err(Error::OpenDevUserfaultfd(error)) => error,
        Err(error) => errno(&error),
    };
    Err(explain(error, backing))
}

fn by_system_call(features: u64) -> io::Result<Uffd> {
    // SAFETY: the system call takes flags only; a descriptor that it returns has no other owner.
    let fd = unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd as i32)
    };
    let mut arguments = ApiArguments { api: API, features, ioctls: 0 };
    // SAFETY: the arguments have the layout that the ioctl expects and outlive the call.
    if unsafe { ioctl_with_mut_ref(&fd, UFFDIO_API(), &mut arguments) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is a userfaultfd and is given away here.
    Ok(unsafe { Uffd::from_raw_fd(fd.into_raw_fd()) })
}

fn explain(error: io::Error, backing: Backing) -> UserfaultError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => UserfaultError::NotPermitted(error),
        Some(libc::ENOSYS) => UserfaultError::NoKernelSupport(error),
        // UFFDIO_API refuses features that the kernel does not know.
        Some(libc::EINVAL) if backing == Backing::Memfd => {
            UserfaultError::NoFeature { backing, feature: "minor", since: "5.14" }
        }
        Some(libc::EINVAL) => UserfaultError::NoKernelSupport(error),
        _ => UserfaultError::Open(error),
    }
}

/// The system's error in an error of the library.
pub(super) fn errno(error: &Error) -> io::Error {
    match error {
        Error::CopyFailed(errno) | Error::ZeropageFailed(errno) | Error::SystemError(errno) => {
            io::Error::from_raw_os_error(*errno as i32)
        }
        other => io::Error::other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_devices::fault::Direction;

    #[test]
    fn the_ioctl_has_the_number_of_linux() {
        assert_eq!(UFFDIO_API(), 0xc018_aa3f);
    }

    #[test]
    fn both_ways_to_open_work_here() {
        let faults = FaultControl::new(Direction::Incoming);
        support(Backing::Anon, &faults).unwrap();
        support(Backing::Memfd, &faults).unwrap();
        match by_system_call(MISSING_SHMEM | MINOR_SHMEM) {
            Ok(_) => assert_eq!(by_system_call(1 << 63).unwrap_err().raw_os_error(), Some(libc::EINVAL)),
            // The two have separate permissions: `support` worked because this user may open the
            // device.
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EPERM));
                std::fs::File::options().read(true).write(true).open("/dev/userfaultfd").unwrap();
            }
        }
    }

    #[test]
    fn what_the_host_lacks_is_said_with_a_remedy() {
        for (errno, backing, hint) in [
            (libc::EPERM, Backing::Anon, "vm.unprivileged_userfaultfd"),
            (libc::EACCES, Backing::Memfd, "/dev/userfaultfd"),
            (libc::ENOSYS, Backing::Anon, "CONFIG_USERFAULTFD"),
            (libc::EINVAL, Backing::Memfd, "backing=anon"),
            (libc::EINVAL, Backing::Anon, "5.11"),
            (libc::EMFILE, Backing::Anon, "free descriptors"),
        ] {
            let error = explain(io::Error::from_raw_os_error(errno), backing).to_string();
            assert!(error.contains(hint) && error.contains("precopy"), "{error}");
        }
    }
}
