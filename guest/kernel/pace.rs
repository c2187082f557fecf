//! When pages are due: the planned rate, cut into quanta short enough to be smooth.

use crate::pages::PAGE;
use crate::time;

/// The length of a quantum.
const QUANTUM_US: u64 = 1_000;
/// The length when a page is due less often than that.
const QUANTUM_MAX_US: u64 = 10_000;
/// A lag up to this is made up for, as fast as it goes: a host that is busy now and then does not
/// slow the guest down.
const CATCH_UP_US: u64 = 50_000;
/// Fractions of a page that are counted.
const FRACTION_BITS: u32 = 20;

/// One processor's schedule. Times are of the TSC.
pub struct Pace {
    quantum: u64,
    /// Pages a quantum, in 2^-20.
    quota: u64,
    credit: u64,
    /// When this quantum's pages are due.
    pub due: u64,
    /// What the next quantum is counted from.
    base: u64,
}

impl Pace {
    /// A schedule for so many bytes of pages a second, from now on.
    pub fn new(bytes_per_second: u64) -> Self {
        let page_us = (1_000_000 * PAGE).div_ceil(bytes_per_second);
        let quantum = time::cycles_of_us(page_us.clamp(QUANTUM_US, QUANTUM_MAX_US));
        let quota = (u128::from(bytes_per_second) * u128::from(quantum)) << FRACTION_BITS;
        let quota = (quota / u128::from(time::khz() * 1000 * PAGE)) as u64;
        let now = time::now();
        Self { quantum, quota, credit: 0, due: now, base: now }
    }

    /// The pages that are due in this quantum.
    pub fn pages(&mut self) -> u64 {
        self.credit += self.quota;
        let pages = self.credit >> FRACTION_BITS;
        self.credit &= (1 << FRACTION_BITS) - 1;
        pages
    }

    /// Whether the next quantum lies further ahead than it ever should: the TSC was set back.
    pub fn is_lost(&self, now: u64) -> bool {
        now + 2 * self.quantum < self.due
    }

    /// Goes on to the next quantum. After a longer stall the schedule begins anew, so that what
    /// was missed is not made up for; but the pages that were late remain late.
    pub fn advance(&mut self) {
        self.due = self.base + self.quantum;
        let now = time::now();
        let on_time = !self.is_lost(now) && now <= self.due + time::cycles_of_us(CATCH_UP_US);
        self.base = if on_time { self.due } else { now };
    }
}
