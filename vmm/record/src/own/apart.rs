//! Calls to storage on threads that are not joined.

use std::io;
use std::sync::Arc;

use ferry_devices::fault::FaultControl;

use super::call::THREAD;
use super::process::OwnRecord;

/// Most threads that call the record for migrations at a time. One migration has three at most; the
/// others are left from earlier migrations, because storage hangs.
const MOST: usize = 8;

impl OwnRecord {
    /// Runs `ask`, a call to the record, on a thread of its own, named `thread`.
    ///
    /// # Errors
    /// When the host cannot start a thread, or [`MOST`] threads still wait for the record.
    pub fn ask_apart(
        &self,
        faults: &FaultControl,
        thread: &str,
        ask: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let asking = self.asking.clone();
        // Two references are not a thread's: this one, and the record's own.
        if Arc::strong_count(&asking) > MOST + 1 {
            return Err(io::Error::other(format!(
                "{MOST} earlier calls still wait for the storage of {}: see what keeps it",
                self.place()
            )));
        }
        let ask = move || {
            ask();
            drop(asking);
        };
        faults.spawn(thread, ask).map(drop)
    }

    /// The guest belongs to another process for good, or has not arrived: ends its stay. Does not
    /// wait for storage.
    pub fn let_guest_go(&self) {
        let sign = self.backend.end_presence();
        // Without a thread the sign is dropped here.
        let _ = std::thread::Builder::new().name(THREAD.into()).spawn(move || drop(sign));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use crate::file::FileRecord;
    use ferry_devices::fault::Direction;

    use super::*;

    #[test]
    fn while_storage_hangs_only_so_many_threads_wait_for_it() {
        let faults = Arc::new(FaultControl::new(Direction::Outgoing));
        let file = FileRecord::new("/nowhere".into(), Duration::ZERO, faults.clone());
        let own = OwnRecord::new(Arc::new(file), "vm").unwrap();
        let ask = |ask: Box<dyn FnOnce() + Send>| own.ask_apart(&faults, "ferry-src-record", ask);
        let hang: Vec<_> = (0..MOST)
            .map(|_| {
                let (go_on, hangs) = channel::<()>();
                ask(Box::new(move || assert!(hangs.recv().is_err(), "it is only dropped"))).unwrap();
                go_on
            })
            .collect();
        let error = ask(Box::new(|| panic!("it is not asked"))).unwrap_err();
        assert!(error.to_string().contains("8 earlier calls"), "{error}");
        drop(hang);
        let until = Instant::now() + Duration::from_secs(60);
        while ask(Box::new(|| {})).is_err() {
            assert!(Instant::now() < until, "their threads have ended");
            std::thread::yield_now();
        }
    }
}
