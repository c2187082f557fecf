//! The parameters of a process, which an operator may change while a migration runs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use ferry_migration::Parameters;
use ferry_migration::parameters::{Capability, ParameterError};

/// The parameters in force, and the one that a page thread reads for every chunk.
#[derive(Debug, Default)]
pub struct Settings {
    parameters: Mutex<Parameters>,
    max_bandwidth: Arc<AtomicU64>,
    capabilities: [AtomicBool; Capability::ALL.len()],
}

impl Settings {
    /// A copy of all.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        self.parameters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces all.
    ///
    /// # Errors
    /// The first that is out of its range; nothing is changed then.
    pub fn set(&self, parameters: Parameters) -> Result<(), ParameterError> {
        parameters.check()?;
        self.max_bandwidth.store(parameters.max_bandwidth, Relaxed);
        *self.parameters.lock().unwrap_or_else(PoisonError::into_inner) = parameters;
        Ok(())
    }

    /// Whether a capability is on.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities[capability as usize].load(Relaxed)
    }

    /// Switches a capability on or off, for migrations that begin from now on.
    pub fn set_capability(&self, capability: Capability, on: bool) {
        self.capabilities[capability as usize].store(on, Relaxed);
    }

    /// Whether migrations may use postcopy.
    #[must_use]
    pub fn postcopy(&self) -> bool {
        self.has(Capability::PostcopyRam)
    }

    /// Whether migrations may throttle a guest that writes faster than the link carries.
    #[must_use]
    pub fn auto_converge(&self) -> bool {
        self.has(Capability::AutoConverge)
    }

    /// Bulk links of a migration that begins now.
    #[must_use]
    pub fn bulk_links(&self) -> u8 {
        if self.has(Capability::Multifd) {
            u8::try_from(self.parameters().multifd_channels).unwrap_or(u8::MAX)
        } else {
            1
        }
    }

    /// The cap on bandwidth, in bytes a second, as it changes.
    #[must_use]
    pub fn max_bandwidth(&self) -> Arc<AtomicU64> {
        self.max_bandwidth.clone()
    }
}
