//! The pages that threads wait for.
//!
//! The fault handler enters a page, the thread that places it removes it. A bitmap beside the table
//! lets bulk data, for which no thread waits, pass without the lock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Pages with the time of their first fault.
#[derive(Debug)]
pub(super) struct Waiting {
    marks: Vec<AtomicU64>,
    since: Mutex<HashMap<u64, Instant>>,
}

impl Waiting {
    pub(super) fn new(pages: u64) -> Self {
        Waiting { marks: (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(), since: Mutex::default() }
    }

    /// A thread waits for `page`; true when none did before.
    ///
    /// The caller looks *afterwards* whether the page has been received meanwhile, and the thread
    /// that places it calls [`Waiting::end`] after it is marked as received: so one of the two
    /// sees the other.
    pub(super) fn begin(&self, page: u64) -> bool {
        let mut since = self.since();
        if since.contains_key(&page) {
            return false;
        }
        since.insert(page, Instant::now());
        self.marks[(page / 64) as usize].fetch_or(1 << (page % 64), SeqCst);
        true
    }

    /// No thread has to wait any more for `pages` of word `at`. Returns those that a thread waited
    /// for; `ended` receives the length of each wait.
    pub(super) fn end(&self, at: usize, pages: u64, mut ended: impl FnMut(Duration)) -> u64 {
        if self.marks[at].load(SeqCst) & pages == 0 {
            return 0;
        }
        let mut since = self.since();
        let waited = self.marks[at].fetch_and(!pages, SeqCst) & pages;
        for bit in (0..64).filter(|bit| waited >> bit & 1 == 1) {
            if let Some(time) = since.remove(&(at as u64 * 64 + bit)) {
                ended(time.elapsed());
            }
        }
        waited
    }

    /// Those that have been waited for at least so long, in ascending order.
    pub(super) fn pages(&self, at_least: Duration) -> Vec<u64> {
        let since = self.since();
        let mut pages: Vec<u64> =
            since.iter().filter(|(_, time)| time.elapsed() >= at_least).map(|(page, _)| *page).collect();
        pages.sort_unstable();
        pages
    }

    fn since(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_waited_for_once_until_its_end() {
        let waiting = Waiting::new(130);
        assert!(waiting.begin(129));
        assert!(!waiting.begin(129));
        assert!(waiting.begin(64));
        assert_eq!(waiting.pages(Duration::ZERO), [64, 129]);
        assert_eq!(waiting.pages(Duration::from_secs(3600)), [] as [u64; 0]);
        let mut ended = 0;
        assert_eq!(waiting.end(2, 0b1, |_| ended += 1), 0, "no thread waits for page 128");
        assert_eq!(waiting.end(2, 0b11, |_| ended += 1), 0b10);
        assert_eq!((ended, waiting.pages(Duration::ZERO)), (1, vec![64]));
        assert_eq!(waiting.end(2, u64::MAX, |_| ended += 1), 0, "it has ended");
        assert!(waiting.begin(129), "it may be waited for again");
    }
}
