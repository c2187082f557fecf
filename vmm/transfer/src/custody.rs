//! The ownership record as the machine asks it, and the guest that leaves this process for good.

use std::sync::Arc;

use ferry_machine::{Custody, DiskFile, Machine, Settle};
use ferry_migration::ownership::custody::Again;
use ferry_record::OwnRecord;

/// The record's word on whether this process may run again a guest whose disk it has let go of.
///
/// That is the guest of a failed switchover whose disk was locked by another process when it was
/// to be taken back: since then that process, or a third one, may have run it.
#[derive(Debug)]
pub struct Custodian {
    own: Arc<OwnRecord>,
}

impl Custodian {
    /// By this record.
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

/// The guest is another process's for good, or has not come: this process keeps no boot of it away
/// any more, by the sign at its image and by its presence at the record. `thread` is the name of
/// the thread for the image.
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
