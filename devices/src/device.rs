//! What every emulated device offers the machine: an identity, saved state, and a life around a
//! pause.
//!
//! The machine calls these from its own thread, always with the vCPUs stopped; a device never sees
//! `save` or `load` at the same time as a guest access.

use std::fmt;

/// Names one device of a machine: the kind and which of that kind, as it stands in saved state and
/// in error messages.
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

/// A device could not give its state.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The device was told to fail, by the fault device or a test.
    #[error("told to fail in save")]
    Injected,
    /// The state could not be encoded or read; the text says what and why.
    #[error("{0}")]
    Failed(String),
}

/// A device refused a saved state, or could not take it.
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
    /// A field lies outside what the device allows.
    #[error("{field} = {value}: {allowed}")]
    OutOfBounds {
        /// The field of the saved state.
        field: &'static str,
        /// The value found, as text.
        value: String,
        /// What would have been accepted.
        allowed: String,
    },
    /// The device was told to fail, by the fault device or a test; the text names the step (`load`
    /// or `post_load`).
    #[error("told to fail in {0}")]
    Injected(&'static str),
    /// The state is fine but this host cannot provide it (a feature, a file); the text says what
    /// and why.
    #[error("{0}")]
    Host(String),
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

    /// Encodes the state that another instance needs to go on. Changes nothing that the guest can
    /// see.
    fn save(&mut self) -> Result<Vec<u8>, SaveError>;

    /// Takes a state that `save` wrote, checking every field against the device's own limits.
    fn load(&mut self, version: u32, payload: &[u8]) -> Result<(), LoadError>;

    /// Does what must wait until all devices are loaded (checks across devices, guest memory, host
    /// resources).
    fn post_load(&mut self) -> Result<(), LoadError> {
        Ok(())
    }

    /// Waits until nothing is in flight and everything acknowledged to the guest is durable. The
    /// vCPUs are stopped.
    fn quiesce(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    /// Lets go of what only a running guest may hold (the disk's lock), after `quiesce`.
    fn release(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    /// Back to power-on state, for a reset of the whole machine; the vCPUs are stopped. What only
    /// a running guest may hold stays held, and background work that was running goes on.
    fn reset(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    /// Takes what a guest that may run must hold (the disk's lock). Touches neither guest memory
    /// nor the disk's contents, so a guest that arrives stopped stays as it came.
    fn acquire(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    /// Starts background work, after `acquire`. The vCPUs start right after this.
    fn resume(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
