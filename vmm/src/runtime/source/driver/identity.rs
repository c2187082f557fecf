//! What the source says of itself that the destination must mean alike, and the proof of its disk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferry_migration::Identity;
use ferry_migration::identity::{Disk, DiskFile, nonce_of};
use ferry_migration::parameters::DiskSharing;

use super::Driver;
use crate::machine::{self, DiskProof};

/// The proof of a disk, from when the control link is opened to the destination's first answer.
#[derive(Clone, Debug)]
pub(super) struct Proof {
    sharing: DiskSharing,
    shown: Arc<Mutex<Option<DiskProof>>>,
}

impl Proof {
    /// None yet; by the operator's word there may be none to give.
    pub(super) fn new(sharing: DiskSharing) -> Self {
        Proof { sharing, shown: Arc::default() }
    }

    /// Shows it. May wait for storage.
    pub(super) fn begin(&self, disk: &machine::DiskFile, migration_id: u128) {
        if self.sharing == DiskSharing::Copied {
            return;
        }
        match disk.prove(nonce_of(migration_id)) {
            Ok(proof) => *self.shown() = Some(proof),
            Err(error) => {
                tracing::warn!(%error, image = disk.path(), "no lock can be put on the image as a proof for the destination");
            }
        }
    }

    /// It is needed no more.
    pub(super) fn end(&self) {
        drop(self.shown().take());
    }

    fn file(&self) -> DiskFile {
        match (self.sharing, &*self.shown()) {
            (DiskSharing::Copied, _) => DiskFile::Copied,
            (DiskSharing::Shared, Some(proof)) => DiskFile::Locked { nonce: proof.nonce() },
            (DiskSharing::Shared, None) => DiskFile::Unproven,
        }
    }

    fn shown(&self) -> MutexGuard<'_, Option<DiskProof>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Driver {
    /// What follows the greeting.
    pub(super) fn identity(&self) -> Identity {
        let disk = self.machine.writable_disk();
        let disks = disk.map(|disk| Disk { instance: disk.instance(), file: self.proof.file() });
        Identity { boot: self.machine.boot_identity(), disks: disks.into_iter().collect() }
    }
}
