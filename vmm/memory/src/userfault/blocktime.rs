//! How long accesses to missing pages waited.
//!
//! Every wait ends where a page is placed, on any thread, so the counters are atomic; a management
//! client reads a [`Blocktime`] from them at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets of [`Blocktime::histogram`].
pub const BUCKETS: usize = 32;
/// Equal steps from one power of two to the next, by which waits are counted: percentiles need
/// more than powers of two.
const STEPS: usize = 8;
/// The width of the first buckets, in nanoseconds: a microsecond in steps.
const FINEST_NS: u64 = 1000 / STEPS as u64;
/// Buckets below a microsecond, then those of each power of two.
const FINE: usize = STEPS * (1 + BUCKETS);

/// Waits for missing pages so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocktime {
    /// Pages requested from the source. Several threads that wait for one page count once.
    pub requests: u64,
    /// Accesses that waited although the page was here, or is zero: they were let through without
    /// the source.
    pub local: u64,
    /// Requested pages that have arrived.
    pub waits: u64,
    /// Sum over `waits`, from the moment at which the fault was read until the page was there, in
    /// microseconds.
    pub total_us: u64,
    /// The longest of them, in microseconds.
    pub longest_us: u64,
    /// Half of them took no longer, in microseconds, to within an eighth of a power of two; 0
    /// without waits.
    pub p50_us: u64,
    /// 99 of 100 took no longer, as exactly.
    pub p99_us: u64,
    /// Entry `n` counts waits of 2^n to 2^(n+1) microseconds; the first also counts shorter ones,
    /// the last longer ones.
    pub histogram: [u64; BUCKETS],
}

/// The counters behind a [`Blocktime`].
#[derive(Debug)]
pub(super) struct Counters {
    requests: AtomicU64,
    local: AtomicU64,
    total_ns: AtomicU64,
    longest_us: AtomicU64,
    fine: [AtomicU64; FINE],
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            requests: AtomicU64::default(),
            local: AtomicU64::default(),
            total_ns: AtomicU64::default(),
            longest_us: AtomicU64::default(),
            fine: [const { AtomicU64::new(0) }; FINE],
        }
    }
}

impl Counters {
    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub(super) fn local(&self) {
        self.local.fetch_add(1, Relaxed);
    }

    pub(super) fn waited(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.total_ns.fetch_add(ns, Relaxed);
        self.longest_us.fetch_max(ns / 1000, Relaxed);
        self.fine[bucket(ns)].fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self) -> Blocktime {
        let fine: [u64; FINE] = std::array::from_fn(|at| self.fine[at].load(Relaxed));
        let longest_us = self.longest_us.load(Relaxed);
        let mut histogram = [0; BUCKETS];
        for (at, count) in fine.iter().enumerate() {
            histogram[(at / STEPS).saturating_sub(1)] += count;
        }
        Blocktime {
            requests: self.requests.load(Relaxed),
            local: self.local.load(Relaxed),
            waits: fine.iter().sum(),
            total_us: self.total_ns.load(Relaxed) / 1000,
            longest_us,
            p50_us: percentile_us(&fine, 50).min(longest_us),
            p99_us: percentile_us(&fine, 99).min(longest_us),
            histogram,
        }
    }
}

/// The fine bucket of a wait: its highest bits, counted in steps of the finest width.
fn bucket(ns: u64) -> usize {
    let steps = ns / FINEST_NS;
    let octave = (steps.max(1).ilog2() as usize).saturating_sub(STEPS.ilog2() as usize);
    (octave * STEPS + (steps >> octave) as usize).min(FINE - 1)
}

/// The shortest wait of a fine bucket, in nanoseconds.
fn floor_ns(bucket: usize) -> u64 {
    let octave = (bucket / STEPS).saturating_sub(1);
    ((bucket - octave * STEPS) as u64 * FINEST_NS) << octave
}

/// The middle of the bucket that `percent` of the waits do not exceed, in whole microseconds; 0
/// without waits.
fn percentile_us(fine: &[u64; FINE], percent: u64) -> u64 {
    let rank = (fine.iter().sum::<u64>() * percent).div_ceil(100).max(1);
    let mut before = 0;
    let found = fine.iter().position(|count| {
        before += count;
        before >= rank
    });
    found.map_or(0, |at| u64::midpoint(floor_ns(at), floor_ns(at + 1)) / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(times_us: impl IntoIterator<Item = u64>) -> Blocktime {
        let counters = Counters::default();
        times_us.into_iter().for_each(|us| counters.waited(Duration::from_micros(us)));
        counters.read()
    }

    #[test]
    fn waits_fall_into_the_power_of_two_below_them() {
        for (us, expected) in [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (1023, 9), (1024, 10), (u64::MAX, BUCKETS - 1)] {
            let read = after([us]);
            assert_eq!((read.histogram[expected], read.waits), (1, 1), "{us}");
        }
        let counters = Counters::default();
        counters.waited(Duration::from_nanos(5_500));
        counters.waited(Duration::from_nanos(300_700));
        let read = counters.read();
        assert_eq!((read.waits, read.total_us, read.longest_us), (2, 306, 300));
        assert_eq!((read.histogram[2], read.histogram[8]), (1, 1));
    }

    #[test]
    fn a_fine_bucket_is_an_eighth_of_its_power_of_two() {
        for ns in (0..3_000_000).step_by(61) {
            let (low, high) = (floor_ns(bucket(ns)), floor_ns(bucket(ns) + 1));
            assert!((low..high).contains(&ns), "{ns}: {low}..{high}");
            assert!(high - low <= (low / 8).max(FINEST_NS), "{ns}: {low}..{high}");
        }
    }

    #[test]
    fn percentiles_tell_the_usual_wait_from_the_rare_one() {
        assert_eq!((after([]).p50_us, after([]).p99_us), (0, 0));
        let read = after((0..980).map(|_| 40).chain([900; 20]));
        assert!((38..=42).contains(&read.p50_us), "{read:?}");
        assert!((850..=900).contains(&read.p99_us), "{read:?}");
        assert_eq!(after([37]).p99_us, 37, "never beyond the longest");
    }
}
