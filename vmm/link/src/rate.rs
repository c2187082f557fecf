//! Bandwidth: the operator's cap on pages, in bytes on the link, and the measured rate of the link,
//! in bytes before compression.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest single pause, so that an interrupt or a raised cap is seen soon.
const STEP: Duration = Duration::from_millis(10);
/// Shorter transfers measure buffers rather than the link.
const LEAST_SAMPLE: u64 = 1 << 20;

/// Paces one sender, or several together, to a number of bytes a second.
///
/// The debt is counted in bytes and not in time, so that a change of the cap takes effect at once,
/// also for bytes sent before.
#[derive(Debug)]
pub struct Limiter {
    bucket: Mutex<Bucket>,
}

impl Default for Limiter {
    /// Nothing sent yet.
    fn default() -> Self {
        Limiter { bucket: Mutex::new(Bucket::new(Instant::now())) }
    }
}

impl Limiter {
    /// Accounts for `bytes` and waits until they fit under `cap` bytes a second (0: no cap), or
    /// until `stop`.
    pub fn pace(&self, bytes: u64, cap: &AtomicU64, stop: impl Fn() -> bool) {
        if cap.load(Relaxed) == 0 {
            return;
        }
        let mark = self.bucket().send(bytes, cap.load(Relaxed), Instant::now());
        while !stop() {
            let rate = cap.load(Relaxed);
            if rate == 0 {
                return;
            }
            let left = self.bucket().left(mark, rate, Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(STEP));
        }
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much was sent, and how much of it has been paid for with time. The clock is an argument.
#[derive(Debug)]
struct Bucket {
    sent: f64,
    paid: f64,
    at: Instant,
}

impl Bucket {
    fn new(at: Instant) -> Self {
        Bucket { sent: 0.0, paid: 0.0, at }
    }

    /// Adds `bytes` to what was sent. Returns the mark that must be paid up to before more may
    /// follow.
    fn send(&mut self, bytes: u64, rate: u64, now: Instant) -> f64 {
        self.advance(rate, now);
        // Unused bandwidth does not accumulate.
        self.paid = self.paid.min(self.sent);
        self.sent += bytes as f64;
        self.sent
    }

    /// How long it takes at `rate` until `mark` is paid.
    fn left(&mut self, mark: f64, rate: u64, now: Instant) -> Duration {
        self.advance(rate, now);
        let owed = (mark - self.paid) / rate as f64;
        // An upper bound is enough: `pace` asks again after each step.
        if owed > 0.0 { Duration::from_secs_f64(owed.min(1e6)) } else { Duration::ZERO }
    }

    fn advance(&mut self, rate: u64, now: Instant) {
        self.paid += now.saturating_duration_since(self.at).as_secs_f64() * rate as f64;
        self.at = now.max(self.at);
    }
}

/// The measured rate of the link, in bytes a second before compression.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured(Option<f64>);

impl Measured {
    /// Takes a transfer into account; a short one only while there is no estimate, or if pages are
    /// not `even`: with compression, the few pages that are written again and again may be the long
    /// ones.
    pub fn sample(&mut self, bytes: u64, took: Duration, even: bool) {
        if took.is_zero() || bytes == 0 || (even && bytes < LEAST_SAMPLE && self.0.is_some()) {
            return;
        }
        let rate = bytes as f64 / took.as_secs_f64();
        // A large transfer replaces the estimate; a smaller one is averaged with it.
        self.0 = Some(self.0.map_or(rate, |old| if bytes < LEAST_SAMPLE * 16 { (old + rate) / 2.0 } else { rate }));
    }

    /// How long `bytes` would take, in microseconds; 0 while there is no estimate.
    #[must_use]
    pub fn expected_us(&self, bytes: u64) -> u64 {
        self.0.map_or(0, |rate| (bytes as f64 * 1e6 / rate) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_cap_that_is_raised_holds_for_what_is_owed_already() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let mark = bucket.send(2 * MIB, 100 << 10, start);
        assert!(bucket.left(mark, 100 << 10, start) > Duration::from_secs(20));
        let after = start + Duration::from_secs(1);
        assert!(bucket.left(mark, 100 << 10, after) > Duration::from_secs(19));
        let raised = bucket.left(mark, 1 << 30, after);
        assert!(raised < Duration::from_millis(3), "{raised:?}");
        let next = bucket.send(2 * MIB, 1 << 30, after);
        let both = bucket.left(next, 1 << 30, after);
        assert!(both < Duration::from_millis(5), "{both:?}");
    }

    #[test]
    fn a_cap_that_is_lowered_holds_from_then_on() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let mark = bucket.send(MIB, MIB, start);
        assert_eq!(bucket.left(mark, MIB, start), Duration::from_secs(1));
        assert_eq!(bucket.left(mark, MIB / 4, start), Duration::from_secs(4));
    }

    #[test]
    fn senders_wait_for_one_another_and_idle_time_is_not_saved_up() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let idle = start + Duration::from_secs(100);
        let first = bucket.send(MIB, MIB, idle);
        let second = bucket.send(MIB, MIB, idle);
        assert_eq!(bucket.left(first, MIB, idle), Duration::from_secs(1));
        assert_eq!(bucket.left(second, MIB, idle), Duration::from_secs(2));
        let later = idle + Duration::from_secs(1);
        assert_eq!(bucket.left(first, MIB, later), Duration::ZERO);
        assert_eq!(bucket.left(second, MIB, later), Duration::from_secs(1));
    }

    #[test]
    fn a_cap_is_kept() {
        let cap = AtomicU64::new(100 << 20);
        let limiter = Limiter::default();
        let began = Instant::now();
        for _ in 0..5 {
            limiter.pace(1 << 20, &cap, || false);
        }
        assert!(began.elapsed() >= Duration::from_millis(49), "{:?}", began.elapsed());
    }

    #[test]
    fn a_stop_ends_the_wait() {
        Limiter::default().pace(1 << 30, &AtomicU64::new(1), || true);
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
