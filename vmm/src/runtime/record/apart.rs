//! What is asked of storage on threads that nothing waits for.

use std::io;
use std::sync::Arc;

use ferry_devices::fault::FaultControl;

use super::OwnRecord;
use crate::machine::{DiskFile, Machine};

/// Most threads that ask the record for migrations at a time. One migration has three at most; the
/// others belong to earlier ones, which storage that hangs has outlived.
const MOST: usize = 8;

impl OwnRecord {
    /// Asks the record on a thread of its own, named `thread`.
    ///
    /// # Errors
    /// When the host gives no thread, or [`MOST`] threads still wait for the record.
    pub(in crate::runtime) fn ask_apart(
        &self,
        faults: &FaultControl,
        thread: &str,
        ask: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let asking = self.asking.clone();
        // This one, and the record's own.
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
        crate::runtime::spawn(faults, thread, ask).map(drop)
    }

    /// The guest is another process's for good, or has not come: its stay has ended.
    fn let_guest_go(&self) {
        let sign = self.backend.end_presence();
        // Without a thread it goes here.
        let _ = std::thread::Builder::new().name("ferry-record".into()).spawn(move || drop(sign));
    }
}

/// The guest is another process's for good, or has not come: this process keeps no boot of it away
/// any more, by the sign at its image and by its presence at the record. `thread` is the name of
/// the thread for the image.
pub fn let_guest_go(machine: &Machine, own: Option<&OwnRecord>, thread: &str) {
    if let Some(disk) = machine.writable_disk().filter(DiskFile::leave_handover)
        && let Err(error) = crate::runtime::spawn(machine.faults(), thread, move || disk.follow_handover())
    {
        tracing::warn!(%error, "no thread to let go of the disk: no boot gets it before this process ends");
    }
    if let Some(own) = own {
        own.let_guest_go();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use ferry_devices::fault::Direction;
    use ferry_record::file::FileRecord;

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
