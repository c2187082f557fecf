//! One host mapping that backs a range of guest RAM, in page table directories of its own.
//!
//! [`Memory`](super::Memory) makes one for each RAM range and hands its address to `vm-memory`,
//! which does not own it: `vm-memory` can neither align a mapping nor map at a fixed address.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap};

/// Bytes that one page directory covers on x86-64 (Intel SDM volume 3, 4.5), aligned to as many.
const DIRECTORY: usize = 1 << 30;

/// Bytes unmapped per call when a mapping is replaced bit by bit (well under 1 ms if populated).
const BIT: usize = 4 << 20;
/// Time after which the thread yields its core.
const TURN: Duration = Duration::from_micros(250);

/// The access that a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Reading. A write by the kernel fails with an error; one by this process ends it with a
    /// signal.
    Read,
    /// Reading and writing.
    ReadWrite,
}

impl Access {
    fn flags(self) -> (ProtFlags, MprotectFlags) {
        match self {
            Access::Read => (ProtFlags::READ, MprotectFlags::READ),
            Access::ReadWrite => (ProtFlags::READ | ProtFlags::WRITE, MprotectFlags::READ | MprotectFlags::WRITE),
        }
    }
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
    /// Maps fresh zero pages and requests huge pages, which make the first touch cheap.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        let mapping = Self::reserve(len)?;
        // SAFETY: the range lies in a reservation that no other code uses yet.
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
        mapping.show(memfd, offset, Access::ReadWrite)?;
        Ok(mapping)
    }

    /// Maps `memfd`, sealed against shrinking, from `offset` on, shared, at the same addresses, in
    /// place of the current mapping. A thread that uses the range meanwhile finds one or the other;
    /// the kernel notifies KVM.
    ///
    /// On failure the range may be without memory: no thread may use it before another call
    /// succeeds.
    pub(super) fn show(&self, memfd: &File, offset: u64, access: Access) -> io::Result<()> {
        self.show_part(memfd, offset, access, 0..self.len)?;
        self.advise(Advice::LinuxDontDump)
    }

    /// As [`Mapping::show`], in steps between which other threads run: the kernel needs 40 ms to
    /// unmap a populated GiB, and runs nothing else on this core until a call returns. A guest's
    /// vCPU may be waiting for the core.
    pub(super) fn show_bit_by_bit(&self, memfd: &File, offset: u64, access: Access) -> io::Result<()> {
        let mut since = Instant::now();
        for from in (0..self.len).step_by(BIT) {
            self.show_part(memfd, offset, access, from..(from + BIT).min(self.len))?;
            if since.elapsed() >= TURN {
                std::thread::yield_now();
                since = Instant::now();
            }
        }
        self.advise(Advice::LinuxDontDump)
    }

    fn show_part(&self, memfd: &File, offset: u64, access: Access, part: Range<usize>) -> io::Result<()> {
        let flags = MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE;
        let at = self.at.wrapping_add(part.start).cast();
        // SAFETY: the range is this mapping's own, and its users hold no references into it, only
        // addresses; the memfd is sealed against shrinking, so no access can run past its end.
        unsafe { mmap(at, part.len(), access.flags().0, flags, memfd.as_fd(), offset + part.start as u64)? };
        Ok(())
    }

    /// Changes the access of a mapping of a memfd that is open for reading and writing.
    ///
    /// Piece by piece, one page directory each: a piece that was never touched has no directory,
    /// and the kernel skips it. Otherwise it notifies KVM of a change from there to the end, and
    /// KVM without EPT or NPT walks every page.
    pub(super) fn allow(&self, access: Access) -> io::Result<()> {
        let end = self.at as usize + self.len;
        let mut at = self.at as usize;
        while at < end {
            let next = (at + 1).next_multiple_of(DIRECTORY).min(end);
            let start = self.at.wrapping_add(at - self.at as usize);
            // SAFETY: the range is this mapping's own; its users gain access, or the caller gives
            // access up.
            unsafe { mprotect(start.cast(), next - at, access.flags().1)? };
            at = next;
        }
        Ok(())
    }

    /// The first byte, where a page table directory begins.
    pub(super) fn start(&self) -> *mut u8 {
        self.at
    }

    /// Reserves whole page directories: one that is shared with other mappings of this process is
    /// never empty, and [`Mapping::allow`] would be slow.
    fn reserve(len: usize) -> io::Result<Self> {
        let reserved_len = len.next_multiple_of(DIRECTORY) + DIRECTORY;
        // SAFETY: no address is requested, so no earlier mapping can be replaced.
        let reserved = unsafe {
            mmap_anonymous(null_mut(), reserved_len, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE)?
        }
        .cast::<u8>();
        let at = reserved.wrapping_add(reserved.align_offset(DIRECTORY));
        Ok(Mapping { reserved, reserved_len, at, len })
    }

    fn advise(&self, advice: Advice) -> io::Result<()> {
        // SAFETY: the range is this mapping's own. The advice given here changes nothing that
        // memory holds.
        unsafe { madvise(self.at.cast(), self.len, advice)? };
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the reservation is this mapping's own, and its owner drops it only when no user
        // of it is left.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_shares_its_directories_with_nothing() {
        for len in [2 << 20, DIRECTORY, DIRECTORY + (2 << 20)] {
            let mapping = Mapping::anonymous(len).unwrap();
            let (at, reserved) = (mapping.start() as usize, mapping.reserved as usize);
            assert_eq!((at % DIRECTORY, at >= reserved), (0, true));
            assert!(at + len.next_multiple_of(DIRECTORY) <= reserved + mapping.reserved_len, "{len:#x}");
        }
    }
}
