//! What a migration's two sides must mean alike: what the guest boots, and the file behind its
//! disk.

use std::io;
use std::sync::{Arc, PoisonError};

use ferry_devices::one_call::OneCall;
use ferry_devices::{Handle, Storage};
use ferry_migration::identity::Boot;
use ferry_migration::ownership::Handover;

use super::Machine;

/// A machine's writable disk, as far as its file goes. It outlives the machine where storage
/// hangs.
#[derive(Clone)]
pub struct DiskFile {
    instance: u32,
    device: Arc<dyn Handle>,
    calls: DiskCalls,
}

/// What migrations ask of the image's storage, which may hang: each one at a time.
#[derive(Clone, Default)]
pub(super) struct DiskCalls {
    prove: OneCall,
    look: OneCall,
}

/// A nonce that the file of a disk shows until this is dropped.
pub struct DiskProof {
    disk: DiskFile,
    nonce: u64,
}

impl Machine {
    /// What the guest boots at its next reset.
    #[must_use]
    pub fn boot_identity(&self) -> Boot {
        self.parts.boot.identity()
    }

    /// A guest arrives with this command line; one of an older source with none, and then that of
    /// this process counts.
    pub fn set_command_line(&self, arrived: Option<String>) {
        self.parts.boot.set_command_line(arrived);
    }

    /// A guest arrives that has come through these announced hand-overs, this one included.
    pub fn set_came_through(&self, through: Vec<Handover>) {
        *self.parts.came_through.lock().unwrap_or_else(PoisonError::into_inner) = through;
    }

    /// Through which announced hand-overs the guest has come here; a guest that booted here
    /// through none.
    #[must_use]
    pub fn came_through(&self) -> Vec<Handover> {
        self.parts.came_through.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The disk, if there is one and the guest may write to it.
    #[must_use]
    pub fn writable_disk(&self) -> Option<DiskFile> {
        let is_writable = |handle: &dyn Handle| handle.storage().is_some_and(|storage| !storage.is_read_only());
        let (id, device) = self.parts.handles.iter().find(|(_, handle)| is_writable(&**handle))?;
        Some(DiskFile { instance: id.instance, device: device.clone(), calls: self.parts.disk_calls.clone() })
    }
}

impl DiskFile {
    fn storage(&self) -> &dyn Storage {
        self.device.storage().expect("a device keeps its storage")
    }

    /// Which `virtio-blk` it is.
    #[must_use]
    pub fn instance(&self) -> u32 {
        self.instance
    }

    /// Where the image was opened, for people.
    #[must_use]
    pub fn path(&self) -> String {
        self.storage().path().display().to_string()
    }

    /// Proofs of this disk: from the call that shows one until it is given back.
    #[must_use]
    pub fn proving(&self) -> &OneCall {
        &self.calls.prove
    }

    /// Looks for the source's proof in this disk.
    #[must_use]
    pub fn looking(&self) -> &OneCall {
        &self.calls.look
    }

    /// Lets the destination find `nonce` in this file, if it has opened the same. May wait for
    /// storage.
    ///
    /// # Errors
    /// When the file system gives no lock.
    pub fn prove(&self, nonce: u64) -> io::Result<DiskProof> {
        self.storage().show_proof(nonce)?;
        Ok(DiskProof { disk: self.clone(), nonce })
    }

    /// The guest is about to come: from the next [`DiskFile::follow_handover`] on boots of the image
    /// are kept away, by any path and with any record. Asks no storage.
    pub fn expect_handover(&self) {
        self.storage().expect_handover();
    }

    /// The guest is another process's for good, or has not come: no boot is kept away any more from
    /// the next [`DiskFile::follow_handover`] on. Whether one is until then. Asks no storage.
    #[must_use]
    pub fn leave_handover(&self) -> bool {
        self.storage().leave_handover()
    }

    /// Carries out the newest of the two. May wait for storage.
    pub fn follow_handover(&self) {
        self.storage().follow_handover();
    }

    /// Whether the source shows `nonce` in this very file. May wait for storage.
    ///
    /// # Errors
    /// When the file system does not say which locks there are.
    pub fn sees(&self, nonce: u64) -> io::Result<bool> {
        self.storage().sees_proof(nonce)
    }
}

impl DiskProof {
    /// The nonce that is shown.
    #[must_use]
    pub fn nonce(&self) -> u64 {
        self.nonce
    }
}

impl Drop for DiskProof {
    fn drop(&mut self) {
        if let Err(error) = self.disk.storage().end_proof(self.nonce) {
            tracing::warn!(%error, image = self.disk.path(), "the lock that proves the disk is still held; it is in no guest's way");
        }
    }
}

impl std::fmt::Debug for DiskFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("DiskFile").field(&self.path()).finish()
    }
}

impl std::fmt::Debug for DiskProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskProof").field("disk", &self.disk).finish()
    }
}
