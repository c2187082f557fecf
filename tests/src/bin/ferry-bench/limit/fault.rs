//! A minor fault that another thread of this process resolves: what a missing page costs before
//! any network.
//!
//! It is a plain thread that waits here, no vCPU: leaving the guest, and KVM's part, come on top
//! of it in a VMM.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use userfaultfd::{Event, FeatureFlags, RegisterMode, Uffd, UffdBuilder};

use crate::error::BenchError;
use crate::limit::copy::Mapping;

const PAGE: usize = 4096;
/// Faults that are timed.
const PAGES: usize = 4096;
/// `UFFD_FEATURE_MINOR_SHMEM`, userfaultfd(2), which the crate does not name.
const MINOR_SHMEM: u64 = 1 << 10;
/// The thread that touches pages never waits so long for its next touch.
const SILENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// How long single touches of pages take, in µs, that the page cache of a memfd holds and another
/// thread must map (`UFFDIO_CONTINUE`).
pub(crate) fn minor_faults_us() -> Result<Vec<f64>, BenchError> {
    measure().map_err(BenchError::system("measure minor faults; userfaultfd may be switched off on this host"))
}

fn measure() -> io::Result<Vec<f64>> {
    let file = File::from(memfd_create("bench", MemfdFlags::CLOEXEC)?);
    file.write_all_at(&vec![1; PAGES * PAGE], 0)?;
    let mut memory = Mapping::of_file(&file, PAGES * PAGE)?;
    let uffd = UffdBuilder::new()
        .close_on_exec(true)
        .non_blocking(true)
        .user_mode_only(true)
        .require_features(FeatureFlags::from_bits_retain(MINOR_SHMEM))
        .create()
        .map_err(io::Error::other)?;
    let start = memory.bytes().as_mut_ptr();
    uffd.register_with_mode(start.cast(), PAGES * PAGE, RegisterMode::MINOR).map_err(io::Error::other)?;
    std::thread::scope(|scope| {
        // When it gives up, its descriptor is closed, and the kernel lets all touches pass.
        let handler = scope.spawn(move || resolve(&uffd));
        let touch = |page: usize| {
            let began = Instant::now();
            std::hint::black_box(memory.read(page * PAGE));
            began.elapsed().as_secs_f64() * 1e6
        };
        let times = (0..PAGES).map(touch).collect();
        handler.join().map_err(|_| io::Error::other("the thread that resolves faults ended unexpectedly"))??;
        Ok(times)
    })
}

/// Maps each page that is waited for, until all have been.
fn resolve(uffd: &Uffd) -> io::Result<()> {
    let mut left = PAGES;
    while left > 0 {
        if poll(&mut [PollFd::new(&uffd.as_fd(), PollFlags::IN)], Some(&SILENCE))? == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no fault came"));
        }
        while let Some(event) = uffd.read_event().map_err(io::Error::other)? {
            if let Event::Pagefault { addr, .. } = event {
                let page = addr.map_addr(|addr| addr & !(PAGE - 1));
                uffd.r#continue(page, PAGE, true).map_err(io::Error::other)?;
                left -= 1;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_waited_for() {
        let times = minor_faults_us().unwrap();
        assert_eq!(times.len(), PAGES);
        // A touch of a page that is mapped takes far less.
        let waited = times.iter().filter(|us| **us > 0.5).count();
        assert!(waited > PAGES / 2, "{waited} of {PAGES} touches waited");
    }
}
