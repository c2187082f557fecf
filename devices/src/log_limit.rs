//! Keeps a guest from filling the log: warnings that it can cause at will pass at most once a
//! second.
//!
//! Devices call [`LogLimit::pass`] before they warn about an error of a driver.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);

/// Lets one message a second through and counts the others.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    last: Mutex<Option<(Instant, u64)>>,
}

impl LogLimit {
    /// Whether a message may be logged now; if so, how many were held back since the last.
    pub(crate) fn pass(&self) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match &mut *last {
            Some((at, held_back)) if now.duration_since(*at) < INTERVAL => {
                *held_back += 1;
                None
            }
            last => Some(last.replace((now, 0)).map_or(0, |(_, held_back)| held_back)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_passes_and_a_burst_is_counted() {
        let limit = LogLimit::default();
        assert_eq!(limit.pass(), Some(0));
        assert_eq!(limit.pass(), None);
        assert_eq!(limit.pass(), None);
        limit.last.lock().unwrap().as_mut().unwrap().0 -= INTERVAL;
        assert_eq!(limit.pass(), Some(2));
    }
}
