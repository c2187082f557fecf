//! Bandwidth: the operator's cap on pages, and what the link was measured to carry.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Longest single pause, so that an interrupt or a raised cap is seen soon.
const STEP: Duration = Duration::from_millis(10);
/// Transfers below this say more about buffers than about the link.
const LEAST_SAMPLE: u64 = 1 << 20;

/// Paces a sender to a number of bytes a second.
#[derive(Debug)]
pub struct Limiter {
    next: Instant,
}

impl Limiter {
    /// Nothing sent yet.
    #[must_use]
    pub fn new() -> Self {
        Limiter { next: Instant::now() }
    }

    /// Accounts for `bytes` and waits until they fit under `cap` bytes a second (0: no cap), or until `stop`.
    pub fn pace(&mut self, bytes: u64, cap: &AtomicU64, stop: &AtomicBool) {
        let rate = cap.load(Relaxed);
        if rate == 0 {
            return;
        }
        let now = Instant::now();
        self.next = self.next.max(now) + Duration::from_secs_f64(bytes as f64 / rate as f64);
        while !stop.load(Relaxed) && cap.load(Relaxed) == rate {
            let left = self.next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(STEP));
        }
    }
}

/// What the link carries, in bytes a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured(Option<f64>);

impl Measured {
    /// Takes a transfer into account; short ones only while nothing better is known.
    pub fn sample(&mut self, bytes: u64, took: Duration) {
        if took.is_zero() || bytes == 0 || (bytes < LEAST_SAMPLE && self.0.is_some()) {
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
        let (cap, stop) = (AtomicU64::new(100 << 20), AtomicBool::new(false));
        let mut limiter = Limiter::new();
        let began = Instant::now();
        for _ in 0..5 {
            limiter.pace(1 << 20, &cap, &stop);
        }
        assert!(began.elapsed() >= Duration::from_millis(49), "{:?}", began.elapsed());
    }

    #[test]
    fn a_stop_ends_the_wait() {
        let (cap, stop) = (AtomicU64::new(1), AtomicBool::new(true));
        Limiter::new().pace(1 << 30, &cap, &stop);
    }

    #[test]
    fn small_transfers_do_not_spoil_the_measure() {
        let mut measured = Measured::default();
        measured.sample(1 << 30, Duration::from_secs(1));
        measured.sample(4096, Duration::from_nanos(1));
        assert_eq!(measured.expected_us(1 << 30), 1_000_000);
    }
}
