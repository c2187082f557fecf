//! A guest whose outputs tell what it has done, and the observer that checks them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::simulator::rng::Rng;

/// Pages of a guest.
pub(super) const PAGES: usize = 64;
/// Outputs that the observer keeps to compare repetitions with: far more than an epoch has.
const KEPT: u64 = 20_000;

/// An output: its position in the stream, and a hash of everything that was put out up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emission {
    /// Counts from 1.
    pub position: u64,
    /// The hash.
    pub chain: u64,
}

/// A guest.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    /// Its last output, held or seen.
    pub(super) last: Emission,
    /// What its pages hold.
    pub(super) pages: [u64; PAGES],
    /// Which of them were written since they were harvested, a bit each.
    pub(super) dirty: u64,
    /// It is not stopped.
    pub(super) runs: bool,
}

impl Guest {
    /// A guest that has just been booted.
    pub(super) fn new() -> Self {
        Guest { last: Emission { position: 0, chain: 0 }, pages: [0; PAGES], dirty: u64::MAX, runs: true }
    }

    /// Writes to some pages, and perhaps puts something out that depends on them.
    pub(super) fn works(&mut self, rng: &mut Rng) -> Option<Emission> {
        let mut mixed = self.last.chain;
        for _ in 0..rng.within(1, 4) {
            let page = rng.below(PAGES as u64) as usize;
            self.pages[page] = rng.number();
            self.dirty |= 1 << page;
            mixed = mixed.rotate_left(17).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.pages[page];
        }
        if !rng.percent(40) {
            return None;
        }
        self.last = Emission { position: self.last.position + 1, chain: mixed };
        Some(self.last)
    }
}

/// Sees what leaves any process.
#[derive(Debug, Default)]
pub struct Observer {
    seen: BTreeMap<u64, u64>,
    /// The highest position that was seen.
    pub highest: u64,
    /// Outputs that were seen again, and were the same.
    pub repeated: u64,
}

impl Observer {
    /// An output leaves a process.
    ///
    /// # Errors
    /// When it differs from what was seen at its position, or leaves a gap.
    pub fn sees(&mut self, output: Emission) -> Result<(), String> {
        let Emission { position, chain } = output;
        if position > self.highest + 1 {
            return Err(format!("output {position} follows output {}", self.highest));
        }
        match self.seen.insert(position, chain) {
            Some(before) if before != chain => return Err(format!("output {position} was seen with another history")),
            Some(_) => self.repeated += 1,
            None if position <= self.highest => return Err(format!("output {position} comes too late to be compared")),
            None => self.highest = position,
        }
        while self.seen.first_key_value().is_some_and(|(first, _)| first + KEPT < self.highest) {
            self.seen.pop_first();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_observer_sees_gaps_and_other_histories() {
        let mut observer = Observer::default();
        let output = |position, chain| Emission { position, chain };
        observer.sees(output(1, 7)).unwrap();
        observer.sees(output(2, 8)).unwrap();
        observer.sees(output(2, 8)).unwrap();
        assert_eq!((observer.highest, observer.repeated), (2, 1));
        assert!(observer.sees(output(2, 9)).unwrap_err().contains("another history"));
        assert!(observer.sees(output(4, 9)).unwrap_err().contains("follows"));
    }
}
