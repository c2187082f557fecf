//! The hand-overs that have ended, and of whose end the record has not been told.

use ferry_migration::ownership::Handover;

/// Hand-overs that have ended, and of which the record may tell.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) list: Vec<Handover>,
    /// The thread that tells the record; 0 is none.
    pub(super) worker: u64,
    /// Of the newest thread.
    pub(super) serial: u64,
}

impl Ended {
    /// The thread of this serial has ended.
    pub(super) fn leave(&mut self, serial: u64) {
        if self.worker == serial {
            self.worker = 0;
        }
    }
}
