//! Counts the changes of the record that go on in the background, so that the end of the process
//! can wait for them.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The changes that are not written yet.
#[derive(Debug, Default)]
pub(super) struct Background {
    open: Mutex<u32>,
    changed: Condvar,
}

/// One of them, until dropped.
pub(super) struct Open(Arc<Background>);

impl Background {
    pub(super) fn begin(self: &Arc<Self>) -> Open {
        self.change(|open| *open += 1);
        Open(self.clone())
    }

    /// Waits up to `within` until there is none; returns whether there is none.
    pub(super) fn wait_none(&self, within: Duration) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(open, within, |open| *open > 0);
        let (open, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *open == 0
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> u32 {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut u32)) {
        change(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.change(|open| *open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_waits_for_what_is_open_and_not_for_ever() {
        let background = Arc::<Background>::default();
        let (first, second) = (background.begin(), background.begin());
        assert!(!background.wait_none(Duration::from_millis(1)), "it went on at the deadline");
        let ends = std::thread::spawn(move || drop((first, second)));
        assert!(background.wait_none(Duration::from_secs(60)));
        ends.join().unwrap();
    }
}
