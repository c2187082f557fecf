//! The landing of one link's pages: a small buffer that stays in the cache, from which they are
//! placed.
//!
//! Each receiving thread has its own. A page that another thread has placed first is dropped here.

use std::sync::Arc;

use ferry_migration::pages::PAGE_SIZE;

use super::Faults;
use super::arrivals::{mask, runs};
use super::error::UserfaultError;

/// Pages that one call can place: those of one word of a bitmap.
pub const LANDING_PAGES: usize = 64;

const PAGE: usize = PAGE_SIZE as usize;

/// Places pages for one thread.
#[derive(Debug)]
pub struct Landing {
    faults: Arc<Faults>,
    buffer: Vec<[u8; PAGE]>,
}

impl Landing {
    pub(super) fn new(faults: Arc<Faults>) -> Self {
        Landing { faults, buffer: vec![[0; PAGE]; LANDING_PAGES] }
    }

    /// Buffer for `pages` pages (at most [`LANDING_PAGES`]), to be filled from the link.
    ///
    /// # Panics
    /// When more pages are requested.
    pub fn buffer(&mut self, pages: u32) -> &mut [u8] {
        self.buffer[..pages as usize].as_flattened_mut()
    }

    /// Places the first pages of the buffer: one for each bit of `pages`, in ascending order; bit 0
    /// is page `first_page`, a multiple of 64. Wakes the threads that wait for them.
    ///
    /// Returns those that were placed. The others were not missing: they had arrived before, or
    /// were never expected.
    ///
    /// # Errors
    /// When the pages have been released or given up ([`Faults::give_up`]), or a page cannot be
    /// placed; it can then arrive again.
    ///
    /// # Panics
    /// When `first_page` is no multiple of 64.
    pub fn place(&mut self, first_page: u64, pages: u64) -> Result<u64, UserfaultError> {
        self.faults.land(first_page, pages, Contents::Bytes(&self.buffer))
    }

    /// Makes pages zero; otherwise as [`Landing::place`], without a use of the buffer.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn place_zero(&mut self, first_page: u64, pages: u64) -> Result<u64, UserfaultError> {
        self.faults.land(first_page, pages, Contents::Zeros)
    }
}

/// Contents of the pages to place.
#[derive(Clone, Copy)]
enum Contents<'a> {
    /// One page after the other.
    Bytes(&'a [[u8; PAGE]]),
    Zeros,
}

impl Faults {
    /// Claims pages, puts them in place run by run, and marks them as received.
    fn land(&self, first_page: u64, pages: u64, contents: Contents<'_>) -> Result<u64, UserfaultError> {
        assert_eq!(first_page % 64, 0, "page {first_page} is not on a word");
        let Some(_watched) = self.watched() else {
            return if self.is_disarmed() { Ok(0) } else { Err(UserfaultError::Ended) };
        };
        let at = (first_page / 64) as usize;
        let claimed = self.arrivals.claim(at, pages);
        let mut placed = 0;
        for (first, len) in runs(claimed) {
            let page = first_page + u64::from(first);
            let mut result = match contents {
                Contents::Bytes(bytes) => {
                    let before = (pages & !(u64::MAX << first)).count_ones() as usize;
                    self.place(page, bytes[before..before + len as usize].as_flattened())
                }
                Contents::Zeros => self.place_zero(page, u64::from(len)),
            };
            let done = result.as_ref().map_or_else(|stopped| stopped.done_pages as u32, |()| len);
            if done > 0 {
                placed |= mask(first, done);
                let awaited = self.arrived(at, mask(first, done));
                if matches!(contents, Contents::Zeros) {
                    result = result.and_then(|()| self.show_zeros(first_page, awaited));
                }
            }
            if let Err(stopped) = result {
                self.arrivals.unclaim(at, claimed & !placed);
                return Err(UserfaultError::Place { page: page + stopped.done_pages, source: stopped.error });
            }
        }
        Ok(placed)
    }

    /// Marks placed pages as received, then looks which of them threads waited for, in this order:
    /// see [`super::waiting`].
    fn arrived(&self, at: usize, pages: u64) -> u64 {
        self.arrivals.receive(at, pages);
        self.waiting.end(at, pages, |time| self.counters.waited(time))
    }
}
