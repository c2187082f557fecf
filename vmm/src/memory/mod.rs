//! Guest memory: its layout, its backing, and its dirty log.
use ferry_devices::GuestMemory;
use ferry_migration::description::RamRange;
use ferry_migration::pages::PageBitmap;
use std::sync::Arc;

/// How guest memory is backed by the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backing {
    /// A memfd, mapped shared.
    Memfd,
    /// Anonymous memory with transparent huge pages.
    Anon,
}

pub mod zero;

/// Guest memory.
#[derive(Debug)]
pub struct Memory {}

impl Memory {
    /// Guest RAM as vm-memory.
    pub fn guest(&self) -> &Arc<GuestMemory> {
        todo!()
    }
    /// Guest RAM ranges, ascending.
    pub fn ranges(&self) -> &[RamRange] {
        todo!()
    }
    /// Number of 4 KiB pages, densely numbered over the ranges.
    pub fn pages(&self) -> u64 {
        todo!()
    }
    /// Host address of a page and how many pages follow contiguously in host memory (including it).
    /// Ranges begin and end on 2 MiB boundaries, so a chunk is always contiguous.
    pub fn host_pages(&self, _page: u64) -> (*mut u8, u64) {
        todo!()
    }
    /// Pages that may hold something else than zeros: those the host has allocated. Never allocates or touches any.
    pub fn populated(&self) -> std::io::Result<PageBitmap> {
        todo!()
    }
    /// Prepares memory of a destination for being received into, without taking memory for pages that stay zero.
    pub fn backing(&self) -> Backing {
        todo!()
    }
    /// x
    pub fn populated_words(&self, _first: u64, _words: &mut [u64]) -> std::io::Result<()> {
        todo!()
    }
    /// x
    pub fn discard(&self) -> std::io::Result<()> {
        todo!()
    }
}
