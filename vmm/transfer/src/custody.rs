//! The ownership record as the machine uses it, and the release of a guest that leaves for good.

use std::sync::Arc;

use ferry_machine::{Custody, DiskFile, Machine, Settle};
use ferry_migration::ownership::custody::Again;
use ferry_record::OwnRecord;

/// Asks the record whether this process may run a guest again whose disk it has released.
///
/// That is the guest of a failed switchover whose disk was locked by another process when it was to
/// be acquired again: since then that process, or a third one, may have run it.
#[derive(Debug)]
pub struct Custodian {
    own: Arc<OwnRecord>,
}

impl Custodian {
    /// Uses this record.
    #[must_use]
    pub fn new(own: Arc<OwnRecord>) -> Self {
        Custodian { own }
    }
}

impl Custody for Custodian {
    fn claim(&self, again: Again) -> Result<Settle, String> {
        self.own.claim(again).map_err(|error| ferry_observe::causes(&error))
    }
}

/// Called when the guest belongs to another process for good, or has not arrived: ends the sign at
/// its image and this process's presence at the record, so that it can be booted again. `thread` is
/// the name of the thread for the image.
pub(super) fn let_guest_go(machine: &Machine, own: Option<&OwnRecord>, thread: &str) {
    if let Some(disk) = machine.writable_disk().filter(DiskFile::leave_handover)
        && let Err(error) = machine.faults().spawn(thread, move || disk.follow_handover())
    {
        tracing::warn!(%error, "no thread to let go of the disk: no boot gets it before this process ends");
    }
    if let Some(own) = own {
        own.let_guest_go();
    }
}
