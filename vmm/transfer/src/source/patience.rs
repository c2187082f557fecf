//! How long the threads that send pages wait for a link that takes nothing, and for rounds that do
//! not end.
//!
//! The page sender and the driver share one [`Patience`]. A link may be slow: only one on which
//! nothing moves is given up.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ferry_link::silent;

/// The limits that an operator sets.
#[derive(Debug)]
pub(crate) struct Patience {
    silence: Duration,
    /// Added while a destination loads, which takes no page until its memory is armed.
    load: Duration,
    loading: AtomicBool,
    limit: Mutex<Option<Limit>>,
}

/// When precopy must end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    /// No round goes on after it.
    pub at: Instant,
    /// It ends in a failure: a write that is under way is aborted.
    pub fails: bool,
}

impl Patience {
    /// Links may be silent for `silence`, and for `load` more while the destination arms its
    /// memory.
    #[must_use]
    pub(crate) fn new(silence: Duration, load: Duration) -> Self {
        Patience { silence, load, loading: AtomicBool::new(false), limit: Mutex::default() }
    }

    /// How long a link may be silent.
    #[must_use]
    pub(crate) fn silence(&self) -> Duration {
        self.silence + if self.loading.load(Relaxed) { self.load } else { Duration::ZERO }
    }

    /// Sets whether the destination loads the state of a guest that comes by postcopy.
    pub(crate) fn set_loading(&self, loading: bool) {
        self.loading.store(loading, Relaxed);
    }

    /// Sets when the rounds from now on must have ended.
    pub(crate) fn set_limit(&self, limit: Option<Limit>) {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner) = limit;
    }

    /// The limit, once its time has come.
    #[must_use]
    pub(crate) fn over(&self) -> Option<Limit> {
        let limit = *self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        limit.filter(|limit| limit.at <= Instant::now())
    }

    /// Judges a link on which nothing has moved for `quiet`, with bytes to write.
    ///
    /// # Errors
    /// It is given up; `Interrupted` when that is because of the limit.
    pub(crate) fn judge(&self, quiet: Duration) -> io::Result<()> {
        if self.over().is_some_and(|limit| limit.fails) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let allowed = self.silence();
        if quiet >= allowed { Err(silent(allowed)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_destination_that_loads_may_take_longer() {
        let patience = Patience::new(SECOND, SECOND * 3);
        assert!(patience.judge(SECOND / 2).is_ok());
        assert_eq!(patience.judge(SECOND).unwrap_err().kind(), io::ErrorKind::TimedOut);
        patience.set_loading(true);
        assert!(patience.judge(SECOND * 2).is_ok());
        assert!(patience.judge(SECOND * 4).is_err());
        patience.set_loading(false);
        assert!(patience.judge(SECOND).is_err());
    }

    #[test]
    fn a_limit_that_fails_ends_a_write_and_one_that_switches_does_not() {
        let patience = Patience::new(SECOND, SECOND);
        patience.set_limit(Some(Limit { at: Instant::now() + SECOND * 1000, fails: true }));
        assert!(patience.over().is_none() && patience.judge(Duration::ZERO).is_ok());
        patience.set_limit(Some(Limit { at: Instant::now(), fails: false }));
        assert!(patience.over().is_some() && patience.judge(Duration::ZERO).is_ok());
        patience.set_limit(Some(Limit { at: Instant::now(), fails: true }));
        assert_eq!(patience.judge(Duration::ZERO).unwrap_err().kind(), io::ErrorKind::Interrupted);
        patience.set_limit(None);
        assert!(patience.over().is_none());
    }
}
