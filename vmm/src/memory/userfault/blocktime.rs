//! How long accesses to missing pages waited.
//!
//! Every wait ends where a page is placed, on any thread, so the counters are atomic; a management client reads a
//! [`Blocktime`] from them at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets of [`Blocktime::histogram`].
pub const BUCKETS: usize = 32;

/// Waits for missing pages so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocktime {
    /// Pages that had to be asked of the source. Several threads that wait for one page count once.
    pub requests: u64,
    /// Accesses that waited although the page was here, or is zero: they were let through without the source.
    pub local: u64,
    /// Requested pages that have arrived.
    pub waits: u64,
    /// Sum over `waits`, from the moment at which the fault was read until the page was there, in microseconds.
    pub total_us: u64,
    /// The longest of them, in microseconds.
    pub longest_us: u64,
    /// Entry `n` counts waits of 2^n to 2^(n+1) microseconds; the first also counts shorter ones, the last longer ones.
    pub histogram: [u64; BUCKETS],
}

/// The counters behind a [`Blocktime`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    requests: AtomicU64,
    local: AtomicU64,
    waits: AtomicU64,
    total_ns: AtomicU64,
    longest_us: AtomicU64,
    histogram: [AtomicU64; BUCKETS],
}

impl Counters {
    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub(super) fn local(&self) {
        self.local.fetch_add(1, Relaxed);
    }

    pub(super) fn waited(&self, time: Duration) {
        let us = time.as_micros() as u64;
        self.waits.fetch_add(1, Relaxed);
        self.total_ns.fetch_add(time.as_nanos() as u64, Relaxed);
        self.longest_us.fetch_max(us, Relaxed);
        self.histogram[bucket(us)].fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self) -> Blocktime {
        Blocktime {
            requests: self.requests.load(Relaxed),
            local: self.local.load(Relaxed),
            waits: self.waits.load(Relaxed),
            total_us: self.total_ns.load(Relaxed) / 1000,
            longest_us: self.longest_us.load(Relaxed),
            histogram: std::array::from_fn(|at| self.histogram[at].load(Relaxed)),
        }
    }
}

fn bucket(us: u64) -> usize {
    (us.max(1).ilog2() as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_fall_into_the_power_of_two_below_them() {
        for (us, expected) in [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (1023, 9), (1024, 10), (u64::MAX, BUCKETS - 1)] {
            assert_eq!(bucket(us), expected, "{us}");
        }
        let counters = Counters::default();
        counters.waited(Duration::from_nanos(5_500));
        counters.waited(Duration::from_nanos(300_700));
        let read = counters.read();
        assert_eq!((read.waits, read.total_us, read.longest_us), (2, 306, 300));
        assert_eq!((read.histogram[2], read.histogram[8]), (1, 1));
    }
}
