//! Bandwidth: the operator's cap on pages, in bytes on the link, and what the link was measured to carry, in bytes before compression.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest single pause, so that an interrupt or a raised cap is seen soon.
const STEP: Duration = Duration::from_millis(10);
/// Transfers below this say more about buffers than about the link.
const LEAST_SAMPLE: u64 = 1 << 20;

/// Paces one sender, or several together, to a number of bytes a second.
#[derive(Debug)]
pub struct Limiter {
    next: Mutex<Instant>,
}

impl Limiter {
    /// Nothing sent yet.
    #[must_use]
    pub fn new() -> Self {
        Limiter { next: Mutex::new(Instant::now()) }
    }

    /// Accounts for `bytes` and waits until they fit under `cap` bytes a second (0: no cap), or until `stop`.
    pub fn pace(&self, bytes: u64, cap: &AtomicU64, stop: impl Fn() -> bool) {
        let rate = cap.load(Relaxed);
        if rate == 0 {
            return;
        }
        let until = self.take(Duration::from_secs_f64(bytes as f64 / rate as f64));
        while !stop() && cap.load(Relaxed) == rate {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(STEP));
        }
    }

    /// Takes this much of the time to come; when it has passed, more may be sent.
    fn take(&self, time: Duration) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next).max(Instant::now()) + time;
        *next
    }
}

/// What the link carries, in bytes a second before compression.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured(Option<f64>);

impl Measured {
    /// Takes a transfer into account; short ones only while nothing better is known, or where the link is not `even`: where compression
    /// makes one page longer than another, the few that are written again and again may be the long ones.
    pub fn sample(&mut self, bytes: u64, took: Duration, even: bool) {
        if took.is_zero() || bytes == 0 || (even && bytes < LEAST_SAMPLE && self.0.is_some()) {
            return;
        }
        let rate = bytes as f64 / took.as_secs_f64();
        // A larger transfer says more; the newest says most.
        self.0 = Some(self.0.map_or(rate, |old| if bytes < LEAST_SAMPLE * 16 { (old + rate) / 2.0 } else { rate }));
    }

    /// How long `bytes` would take, in microseconds; nothing is known of a link that has carried nothing.
    #[must_use]
    pub fn expected_us(&self, bytes: u64) -> u64 {
        self.0.map_or(0, |rate| (bytes as f64 * 1e6 / rate) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_is_kept() {
        let cap = AtomicU64::new(100 << 20);
        let limiter = Limiter::new();
        let began = Instant::now();
        for _ in 0..5 {
            limiter.pace(1 << 20, &cap, || false);
        }
        assert!(began.elapsed() >= Duration::from_millis(49), "{:?}", began.elapsed());
    }

    #[test]
    fn a_stop_ends_the_wait() {
        Limiter::new().pace(1 << 30, &AtomicU64::new(1), || true);
    }

    #[test]
    fn small_transfers_do_not_spoil_the_measure() {
        let mut measured = Measured::default();
        measured.sample(1 << 30, Duration::from_secs(1), true);
        measured.sample(4096, Duration::from_nanos(1), true);
        assert_eq!(measured.expected_us(1 << 30), 1_000_000);
    }

    #[test]
    fn pages_that_do_not_compress_are_expected_to_take_long_however_few_they_are() {
        let mut measured = Measured::default();
        measured.sample(1 << 30, Duration::from_secs(1), false);
        for _ in 0..5 {
            measured.sample(512 << 10, Duration::from_millis(500), false);
        }
        let expected = measured.expected_us(512 << 10);
        assert!((10_000..=500_000).contains(&expected), "{expected}");
    }
}
