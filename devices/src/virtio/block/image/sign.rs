//! The sign of a hand-over at an image: whether this process is to show it, and whether it does.
//!
//! The wanted state changes at once, on a thread that must not wait for storage. The lock that
//! shows the sign ([`super::lock`]) follows, on a thread that may wait. So a call that storage
//! delays beyond the end of its migration does not show a sign that is unwanted by then, nor remove
//! one that the next migration wants.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

#[derive(Debug)]
pub(super) struct Sign {
    wanted: AtomicBool,
    /// Whether the lock is held; unknown after a call that failed.
    shown: Mutex<Option<bool>>,
}

impl Sign {
    pub(super) fn new() -> Self {
        Sign { wanted: AtomicBool::new(false), shown: Mutex::new(Some(false)) }
    }

    /// Sets whether the sign is to be shown, and returns the value before. [`Sign::follow`] applies
    /// it.
    pub(super) fn want(&self, wanted: bool) -> bool {
        self.wanted.swap(wanted, SeqCst)
    }

    /// Applies the wanted state: `set` takes or releases the lock. May wait for storage.
    pub(super) fn follow(&self, mut set: impl FnMut(bool) -> io::Result<()>) -> io::Result<()> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let wanted = self.wanted.load(SeqCst);
            if *shown == Some(wanted) {
                return Ok(());
            }
            // A call that fails may have had part of its effect.
            *shown = None;
            set(wanted)?;
            *shown = Some(wanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "it stands in for a call that can fail")]
    fn note(done: &mut Vec<bool>, show: bool) -> io::Result<()> {
        done.push(show);
        Ok(())
    }

    #[test]
    fn a_call_that_comes_late_does_what_is_wanted_by_then() {
        let sign = Sign::new();
        let mut done = Vec::new();
        assert!(!sign.want(true));
        // The migration ends before its call comes to the storage.
        assert!(sign.want(false));
        sign.follow(|show| note(&mut done, show)).unwrap();
        assert!(done.is_empty());
        // It ends while the call is in the storage's hands.
        sign.want(true);
        sign.follow(|show| {
            sign.want(false);
            note(&mut done, show)
        })
        .unwrap();
        assert_eq!(done, [true, false]);
        // The next one begins before the end of this one has come to the storage.
        sign.want(true);
        sign.follow(|show| note(&mut done, show)).unwrap();
        sign.want(false);
        sign.want(true);
        sign.follow(|_| panic!("it is shown as it is wanted")).unwrap();
    }

    #[test]
    fn after_a_call_that_failed_the_next_one_sets_what_is_wanted() {
        for [failed, next] in [[true, true], [true, false], [false, true], [false, false]] {
            let sign = Sign { wanted: AtomicBool::new(failed), shown: Mutex::new(Some(!failed)) };
            sign.follow(|_| Err(io::ErrorKind::Other.into())).unwrap_err();
            sign.want(next);
            let mut done = Vec::new();
            sign.follow(|show| note(&mut done, show)).unwrap();
            assert_eq!(done, [next]);
        }
    }
}
