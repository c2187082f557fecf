//! Which pages the host has allocated, found without touching or allocating any.
//!
//! A page that the host never allocated reads as zeros, so a migration need not look at it. For a memfd the file system
//! knows (`lseek(2)`, `SEEK_DATA` and `SEEK_HOLE`); for anonymous memory the page table does, through the `PAGEMAP_SCAN`
//! ioctl of Linux 6.7 or else through `/proc/self/pagemap` (kernel documentation, `admin-guide/mm/pagemap`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use ferry_migration::pages::{PAGE_SIZE, PageBitmap};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;

/// Regions that one `PAGEMAP_SCAN` call may return.
const SCAN_REGIONS: usize = 256;
/// Entries of `/proc/self/pagemap` read at once: 2 MiB of memory.
const PAGEMAP_ENTRIES: usize = 512;

// PAGE_IS_* of linux/fs.h.
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;

ioctl_iowr_nr!(PAGEMAP_SCAN, b'f' as u32, 16, ScanArguments);

/// `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct ScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// Adds the allocated pages of a memfd; page numbers follow the file.
pub(super) fn of_memfd(memfd: &File, into: &mut PageBitmap) -> io::Result<()> {
    let len = into.pages() * PAGE_SIZE;
    let mut at = 0;
    while at < len {
        let data = match seek(memfd, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let hole = seek(memfd, SeekFrom::Hole(data))?.min(len);
        if hole <= data {
            break;
        }
        let (first, end) = (data / PAGE_SIZE, hole.div_ceil(PAGE_SIZE));
        into.set_range(first, end - first);
        at = hole;
    }
    Ok(())
}

/// Adds the allocated pages of `len` bytes of anonymous memory at `start`; the first of them is page `first_page`.
pub(super) fn of_anonymous(start: *const u8, len: u64, first_page: u64, into: &mut PageBitmap) -> io::Result<()> {
    let pagemap = File::open("/proc/self/pagemap")?;
    match scan(&pagemap, start, len, first_page, into) {
        // ENOTTY: the kernel is older than the ioctl.
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => read(&pagemap, start, len, first_page, into),
        result => result,
    }
}

fn scan(pagemap: &File, start: *const u8, len: u64, first_page: u64, into: &mut PageBitmap) -> io::Result<()> {
    let base = start as u64;
    let mut regions = [Region::default(); SCAN_REGIONS];
    let mut at = base;
    while at < base + len {
        let mut arguments = ScanArguments {
            size: size_of::<ScanArguments>() as u64,
            start: at,
            end: base + len,
            vec: regions.as_mut_ptr() as u64,
            vec_len: SCAN_REGIONS as u64,
            category_inverted: PAGE_IS_PFNZERO,
            category_mask: PAGE_IS_PFNZERO,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_PRESENT,
            ..Default::default()
        };
        // SAFETY: the arguments name a buffer of `vec_len` regions that outlives the call.
        let count = unsafe { ioctl_with_mut_ref(pagemap, PAGEMAP_SCAN(), &mut arguments) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for region in &regions[..count] {
            into.set_range(first_page + (region.start - base) / PAGE_SIZE, (region.end - region.start) / PAGE_SIZE);
        }
        if arguments.walk_end <= at {
            return Err(io::Error::other("PAGEMAP_SCAN made no progress"));
        }
        at = arguments.walk_end;
    }
    Ok(())
}

fn read(pagemap: &File, start: *const u8, len: u64, first_page: u64, into: &mut PageBitmap) -> io::Result<()> {
    const PRESENT_OR_SWAPPED: u64 = 0b11 << 62;
    let first_entry = start as u64 / PAGE_SIZE;
    let mut buffer = [0u8; PAGEMAP_ENTRIES * 8];
    let pages = len / PAGE_SIZE;
    let mut page = 0;
    while page < pages {
        let count = (pages - page).min(PAGEMAP_ENTRIES as u64);
        let bytes = &mut buffer[..count as usize * 8];
        pagemap.read_exact_at(bytes, (first_entry + page) * 8)?;
        for (entry, bytes) in bytes.as_chunks::<8>().0.iter().enumerate() {
            if u64::from_le_bytes(*bytes) & PRESENT_OR_SWAPPED != 0 {
                into.set(first_page + page + entry as u64);
            }
        }
        page += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::mapping::Mapping;
    use super::*;

    #[test]
    fn the_ioctl_has_the_number_of_linux() {
        assert_eq!(PAGEMAP_SCAN(), 0xc060_6610);
    }

    #[test]
    fn the_page_table_read_finds_what_was_written() {
        let mapping = Mapping::anonymous(4 << 20).unwrap();
        // SAFETY: the second half of a fresh mapping of 4 MiB.
        unsafe { mapping.start().add(3 << 20).write(1) };
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let mut by_read = PageBitmap::new(1024 + 8);
        read(&pagemap, mapping.start(), 4 << 20, 8, &mut by_read).unwrap();
        assert!(by_read.contains(8 + 768));
        // A huge page may have been allocated around it, but never in the other one.
        assert!((0..8 + 512).all(|page| !by_read.contains(page)), "{by_read:?}");
    }
}
