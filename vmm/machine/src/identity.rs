//! Identities that must be equal on the two sides of a migration: those of the guest's boot images
//! and of the file behind its disk.

use std::io;
use std::sync::{Arc, PoisonError};

use ferry_devices::one_call::OneCall;
use ferry_devices::{Handle, Storage};
use ferry_migration::identity::Boot;
use ferry_migration::ownership::Handover;

use super::Machine;

/// The file behind a machine's writable disk. It outlives the machine if storage hangs.
#[derive(Clone)]
pub struct DiskFile {
    instance: u32,
    device: Arc<dyn Handle>,
    calls: DiskCalls,
}

/// Calls of migrations to the image's storage, which may hang: one of each kind at a time.
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
    /// The images and command line that the guest boots at its next reset.
    #[must_use]
    pub fn boot_identity(&self) -> Boot {
        self.parts.boot.identity()
    }

    /// Sets the command line of an arriving guest; `None`, from an older source, keeps that of this
    /// process.
    pub fn set_command_line(&self, arrived: Option<String>) {
        self.parts.boot.set_command_line(arrived);
    }

    /// Sets the announced hand-overs that an arriving guest has gone through, this one included.
    pub fn set_came_through(&self, through: Vec<Handover>) {
        *self.parts.came_through.lock().unwrap_or_else(PoisonError::into_inner) = through;
    }

    /// The announced hand-overs that the guest has gone through; none if it booted here.
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

    /// The path at which the image was opened, for messages.
    #[must_use]
    pub fn path(&self) -> String {
        self.storage().path().display().to_string()
    }

    /// The call that shows a proof of this disk, under way until the proof is released.
    #[must_use]
    pub fn proving(&self) -> &OneCall {
        &self.calls.prove
    }

    /// The call that looks for the source's proof in this disk.
    #[must_use]
    pub fn looking(&self) -> &OneCall {
        &self.calls.look
    }

    /// Shows `nonce` at this file, to a destination that has opened the same file. May wait for
    /// storage.
    ///
    /// # Errors
    /// When the file system gives no lock.
    pub fn prove(&self, nonce: u64) -> io::Result<DiskProof> {
        self.storage().show_proof(nonce)?;
        Ok(DiskProof { disk: self.clone(), nonce })
    }

    /// Called before the guest arrives: from the next [`DiskFile::follow_handover`] on the image
    /// refuses boots, by any path and with any record. Does not access storage.
    pub fn expect_handover(&self) {
        self.storage().expect_handover();
    }

    /// Called when the guest belongs to another process for good, or has not arrived: the image
    /// allows boots again from the next [`DiskFile::follow_handover`] on. Returns whether it
    /// refuses them until then. Does not access storage.
    #[must_use]
    pub fn leave_handover(&self) -> bool {
        self.storage().leave_handover()
    }

    /// Carries out the later of these two calls. May wait for storage.
    pub fn follow_handover(&self) {
        self.storage().follow_handover();
    }

    /// Whether the source shows `nonce` in this very file. May wait for storage.
    ///
    /// # Errors
    /// When the file system does not report its locks.
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
