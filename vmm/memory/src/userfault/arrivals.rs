//! Which pages have arrived, and which thread may place a missing one.
//!
//! The urgent link and the bulk links race for the same page. The thread that claims it first
//! places it; the others discard their copy, because the guest may have written the page since.
//! One atomic operation claims up to 64 pages.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use ferry_migration::pages::PageBitmap;

/// Two bits for each page: claimed, and received. A page that was never missing has both.
#[derive(Debug)]
pub(super) struct Arrivals {
    claimed: Vec<AtomicU64>,
    received: Vec<AtomicU64>,
    remaining: AtomicU64,
    pages: u64,
}

impl Arrivals {
    pub(super) fn new(missing: &PageBitmap) -> Self {
        let here = || missing.words().iter().map(|word| AtomicU64::new(!word)).collect();
        Arrivals {
            claimed: here(),
            received: here(),
            remaining: AtomicU64::new(missing.count()),
            pages: missing.pages(),
        }
    }

    /// Claims the unclaimed ones of `pages` in word `at`, and returns them.
    pub(super) fn claim(&self, at: usize, pages: u64) -> u64 {
        self.claimed.get(at).map_or(0, |word| pages & !word.fetch_or(pages, SeqCst))
    }

    /// Gives back claimed pages that could not be placed.
    pub(super) fn unclaim(&self, at: usize, pages: u64) {
        self.claimed[at].fetch_and(!pages, SeqCst);
    }

    /// Claimed pages are in place.
    pub(super) fn receive(&self, at: usize, pages: u64) {
        let before = self.received[at].fetch_or(pages, SeqCst);
        debug_assert_eq!(before & pages, 0, "received twice");
        self.remaining.fetch_sub(u64::from(pages.count_ones()), SeqCst);
    }

    pub(super) fn is_received(&self, page: u64) -> bool {
        self.received[(page / 64) as usize].load(SeqCst) >> (page % 64) & 1 == 1
    }

    /// How many pages from `page` on are received, this one included, in the same word.
    pub(super) fn received_run(&self, page: u64) -> u64 {
        let word = self.received[(page / 64) as usize].load(SeqCst) >> (page % 64);
        u64::from(word.trailing_ones()).min(64 - page % 64).min(self.pages - page)
    }

    pub(super) fn remaining(&self) -> u64 {
        self.remaining.load(SeqCst)
    }

    pub(super) fn received(&self) -> PageBitmap {
        let mut pages = PageBitmap::new(self.pages);
        for (at, word) in self.received.iter().enumerate() {
            pages.or_words(at as u64 * 64, &[word.load(SeqCst)]);
        }
        pages
    }
}

/// The runs of set bits in `word`, as (first bit, length).
pub(super) fn runs(mut word: u64) -> impl Iterator<Item = (u32, u32)> {
    std::iter::from_fn(move || {
        let first = word.trailing_zeros();
        if first == 64 {
            return None;
        }
        let len = (word >> first).trailing_ones();
        word &= !mask(first, len);
        Some((first, len))
    })
}

/// `len` bits (at least one) from bit `first` on.
pub(super) fn mask(first: u32, len: u32) -> u64 {
    (u64::MAX >> (64 - len)) << first
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_cover_the_word(word: u64) {
            let mut again = 0;
            for (first, len) in runs(word) {
                prop_assert_eq!(again & mask(first, len), 0);
                again |= mask(first, len);
            }
            prop_assert_eq!(again, word);
            prop_assert!(runs(word).zip(runs(word).skip(1)).all(|((a, len), (b, _))| a + len < b));
        }
    }

    #[test]
    fn only_missing_pages_can_be_claimed_and_only_once() {
        let mut missing = PageBitmap::new(70);
        missing.set_range(60, 8);
        let arrivals = Arrivals::new(&missing);
        assert_eq!(arrivals.claim(0, u64::MAX), 0xf << 60);
        assert_eq!(arrivals.claim(0, u64::MAX), 0);
        assert_eq!(arrivals.claim(1, u64::MAX), 0xf);
        assert_eq!(arrivals.claim(2, u64::MAX), 0, "past the end");
        arrivals.unclaim(1, 0b11);
        assert_eq!(arrivals.claim(1, 0b111), 0b11);

        arrivals.receive(0, 0xf << 60);
        arrivals.receive(1, 0b1011);
        assert_eq!(arrivals.remaining(), 1);
        assert_eq!(arrivals.received().count(), 69);
        assert!(arrivals.is_received(3) && arrivals.is_received(60) && !arrivals.is_received(66));
        assert_eq!((arrivals.received_run(2), arrivals.received_run(64), arrivals.received_run(66)), (62, 2, 0));
        assert_eq!(arrivals.received_run(67), 3, "ends with the machine");
    }
}
