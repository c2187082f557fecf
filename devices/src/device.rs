//! The interface of every emulated device to the machine: identity, saved state, and the calls
//! around a pause.
//!
//! The machine calls these from its own thread, always with the vCPUs stopped; a device never sees
//! `save` or `load` at the same time as a guest access.

use std::path::Path;
use std::sync::Arc;
use std::{fmt, io};

/// Identifies one device of a machine by kind and instance, in saved state and in error messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId {
    /// The kind, in lower case, for example `virtio-blk`.
    pub name: &'static str,
    /// Counts from 0 among devices of the same kind.
    pub instance: u32,
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.instance)
    }
}

/// A device could not save its state.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The fault device or a test made the step fail.
    #[error("told to fail in save")]
    Injected,
    /// The state could not be encoded or read; the text says what and why.
    #[error("{0}")]
    Failed(String),
}

/// A device refused a saved state, or could not load it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The saved state has a version that this build does not read.
    #[error("state version {found} is not supported: this build reads {supported}")]
    Version {
        /// The version that the state carries.
        found: u32,
        /// The newest version that this device reads.
        supported: u32,
    },
    /// The bytes do not decode as this device's state.
    #[error("state does not decode: {0}")]
    Malformed(String),
    /// A field is outside the device's limits.
    #[error("{field} = {value}: {allowed}")]
    OutOfBounds {
        /// The field of the saved state.
        field: &'static str,
        /// The value found, as text.
        value: String,
        /// The values that are accepted.
        allowed: String,
    },
    /// The fault device or a test made the step fail; the text names the step (`load` or
    /// `post_load`).
    #[error("told to fail in {0}")]
    Injected(&'static str),
    /// The state is fine but this host cannot provide it (a feature, a file); the text says what
    /// and why.
    #[error("{0}")]
    Host(String),
}

/// What a device offers its guest, as far as the two sides of a migration must agree on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Feature bits (virtio 1.2 §2.2); 0 for a device without any.
    pub features: u64,
    /// Capacity in bytes, for a storage device.
    pub capacity: Option<u64>,
    /// The guest may only read the storage.
    pub read_only: bool,
}

/// Storage that other processes may open, too: the file, and the locks by which they see this
/// process's use of it.
///
/// Methods that may wait for storage are documented so; the others do not wait.
pub trait Storage: Send + Sync {
    /// The path at which it was opened.
    fn path(&self) -> &Path;

    /// The guest may only read it.
    fn is_read_only(&self) -> bool;

    /// Begins to make the guest's writes so far durable, so that a pause soon after has less to do.
    /// A failure is reported at the pause.
    fn flush_ahead(&self);

    /// For a source: shows `nonce` to a destination that has opened the same file, until
    /// [`Storage::end_proof`]. May wait for storage.
    ///
    /// # Errors
    /// When the file system grants no lock, or another process has locked the whole file.
    fn show_proof(&self, nonce: u64) -> io::Result<()>;

    /// Ends what [`Storage::show_proof`] began. May wait for storage.
    ///
    /// # Errors
    /// When the file system cannot release the lock.
    fn end_proof(&self, nonce: u64) -> io::Result<()>;

    /// For a destination: whether a source shows `nonce` in this very file. May wait for storage.
    ///
    /// # Errors
    /// When the file system cannot report its locks.
    fn sees_proof(&self, nonce: u64) -> io::Result<bool>;

    /// For a destination: a guest is about to arrive. From the next [`Storage::follow_handover`]
    /// on, boots from this file are refused, by any path and with any record, until this process
    /// has its lock, or [`Storage::leave_handover`].
    fn expect_handover(&self);

    /// The guest belongs to another process for good, or has not arrived: from the next
    /// [`Storage::follow_handover`] on this process blocks no boot. Returns whether it was to block
    /// boots until now.
    fn leave_handover(&self) -> bool;

    /// Carries out the latest of the two calls. May wait for storage.
    fn follow_handover(&self);
}

/// Operations on a device that are possible at all times, also while another thread loads, saves or
/// pauses it.
pub trait Handle: Send + Sync {
    /// Makes a [`Device::quiesce`] that waits fail at once: the pause is no longer wanted. Later
    /// ones are not affected.
    fn interrupt_pause(&self);

    /// Storage that other processes may open, too, if the device has some.
    fn storage(&self) -> Option<&dyn Storage>;
}

/// An emulated device, as the machine sees it when it saves, loads, pauses or resumes.
///
/// Loading is `load` then `post_load`, on a stopped guest. Both are repeatable: a device may be
/// loaded again and again, from different states, and only the last one counts. A failed load
/// leaves the device safe to load again, not to run.
pub trait Device: Send {
    /// Which device this is.
    fn id(&self) -> DeviceId;

    /// The version of the state that [`Device::save`] writes.
    fn state_version(&self) -> u32;

    /// The device's offer to its guest; after a load, the offer with which the guest booted.
    fn offer(&self) -> Offer {
        Offer::default()
    }

    /// The operations that are possible at all times; `None` if there are none.
    fn handle(&self) -> Option<Arc<dyn Handle>> {
        None
    }

    /// How much the guest has put out through this device since this process created it (a serial
    /// port: bytes that were not dropped); `None` for a device without an output stream.
    fn output_position(&self) -> Option<u64> {
        None
    }

    /// Encodes the state that another instance needs to go on. Changes nothing that the guest can
    /// see.
    fn save(&mut self) -> Result<Vec<u8>, SaveError>;

    /// Loads a state that `save` wrote, checking every field against the device's own limits.
    fn load(&mut self, version: u32, payload: &[u8]) -> Result<(), LoadError>;

    /// Completes the load when all devices are loaded (checks across devices, guest memory, host
    /// resources).
    fn post_load(&mut self) -> Result<(), LoadError> {
        Ok(())
    }

    /// Waits until nothing is in flight and everything acknowledged to the guest is durable. The
    /// vCPUs are stopped.
    fn quiesce(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Releases the resources that only a running guest may hold (the disk's lock), after
    /// `quiesce`.
    fn release(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Back to power-on state, for a reset of the whole machine; the vCPUs are stopped. The
    /// resources of a running guest stay held, and background work goes on.
    fn reset(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Acquires the resources that a guest must hold to run (the disk's lock). Touches neither
    /// guest memory nor the disk's contents, so a guest that arrives stopped stays unchanged.
    fn acquire(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Starts background work, after `acquire`. The vCPUs start right after this.
    fn resume(&mut self) -> io::Result<()> {
        Ok(())
    }
}
