//! One operation on the machine at a time: start, stop, save, load or reset.
//!
//! A lock with a deadline and a name: loading a device may hang, and a caller that wants the
//! machine meanwhile gets [`MachineError::Busy`] in place of hanging as well.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::MachineError;

/// How long a caller waits for the lock.
const DEADLINE: Duration = Duration::from_secs(10);

/// The lock that a long operation on a machine holds.
#[derive(Debug, Default)]
pub(super) struct OperationLock {
    holder: Mutex<Option<&'static str>>,
    free: Condvar,
}

/// Holds the lock until dropped.
#[derive(Debug)]
pub(super) struct OperationGuard<'a>(&'a OperationLock);

impl OperationLock {
    /// Waits for the lock, to do what `doing` names.
    pub(super) fn take(&self, doing: &'static str) -> Result<OperationGuard<'_>, MachineError> {
        self.take_within(doing, DEADLINE)
    }

    pub(super) fn take_within(
        &self,
        doing: &'static str,
        within: Duration,
    ) -> Result<OperationGuard<'_>, MachineError> {
        let deadline = Instant::now() + within;
        let mut holder = self.lock();
        while let Some(other) = *holder {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(MachineError::Busy { doing: other });
            }
            holder = self.free.wait_timeout(holder, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *holder = Some(doing);
        Ok(OperationGuard(self))
    }

    fn lock(&self) -> MutexGuard<'_, Option<&'static str>> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OperationGuard<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
        self.0.free.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_too_long_hears_what_is_going_on() {
        let lock = OperationLock::default();
        let guard = lock.take("loading").unwrap();
        let error = lock.take_within("stopping", Duration::from_millis(1)).unwrap_err();
        assert!(matches!(error, MachineError::Busy { doing: "loading" }));
        drop(guard);
        lock.take("stopping").unwrap();
    }
}
