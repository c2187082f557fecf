//! Guest memory: its layout, its backing, and which of its pages the host has allocated.
//!
//! The machine builds one [`Memory`]; KVM, devices and boot see it as `vm-memory`, the migration
//! as densely numbered pages. RAM begins at address 0, leaves a hole from 3 GiB to 4 GiB for
//! devices, and goes on above it. [`userfault`] lets the guest run before all of it is there.

// Only the command line prints: a message must not end the thread that writes it.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod config;
mod hash;
mod mapping;
mod passed;
pub mod populate;
mod populated;
pub mod sink;
pub mod userfault;
pub mod vectors;
pub mod zero;

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, RwLock};

use ferry_devices::GuestMemory;
use ferry_migration::description::RamRange;
use ferry_migration::pages::{CHUNK_PAGES, PAGE_SIZE, PageBitmap};
use rustix::mm::{Advice, madvise};
use vm_memory::bitmap::{AtomicBitmap, NewBitmap};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

pub use config::{Backing, MemoryConfig, MemoryConfigError, SIZE_MAX, SIZE_MIN, SIZE_UNIT};
pub use hash::{MemoryHash, hash};
use mapping::Mapping;
use passed::Held;
pub use passed::PassedError;

/// Where the hole for devices begins.
pub const HOLE_START: u64 = 3 << 30;
/// Where RAM goes on above the hole.
pub const HOLE_END: u64 = 4 << 30;

/// Guest memory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The configuration is not possible.
    #[error(transparent)]
    Config(#[from] MemoryConfigError),
    /// The host gave no memory.
    #[error("{size} bytes of guest memory ({backing}) cannot be mapped; give less with --memory or free memory")]
    Map {
        /// Bytes wanted.
        size: u64,
        /// How it was to be backed.
        backing: Backing,
        /// Why not.
        source: io::Error,
    },
    /// The host did not allocate it all at once.
    #[error(
        "{size} bytes of guest memory cannot be allocated at once; free memory, or leave prealloc=on out of --memory"
    )]
    Prealloc {
        /// Bytes wanted.
        size: u64,
        /// Why not.
        source: io::Error,
    },
}

/// Guest memory.
#[derive(Debug)]
pub struct Memory {
    guest: Option<Arc<GuestMemory>>,
    regions: Vec<Region>,
    ranges: Vec<RamRange>,
    store: Store,
    /// All of it is kept allocated, also when it is empty.
    prealloc: bool,
    /// It has not been written to since it was allocated.
    untouched: AtomicBool,
}

/// The backing, and the file that shows which pages are allocated.
#[derive(Debug)]
enum Store {
    Memfd(RwLock<Held>),
    Anonymous { pagemap: File },
}

/// A range of RAM with its host mapping, which must outlive every `vm-memory` view of it.
#[derive(Debug)]
struct Region {
    view: Option<Arc<GuestRegionMmap<AtomicBitmap>>>,
    mapping: Option<Arc<Mapping>>,
    first_page: u64,
    pages: u64,
}

impl Memory {
    /// Maps memory as configured. Every page reads as zeros, and none is allocated yet, unless
    /// `prealloc` is set.
    ///
    /// # Errors
    /// When the configuration is not possible or the host gives no memory.
    pub fn new(config: &MemoryConfig) -> Result<Self, MemoryError> {
        config.check()?;
        let MemoryConfig { size, backing, prealloc } = *config;
        let memory = Self::map(config).map_err(|source| MemoryError::Map { size, backing, source })?;
        if prealloc {
            memory.populate_all().map_err(|source| MemoryError::Prealloc { size, source })?;
        }
        Ok(memory)
    }

    fn map(config: &MemoryConfig) -> io::Result<Self> {
        let ranges = layout(config.size);
        let memfd = (config.backing == Backing::Memfd).then(|| mapping::sealed_memfd(config.size)).transpose()?;
        let mut regions = Vec::with_capacity(ranges.len());
        let mut first_page = 0;
        for range in &ranges {
            let len = range.len as usize;
            let mapping = match &memfd {
                Some(memfd) => Mapping::shared(memfd, first_page * PAGE_SIZE, len)?,
                None => Mapping::anonymous(len)?,
            };
            let pages = range.len / PAGE_SIZE;
            regions.push(Region {
                view: Some(view(range, &mapping)?),
                mapping: Some(Arc::new(mapping)),
                first_page,
                pages,
            });
            first_page += pages;
        }
        let store = match memfd {
            Some(memfd) => Store::Memfd(RwLock::new(Held::own(memfd))),
            None => Store::Anonymous { pagemap: File::open("/proc/self/pagemap")? },
        };
        let views = regions.iter().filter_map(|region| region.view.clone()).collect();
        let guest = GuestMemoryMmap::from_arc_regions(views).map_err(io::Error::other)?;
        let (prealloc, untouched) = (config.prealloc, AtomicBool::new(config.prealloc));
        Ok(Memory { guest: Some(Arc::new(guest)), regions, ranges, store, prealloc, untouched })
    }

