//! One host mapping that backs a range of guest RAM, aligned to 2 MiB.
//!
//! [`Memory`](super::Memory) makes one for each RAM range and hands its address to `vm-memory`, which does not own it:
//! `vm-memory` can neither align a mapping nor map at a fixed address.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::ptr::null_mut;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use super::config::SIZE_UNIT;

/// Where writes to a mapped memfd go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writes {
    /// Into the memfd, for everybody who maps it.
    Shared,
    /// Into copies of their pages that only this mapping shows.
    Private,
}

/// A private or shared mapping of `len` bytes, unmapped on drop.
#[derive(Debug)]
pub(super) struct Mapping {
    reserved: *mut u8,
    reserved_len: usize,
    at: *mut u8,
    len: usize,
}

// SAFETY: the struct only names an address range that it owns; it never dereferences the pointers.
unsafe impl Send for Mapping {}
// SAFETY: as above, shared references give nothing but the address.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps fresh zero pages; the kernel is asked for huge ones, which make the first touch cheap.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        let mapping = Self::reserve(len)?;
        // SAFETY: the range lies in a reservation that nobody else knows yet.
        unsafe {
            mmap_anonymous(
                mapping.at.cast(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
            )?;
        }
        mapping.advise(Advice::LinuxDontDump)?;
        if let Err(error) = mapping.advise(Advice::LinuxHugepage) {
            tracing::debug!(%error, "no transparent huge pages on this host: first touch of guest memory will be slower");
        }
        Ok(mapping)
    }

    /// Maps `len` bytes of `memfd` from `offset` on, shared.
    pub(super) fn shared(memfd: &File, offset: u64, len: usize) -> io::Result<Self> {
        let mapping = Self::reserve(len)?;
        mapping.show(memfd, offset, Writes::Shared)?;
        Ok(mapping)
    }

    /// Maps `memfd`, sealed against shrinking, from `offset` on, at the same addresses and in place of what is mapped there now.
    /// Whoever uses the range meanwhile finds one or the other; KVM hears of it from the kernel.
    ///
    /// On failure the range may be without memory: nobody may use it before another call succeeds.
    pub(super) fn show(&self, memfd: &File, offset: u64, writes: Writes) -> io::Result<()> {
        let sharing = match writes {
            Writes::Shared => MapFlags::SHARED,
            Writes::Private => MapFlags::PRIVATE,
        };
        // SAFETY: the range is this mapping's own, and its users hold no references into it, only addresses; the memfd is
        // sealed against shrinking, so no access can run past its end.
        unsafe {
            mmap(
                self.at.cast(),
                self.len,
                ProtFlags::READ | ProtFlags::WRITE,
                sharing | MapFlags::FIXED | MapFlags::NORESERVE,
                memfd.as_fd(),
                offset,
            )?;
        }
        self.advise(Advice::LinuxDontDump)
    }

    /// The first byte, on a 2 MiB boundary.
    pub(super) fn start(&self) -> *mut u8 {
        self.at
    }

    fn reserve(len: usize) -> io::Result<Self> {
        let unit = SIZE_UNIT as usize;
        let reserved_len = len + unit;
        // SAFETY: no address is asked for, so nothing mapped before can be replaced.
        let reserved = unsafe {
            mmap_anonymous(null_mut(), reserved_len, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE)?
        }
        .cast::<u8>();
        let at = reserved.wrapping_add(reserved.align_offset(unit));
        Ok(Mapping { reserved, reserved_len, at, len })
    }

    fn advise(&self, advice: Advice) -> io::Result<()> {
        // SAFETY: the range is this mapping's own. The advice given here changes nothing that memory holds.
        unsafe { madvise(self.at.cast(), self.len, advice)? };
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the reservation is this mapping's own, and its owner drops it only when nobody refers to it any more.
        if let Err(error) = unsafe { munmap(self.reserved.cast(), self.reserved_len) } {
            tracing::warn!(%error, "guest memory could not be unmapped");
        }
    }
}

/// A memfd of `len` bytes that can neither shrink nor grow.
pub(super) fn sealed_memfd(len: u64) -> io::Result<File> {
    let fd = memfd_create("ferry-ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&fd, len)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(File::from(fd))
}
