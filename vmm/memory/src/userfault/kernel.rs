//! The ioctls that place pages, with the results that are no errors (`ioctl_userfaultfd(2)`).
//!
//! EAGAIN: the call ended early, and goes on where it stopped. EEXIST: the page is there already.
//! ENOENT: the memory is no longer registered, which is an error like all others.

use std::io;
use std::time::{Duration, Instant};

use ferry_migration::pages::PAGE_SIZE;
use userfaultfd::{Error, Uffd};

use super::open::errno;

const PAGE: usize = PAGE_SIZE as usize;
/// Longest that one call may make no progress.
const PATIENCE: Duration = Duration::from_secs(1);

/// A call that failed after some pages.
#[derive(Debug)]
pub(super) struct Stopped {
    pub(super) done_pages: u64,
    pub(super) error: io::Error,
}

/// Copies whole pages to `to`, where all are missing, and wakes the threads that wait for them
/// (`UFFDIO_COPY`).
pub(super) fn copy(uffd: &Uffd, from: &[u8], to: *mut u8) -> Result<(), Stopped> {
    step_through(from.len(), |done| {
        let (rest, to) = (&from[done..], to.wrapping_add(done).cast());
        // SAFETY: the source is a slice; the kernel checks that the destination is memory watched
        // through this descriptor, and copies only to where there is no page, so nothing that a
        // reference could point to changes.
        match unsafe { uffd.copy(rest.as_ptr().cast(), to, rest.len(), true) } {
            Err(Error::PartiallyCopied(count)) => match isize::try_from(count) {
                Ok(count) => Ok(count as usize),
                // A negative count is an error number.
                Err(_) => Err(io::Error::from_raw_os_error(libc::EAGAIN)),
            },
            other => other.map_err(|error| errno(&error)),
        }
    })
}

/// Maps pages that the page cache of a memfd holds, and wakes the threads that wait for them
/// (`UFFDIO_CONTINUE`).
pub(super) fn map(uffd: &Uffd, at: *mut u8, pages: u64) -> Result<(), Stopped> {
    step_through(pages as usize * PAGE, |done| {
        let here = at.wrapping_add(done).cast();
        match uffd.r#continue(here, pages as usize * PAGE - done, true) {
            Ok(bytes) => Ok(bytes as usize),
            Err(error) => passed_if_present(uffd, here, errno(&error)),
        }
    })
}

/// Places pages of zeros, except where there are pages already, and wakes the threads that wait for
/// them (`UFFDIO_ZEROPAGE`).
pub(super) fn zero(uffd: &Uffd, at: *mut u8, pages: u64) -> Result<(), Stopped> {
    let mut one_by_one = false;
    step_through(pages as usize * PAGE, |done| {
        let here = at.wrapping_add(done).cast();
        let len = if one_by_one { PAGE } else { pages as usize * PAGE - done };
        // SAFETY: the kernel checks that this is memory watched through this descriptor, and puts
        // zeros only where there is no page.
        match unsafe { uffd.zeropage(here, len, true) } {
            Ok(bytes) => Ok(bytes),
            Err(error) => match errno(&error) {
                // The library does not return how far the call got.
                error if error.raw_os_error() == Some(libc::EAGAIN) && !one_by_one => {
                    one_by_one = true;
                    Ok(0)
                }
                error => passed_if_present(uffd, here, error),
            },
        }
    })
}

fn passed_if_present(uffd: &Uffd, page: *mut libc::c_void, error: io::Error) -> io::Result<usize> {
    if error.raw_os_error() != Some(libc::EEXIST) {
        return Err(error);
    }
    uffd.wake(page, PAGE).map_err(|error| errno(&error))?;
    Ok(PAGE)
}

/// Calls `step` with the bytes done so far until all `len` are; a step returns how many bytes it
/// did.
fn step_through(len: usize, mut step: impl FnMut(usize) -> io::Result<usize>) -> Result<(), Stopped> {
    let mut done = 0;
    let mut stuck_since: Option<Instant> = None;
    while done < len {
        match step(done) {
            Ok(bytes) => {
                done += bytes;
                stuck_since = None;
            }
            Err(error) => {
                let again = error.raw_os_error() == Some(libc::EAGAIN);
                if !again || stuck_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    return Err(Stopped { done_pages: (done / PAGE) as u64, error });
                }
                std::thread::yield_now();
            }
        }
    }
    Ok(())
}

/// A page that is there already is as good as one that was placed.
pub(super) fn present_or(result: Result<(), Stopped>, uffd: &Uffd, host: *mut u8) -> Result<(), Stopped> {
    match result {
        Err(stopped) if stopped.error.raw_os_error() == Some(libc::EEXIST) => {
            uffd.wake(host.cast(), PAGE).map_err(|error| Stopped { done_pages: 0, error: errno(&error) })
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_go_on_after_eagain_and_end_with_other_errors() {
        let mut answers = vec![Ok(PAGE), Err(libc::EAGAIN), Ok(2 * PAGE), Err(libc::EAGAIN), Ok(PAGE)].into_iter();
        let mut seen = Vec::new();
        step_through(4 * PAGE, |done| {
            seen.push(done / PAGE);
            answers.next().unwrap().map_err(io::Error::from_raw_os_error)
        })
        .unwrap();
        assert_eq!(seen, [0, 1, 1, 3, 3]);

        let mut answers = vec![Ok(PAGE), Err(libc::ENOENT)].into_iter();
        let stopped =
            step_through(4 * PAGE, |_| answers.next().unwrap().map_err(io::Error::from_raw_os_error)).unwrap_err();
        assert_eq!((stopped.done_pages, stopped.error.raw_os_error()), (1, Some(libc::ENOENT)));
    }
}
