//! Which pages the host has allocated, found without touching or allocating any.
//!
//! A page that the host never allocated reads as zeros, so a migration need not look at it. For a
//! memfd the file system reports them (`lseek(2)`, `SEEK_DATA` and `SEEK_HOLE`); for anonymous
//! memory the page table does, through the `PAGEMAP_SCAN` ioctl of Linux 6.7 or else through
//! `/proc/self/pagemap` (kernel documentation, `admin-guide/mm/pagemap`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use ferry_migration::pages::PAGE_SIZE;
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

/// Calls `found` with (first byte, length) of each allocated run of a memfd that begins in
/// `start..end`.
pub(super) fn in_memfd(memfd: &File, start: u64, end: u64, mut found: impl FnMut(u64, u64)) -> io::Result<()> {
    let mut at = start;
    while at < end {
        let data = match seek(memfd, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        if data >= end {
            break;
        }
        let hole = seek(memfd, SeekFrom::Hole(data))?.min(end);
        found(data, hole - data);
        at = hole;
    }
    Ok(())
}

/// Calls `found` with (first byte, length) of each allocated run of `len` bytes of anonymous
/// memory at `start`; the first byte counts from `start`. `pagemap` is an open
/// `/proc/self/pagemap`.
pub(super) fn in_anonymous(
    pagemap: &File,
    start: *const u8,
    len: u64,
    mut found: impl FnMut(u64, u64),
) -> io::Result<()> {
    scan_or_read(pagemap, start as u64, len, PAGE_IS_PFNZERO, &mut found)
}

/// As [`in_anonymous`], for memory of any kind: runs with entries in the page table, the shared
/// zero page included.
pub(super) fn in_page_table(
    pagemap: &File,
    start: *const u8,
    len: u64,
    mut found: impl FnMut(u64, u64),
) -> io::Result<()> {
    scan_or_read(pagemap, start as u64, len, 0, &mut found)
}

fn scan_or_read(
    pagemap: &File,
    base: u64,
    len: u64,
    excluded: u64,
    found: &mut impl FnMut(u64, u64),
) -> io::Result<()> {
    match scan(pagemap, base, len, excluded, found) {
        // ENOTTY: the kernel is older than the ioctl, which then has found nothing yet.
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => read(pagemap, base, len, found),
        result => result,
    }
}

fn scan(pagemap: &File, base: u64, len: u64, excluded: u64, found: &mut impl FnMut(u64, u64)) -> io::Result<()> {
    let mut regions = [Region::default(); SCAN_REGIONS];
    let mut at = base;
    while at < base + len {
        let mut arguments = ScanArguments {
            size: size_of::<ScanArguments>() as u64,
            start: at,
            end: base + len,
            vec: regions.as_mut_ptr() as u64,
            vec_len: SCAN_REGIONS as u64,
            category_inverted: excluded,
            category_mask: excluded,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_PRESENT,
            ..Default::default()
        };
        // SAFETY: the arguments name a buffer of `vec_len` regions that outlives the call.
        let count = unsafe { ioctl_with_mut_ref(pagemap, PAGEMAP_SCAN(), &mut arguments) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for region in &regions[..count] {
            found(region.start - base, region.end - region.start);
        }
        if arguments.walk_end <= at {
            return Err(io::Error::other("PAGEMAP_SCAN made no progress"));
        }
        at = arguments.walk_end;
    }
    Ok(())
}

fn read(pagemap: &File, base: u64, len: u64, found: &mut impl FnMut(u64, u64)) -> io::Result<()> {
    const PRESENT_OR_SWAPPED: u64 = 0b11 << 62;
    let mut buffer = [0u8; PAGEMAP_ENTRIES * 8];
    let pages = len / PAGE_SIZE;
    let mut page = 0;
    while page < pages {
        let count = (pages - page).min(PAGEMAP_ENTRIES as u64);
        let bytes = &mut buffer[..count as usize * 8];
        pagemap.read_exact_at(bytes, (base / PAGE_SIZE + page) * 8)?;
        for (entry, bytes) in bytes.as_chunks::<8>().0.iter().enumerate() {
            if u64::from_le_bytes(*bytes) & PRESENT_OR_SWAPPED != 0 {
                found((page + entry as u64) * PAGE_SIZE, PAGE_SIZE);
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
    use ferry_migration::pages::PageBitmap;

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
        let mut by_read = PageBitmap::new(1024);
        let found = &mut |at: u64, len: u64| by_read.set_range(at / PAGE_SIZE, len / PAGE_SIZE);
        read(&pagemap, mapping.start() as u64, 4 << 20, found).unwrap();
        assert!(by_read.contains(768));
        // A huge page may have been allocated around it, but never in the other one.
        assert!((0..512).all(|page| !by_read.contains(page)), "{by_read:?}");
    }
}
