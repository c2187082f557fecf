//! Slows the guest down: a thread that makes all vCPUs rest for a share of the time.
//!
//! ```text
//!   percentage 80:   run 10 ms │ rest 40 ms          │ run 10 ms │ rest 40 ms          │ …
//! ```
//!
//! A migration starts it ([`Machine::throttle`](super::Machine::throttle)) when the guest writes
//! faster than the link carries. The thread exists only while the guest is throttled, so other
//! guests pay nothing. A rest is a state of the [`Gate`]: a thread that stops, resets or ends the
//! machine waits for no rest, and the end of the throttling is the end of the rest. A hold of the
//! machine ends throttling as well: a guest that is resumed, here or elsewhere, runs at its full
//! speed.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::gate::Gate;

/// How long the guest runs between two rests (QEMU: `CPU_THROTTLE_TIMESLICE_NS`).
const RUN: Duration = Duration::from_millis(10);
/// At 100 the guest would not run at all.
pub(super) const MOST: u8 = 99;

/// The throttling of a guest.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    rhythm: Mutex<Rhythm>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct Rhythm {
    /// Share of the time for which vCPUs rest; 0 is not at all.
    pub(super) percentage: u8,
    /// A thread keeps the rhythm.
    pub(super) kept: bool,
}

impl Throttle {
    /// Ends throttling, and the present rest with it. The thread ends by itself, and does not
    /// change the gate any more.
    pub(super) fn end(&self, gate: &Gate) {
        let mut rhythm = self.lock();
        rhythm.percentage = 0;
        gate.rest(false);
        self.changed.notify_all();
    }

    /// Runs the thread that keeps the rhythm.
    pub(super) fn keep(&self, gate: &Gate) {
        let mut rhythm = self.lock();
        // The gate is changed only under the lock: after the end there is no further rest.
        while rhythm.percentage > 0 {
            drop(rhythm);
            // On a busy host threads are late: the guest's time begins when they are in. A thread
            // that does not get there is no error.
            let _ = gate.wait_full();
            rhythm = self.pause(self.lock(), RUN);
            if rhythm.percentage > 0 {
                gate.rest(true);
                let rest = rest(rhythm.percentage);
                rhythm = self.pause(rhythm, rest);
                gate.rest(false);
            }
        }
        rhythm.kept = false;
    }

    /// Waits for `time`, or until the throttling ends.
    fn pause<'a>(&self, rhythm: MutexGuard<'a, Rhythm>, time: Duration) -> MutexGuard<'a, Rhythm> {
        let goes_on = |rhythm: &mut Rhythm| rhythm.percentage > 0;
        self.changed.wait_timeout_while(rhythm, time, goes_on).unwrap_or_else(PoisonError::into_inner).0
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Rhythm> {
        self.rhythm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Length of a rest, so that vCPUs rest for this percentage of the time.
fn rest(percentage: u8) -> Duration {
    RUN * u32::from(percentage) / u32::from(100 - percentage)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn it_ends_in_the_middle_of_a_rest() {
        let (gate, throttle) = (Gate::new(vec![]), Throttle::default());
        std::thread::scope(|scope| {
            for percentage in [50, MOST] {
                *throttle.lock() = Rhythm { percentage, kept: true };
                let keeper = scope.spawn(|| throttle.keep(&gate));
                let deadline = Instant::now() + Duration::from_secs(30);
                while !gate.is_resting() {
                    assert!(Instant::now() < deadline, "no rest at {percentage} %");
                    std::thread::yield_now();
                }
                throttle.end(&gate);
                assert!(!gate.is_resting());
                keeper.join().unwrap();
                assert!(!gate.is_resting() && !throttle.lock().kept);
            }
        });
    }

    #[test]
    fn a_rest_is_the_share_of_the_whole_that_was_asked_for() {
        for (percentage, millis) in [(1, 0), (20, 2), (50, 10), (80, 40), (99, 990)] {
            assert_eq!(rest(percentage).as_millis(), millis, "{percentage} %");
        }
    }
}
