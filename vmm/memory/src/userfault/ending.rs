//! Unregisters memory: when every page is here, when a failed attempt releases its pages, and when
//! the last owner drops it.

use std::sync::PoisonError;

use rustix::mm::Advice;

use super::{Faults, Phase};

impl Faults {
    /// The kernel wakes every thread that waits for a page; it repeats its access.
    pub(super) fn unwatch(&self) {
        for range in &self.ranges {
            if let Err(error) = self.uffd.unregister(range.start().cast(), range.len()) {
                tracing::debug!(%error, first = range.first_page, "a range was not watched");
            }
            // The kernel wakes threads before it removes the registration (seen on 6.18): a fault
            // in between would sleep indefinitely.
            if let Err(error) = self.uffd.wake(range.start().cast(), range.len()) {
                tracing::error!(%error, first = range.first_page, "who waits for these pages may not have been woken");
            }
            if self.memfd.is_none() {
                range.advise(Advice::LinuxHugepage);
            }
        }
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        let phase = *self.phase.get_mut().unwrap_or_else(PoisonError::into_inner);
        match (phase, self.remaining()) {
            (Phase::Armed, _) | (Phase::Running, 0) => self.unwatch(),
            (Phase::Running | Phase::GivenUp, remaining) => {
                if phase == Phase::Running {
                    tracing::error!(
                        remaining,
                        "no thread receives pages any more: the guest waits for ever for those it lacks"
                    );
                }
                // Closing the descriptor would let the guest find zeros.
                std::mem::forget((self.uffd.clone(), std::mem::take(&mut self.ranges)));
            }
            (Phase::Disarmed | Phase::Released, _) => {}
        }
    }
}