    /// Guest RAM as vm-memory. Every write through it marks its bitmap.
    #[must_use]
    pub fn guest(&self) -> &Arc<GuestMemory> {
        self.guest.as_ref().unwrap_or_else(|| unreachable!("taken only in drop"))
    }

    /// Guest RAM ranges, ascending.
    #[must_use]
    pub fn ranges(&self) -> &[RamRange] {
        &self.ranges
    }

    /// Number of 4 KiB pages, densely numbered over the ranges.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.regions.last().map_or(0, |region| region.first_page + region.pages)
    }

    /// Host address of a page and how many pages follow contiguously in host memory (including
    /// it). Ranges begin and end on 2 MiB boundaries, so a chunk is always contiguous.
    ///
    /// # Panics
    /// When the machine has no such page.
    #[must_use]
    pub fn host_pages(&self, page: u64) -> (*mut u8, u64) {
        let region = self.region_of(page);
        let offset = page - region.first_page;
        (region.host().wrapping_add((offset * PAGE_SIZE) as usize), region.pages - offset)
    }

    /// Guest physical address of a page.
    ///
    /// # Panics
    /// When the machine has no such page.
    #[must_use]
    pub fn guest_address(&self, page: u64) -> u64 {
        let at = self.regions.iter().rposition(|region| region.first_page <= page && page < self.pages());
        let at = at.unwrap_or_else(|| panic!("page {page} of {}", self.pages()));
        self.ranges[at].start + (page - self.regions[at].first_page) * PAGE_SIZE
    }

    /// Pages that may hold anything but zeros: those that the host has allocated. Never allocates
    /// or touches any.
    ///
    /// # Errors
    /// When the host does not report them.
    pub fn populated(&self) -> io::Result<PageBitmap> {
        let mut pages = PageBitmap::new(self.pages());
        self.each_populated(0, self.pages(), |first, count| pages.set_range(first, count))?;
        Ok(pages)
    }

    /// Chunks of which the host has allocated more than half: one bit for each.
    ///
    /// # Errors
    /// When the host does not report them.
    pub fn filled_chunks(&self) -> io::Result<PageBitmap> {
        let populated = self.populated()?;
        let mut filled = PageBitmap::new(populated.chunks());
        for chunk in 0..populated.chunks() {
            let pages: u32 = populated.chunk(chunk).iter().map(|word| word.count_ones()).sum();
            if u64::from(pages) * 2 > CHUNK_PAGES {
                filled.set(chunk);
            }
        }
        Ok(filled)
    }

    /// As [`Memory::populated`], for the pages from `first_page` (a multiple of 64) on: one bit
    /// for each in `words`, which are overwritten. Bits past the last page are zero.
    ///
    /// # Errors
    /// When the host does not report them.
    ///
    /// # Panics
    /// When `first_page` is no multiple of 64.
    pub fn populated_words(&self, first_page: u64, words: &mut [u64]) -> io::Result<()> {
        assert_eq!(first_page % 64, 0, "page {first_page} is not on a word");
        words.fill(0);
        let end = self.pages().min(first_page + words.len() as u64 * 64);
        self.each_populated(first_page, end, |first, count| {
            for page in first - first_page..first - first_page + count {
                words[(page / 64) as usize] |= 1 << (page % 64);
            }
        })
    }

    /// Calls `found` with (first page, number of pages) of each run of allocated pages in
    /// `first..end`.
    fn each_populated(&self, first: u64, end: u64, mut found: impl FnMut(u64, u64)) -> io::Result<()> {
        match &self.store {
            Store::Memfd(held) => {
                let memfd = passed::look_at(held).memfd.clone();
                populated::in_memfd(&memfd, first * PAGE_SIZE, end * PAGE_SIZE, |at, len| {
                    found(at / PAGE_SIZE, len.div_ceil(PAGE_SIZE));
                })
            }
            Store::Anonymous { pagemap } => {
                for region in &self.regions {
                    let from = first.max(region.first_page);
                    let pages = end.min(region.first_page + region.pages).saturating_sub(from);
                    if pages > 0 {
                        let host = region.host().wrapping_add(((from - region.first_page) * PAGE_SIZE) as usize);
                        populated::in_anonymous(pagemap, host, pages * PAGE_SIZE, |at, len| {
                            found(from + at / PAGE_SIZE, len / PAGE_SIZE);
                        })?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Gives every page back to the host: all of guest RAM reads as zeros again, and nothing is
    /// allocated. Pages that a failed attempt has received are lost. No other thread may use the
    /// memory meanwhile. Memory that another process passed is replaced here, and its contents do
    /// not change.
    ///
    /// # Errors
    /// When the host refuses; some pages may keep what they held.
    pub fn discard(&self) -> io::Result<()> {
        match &self.store {
            Store::Memfd(held) => self.empty(held),
            Store::Anonymous { .. } => {
                for region in &self.regions {
                    let len = (region.pages * PAGE_SIZE) as usize;
                    // SAFETY: the range is a live mapping of guest RAM, whose contents the caller
                    // gives up.
                    unsafe { madvise(region.host().cast(), len, Advice::LinuxDontNeed)? };
                }
                Ok(())
            }
        }
    }

    /// Prepares memory for an incoming guest: all of it reads as zeros, and is allocated if
    /// `prealloc` is set. No other thread may use it meanwhile.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn clear(&self) -> io::Result<()> {
        // The first incoming guest uses the memory allocated at the start; only a later one has to
        // wait.
        if self.untouched.swap(false, Relaxed) {
            return Ok(());
        }
        self.discard()?;
        if self.prealloc { self.populate_all() } else { Ok(()) }
    }

    /// Whether all of it is kept allocated.
    #[must_use]
    pub fn is_preallocated(&self) -> bool {
        self.prealloc
    }

    fn populate_all(&self) -> io::Result<()> {
        populate::in_parallel(self, 0..self.pages().div_ceil(CHUNK_PAGES))
    }

    /// The backing of the memory.
    #[must_use]
    pub fn backing(&self) -> Backing {
        match self.store {
            Store::Memfd(_) => Backing::Memfd,
            Store::Anonymous { .. } => Backing::Anon,
        }
    }

    /// The memfd, with the ranges one after the other from offset 0: page `n` lies at `n * 4096`.
    #[must_use]
    pub fn memfd(&self) -> Option<Arc<File>> {
        match &self.store {
            Store::Memfd(held) => Some(passed::look_at(held).memfd.clone()),
            Store::Anonymous { .. } => None,
        }
    }

    /// For the dirty log: bitmap, first page and number of pages of each range.
    pub fn bitmaps(&self) -> impl Iterator<Item = (&AtomicBitmap, u64, u64)> {
        self.regions.iter().filter_map(|region| Some((region.view.as_ref()?.bitmap(), region.first_page, region.pages)))
    }

    fn region_of(&self, page: u64) -> &Region {
        let region =
            self.regions.iter().find(|region| (region.first_page..region.first_page + region.pages).contains(&page));
        region.unwrap_or_else(|| panic!("page {page} of {}", self.pages()))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.guest = None;
        for region in &mut self.regions {
            let unused = region.view.take().is_none_or(|view| Arc::try_unwrap(view).is_ok());
            // A device that outlives its machine keeps its view: then the mapping must stay until
            // the process ends.
            if !unused {
                std::mem::forget(region.mapping.take());
                tracing::debug!("guest memory is still in use by a device and stays mapped");
            }
        }
    }
}

impl Region {
    fn host(&self) -> *mut u8 {
        self.mapping.as_ref().map_or_else(|| unreachable!("taken only in drop"), |mapping| mapping.start())
    }
}

fn layout(size: u64) -> Vec<RamRange> {
    let low = size.min(HOLE_START);
    let mut ranges = vec![RamRange { start: 0, len: low }];
    if size > low {
        ranges.push(RamRange { start: HOLE_END, len: size - low });
    }
    ranges
}

fn view(range: &RamRange, mapping: &Mapping) -> io::Result<Arc<GuestRegionMmap<AtomicBitmap>>> {
    let len = range.len as usize;
    let builder = MmapRegionBuilder::new_with_bitmap(len, AtomicBitmap::with_len(len))
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: the mapping has `len` bytes and is unmapped only after this view is gone, see
    // `Memory::drop`.
    let region = unsafe { builder.with_raw_mmap_pointer(mapping.start()) }.build().map_err(io::Error::other)?;
    let region = GuestRegionMmap::new(region, GuestAddress(range.start));
    region.map(Arc::new).ok_or_else(|| io::Error::other("a range of guest memory ends past the address space"))
}

#[cfg(test)]
mod tests;
