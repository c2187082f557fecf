//! Measures gaps: how much later a page touch ended than it was due, and than the touch before it.
//! Pacing and the loop's own chores are none. And stalls: how long a touch took by itself.

use crate::lines::{Histogram, Stalls};
use crate::time;

/// The gaps of one processor. Times are of the TSC.
pub struct Gaps {
    /// When the previous touch, or what is excused after it, ended.
    last: u64,
    cycles_per_us: u64,
    worst_since_report: u64,
    worst: u64,
    histogram: Histogram,
    stalls: Stalls,
}

/// What a chore may take without being a gap.
const CHORE_US: u64 = 100;
/// The same, for each access to a device.
const ACCESS_US: u64 = 40;

impl Gaps {
    pub fn new() -> Self {
        let cycles_per_us = (time::khz() / 1000).max(1);
        Self {
            last: time::now(),
            cycles_per_us,
            worst_since_report: 0,
            worst: 0,
            histogram: Histogram::default(),
            stalls: Stalls::default(),
        }
    }

    /// A touch that was due at `due` and began at `began` has ended.
    #[inline]
    pub fn touched(&mut self, due: u64, began: u64) {
        let now = time::now();
        let gap = now.saturating_sub(self.last.max(due));
        self.last = now;
        self.worst_since_report = self.worst_since_report.max(gap);
        self.histogram.add(gap / self.cycles_per_us);
        self.stalls.add(now.saturating_sub(began) / self.cycles_per_us);
    }

    /// Chores with so many accesses to devices have ended, begun after the last touch. What they
    /// took beyond their allowance belongs to the next touch: a guest that was stopped meanwhile
    /// must notice.
    pub fn excuse(&mut self, began: u64, accesses: usize) {
        let now = time::now();
        let allowance = (CHORE_US + ACCESS_US * accesses as u64) * self.cycles_per_us;
        let beyond = now.saturating_sub(began).saturating_sub(allowance);
        self.last = now - beyond;
    }

    /// Begins a new reporting period. Returns the longest gap of the one that ended and the
    /// longest of all, in µs.
    pub fn report(&mut self) -> (u64, u64) {
        self.worst = self.worst.max(self.worst_since_report);
        let since_report = self.worst_since_report;
        self.worst_since_report = 0;
        (since_report / self.cycles_per_us, self.worst / self.cycles_per_us)
    }

    /// The stalls since this was last asked.
    pub fn take_stalls(&mut self) -> Stalls {
        core::mem::take(&mut self.stalls)
    }

    /// All gaps so far.
    pub fn histogram(&self) -> &Histogram {
        &self.histogram
    }
}
