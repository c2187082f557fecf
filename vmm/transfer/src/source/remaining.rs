//! Pages that a destination in postcopy still lacks, shared by the threads that send them.
//!
//! The stream sends a page once on each connection, unless it was requested before: the thread that
//! takes it out of the set sends it. The background stream begins where the destination's last
//! requests were, because a guest that touched a page will touch its neighbours.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use ferry_migration::pages::{CHUNK_PAGES, CHUNK_WORDS, PageBitmap};

use crate::source::chunks::Words;

/// Words of the bitmap that the background stream sends in one frame: 128 pages, 512 KiB, a
/// fraction of a millisecond.
const BLOCK_WORDS: usize = 2;
/// Requests whose neighbourhood is remembered; older ones hardly predict the next ones.
const HINTS: usize = 8;

/// The set of pages that remain.
#[derive(Debug)]
pub(crate) struct Remaining {
    words: Vec<AtomicU64>,
    /// Where the background stream goes on when there is no hint, in words.
    cursor: AtomicU64,
    hints: Mutex<VecDeque<usize>>,
}

impl Remaining {
    /// These pages remain.
    #[must_use]
    pub(crate) fn new(pages: &PageBitmap) -> Self {
        Remaining {
            words: pages.words().iter().map(|word| AtomicU64::new(*word)).collect(),
            cursor: AtomicU64::new(0),
            hints: Mutex::default(),
        }
    }

    /// Takes one page out, and remembers where it was; false when it was taken before.
    pub(crate) fn claim(&self, page: u64) -> bool {
        let word = (page / 64) as usize;
        self.remember(word);
        let bit = 1 << (page % 64);
        self.words.get(word).is_some_and(|word| word.fetch_and(!bit, AcqRel) & bit != 0)
    }

    /// Takes out the next pages that are likely to be needed; `None` when there are none left.
    /// Returns the chunk and its pages.
    pub(crate) fn claim_block(&self) -> Option<(u64, Words)> {
        while let Some(word) = self.newest_hint() {
            // Pages that follow a touched one first, then those before it.
            for start in [word, word + BLOCK_WORDS, word.saturating_sub(BLOCK_WORDS)] {
                if let Some(block) = self.take(start) {
                    self.remember(start);
                    return Some(block);
                }
            }
        }
        let mut at = self.cursor.load(Relaxed) as usize;
        while at < self.words.len() {
            if let Some(block) = self.take(at) {
                self.cursor.store(at as u64, Relaxed);
                return Some(block);
            }
            at += BLOCK_WORDS;
        }
        self.cursor.store(at as u64, Relaxed);
        None
    }

    fn take(&self, word: usize) -> Option<(u64, Words)> {
        let first = word / BLOCK_WORDS * BLOCK_WORDS;
        let mut words = [0; CHUNK_WORDS];
        for at in first..(first + BLOCK_WORDS).min(self.words.len()) {
            if self.words[at].load(Relaxed) != 0 {
                words[at % CHUNK_WORDS] = self.words[at].swap(0, AcqRel);
            }
        }
        (words != [0; CHUNK_WORDS]).then_some((first as u64 * 64 / CHUNK_PAGES, words))
    }

    /// A function of its own, so that the lock is free again before the hint is followed.
    fn newest_hint(&self) -> Option<usize> {
        self.hints().pop_front()
    }

    fn remember(&self, word: usize) {
        let mut hints = self.hints();
        if hints.front() != Some(&word) {
            hints.push_front(word);
            hints.truncate(HINTS);
        }
    }

    fn hints(&self) -> std::sync::MutexGuard<'_, VecDeque<usize>> {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(remaining: &Remaining) -> PageBitmap {
        let mut taken = PageBitmap::new(remaining.words.len() as u64 * 64);
        while let Some((chunk, words)) = remaining.claim_block() {
            for (at, word) in words.iter().enumerate() {
                for bit in (0..64).filter(|bit| word >> bit & 1 == 1) {
                    let page = chunk * CHUNK_PAGES + at as u64 * 64 + bit;
                    assert!(!taken.contains(page), "page {page} was taken twice");
                    taken.set(page);
                }
            }
        }
        taken
    }

    #[test]
    fn every_page_is_taken_once() {
        let mut pages = PageBitmap::full(2048);
        pages.clear(700);
        let remaining = Remaining::new(&pages);
        assert!(remaining.claim(1300) && !remaining.claim(1300) && !remaining.claim(700));
        let taken = drain(&remaining);
        pages.clear(1300);
        assert_eq!(taken, pages);
        assert!(remaining.claim_block().is_none());
    }

    #[test]
    fn the_neighbourhood_of_a_request_comes_first() {
        let remaining = Remaining::new(&PageBitmap::full(1 << 16));
        remaining.claim(40_000);
        let (chunk, words) = remaining.claim_block().unwrap();
        let first = chunk * CHUNK_PAGES + words.iter().position(|w| *w != 0).unwrap() as u64 * 64;
        assert!((40_000 - 128..=40_000).contains(&first), "{first}");
        let (next, _) = remaining.claim_block().unwrap();
        assert!(next.abs_diff(40_000 / CHUNK_PAGES) <= 1, "{next}");
    }

    #[test]
    fn threads_share_without_loss() {
        let remaining = Remaining::new(&PageBitmap::full(1 << 16));
        let counts: u64 = std::thread::scope(|scope| {
            let urgent =
                scope.spawn(|| (0..1 << 16).filter(|page| remaining.claim(page * 7 % (1 << 16))).count() as u64);
            let background = scope.spawn(|| {
                let mut count = 0;
                while let Some((_, words)) = remaining.claim_block() {
                    count += words.iter().map(|w| u64::from(w.count_ones())).sum::<u64>();
                }
                count
            });
            urgent.join().unwrap() + background.join().unwrap()
        });
        assert_eq!(counts, 1 << 16);
    }
}
