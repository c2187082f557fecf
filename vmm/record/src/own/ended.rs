//! The hand-overs that have ended, and whose end the record may not show yet.

use ferry_migration::ownership::Handover;

/// Hand-overs that have ended, and that the record may still name.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) list: Vec<Handover>,
    /// The thread that settles the record; 0 is none.
    pub(super) worker: u64,
    /// The serial of the newest thread.
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
