//! A stopped machine, as a value: data that must come from one stop is read through it.
//!
//! Device state, the last read of the dirty log and the positions of outputs belong together only
//! if no guest instruction was executed in between. They are methods of [`Stopped`], and each of
//! them is refused once the vCPUs have been let in again.

use std::io;
use std::sync::Arc;

use ferry_migration::Section;
use ferry_migration::pages::PageBitmap;
use ferry_observe::trace::OutputPosition;

use super::error::{DeviceFailure, MachineError};
use super::operation::OperationGuard;
use super::parts::Parts;
use super::status::Status;
use super::{Machine, sections};

/// A machine from the moment at which its vCPUs were out of the guest to that at which they are
/// let in again. A clone stands for the same stop.
pub struct Stopped {
    parts: Arc<Parts>,
    /// How often vCPUs had been let in by then.
    entries: u64,
    /// Its creator holds the operation lock for as long as this lives.
    in_operation: bool,
}

impl Clone for Stopped {
    fn clone(&self) -> Self {
        // A clone may outlive the lock.
        Stopped { parts: self.parts.clone(), entries: self.entries, in_operation: false }
    }
}

impl Stopped {
    /// The vCPUs are stopped, by this status.
    pub(super) fn new(parts: &Arc<Parts>, status: &Status) -> Self {
        Stopped { parts: parts.clone(), entries: status.entries, in_operation: false }
    }

    /// Drains and flushes the devices.
    ///
    /// # Errors
    /// The device that could not, and why.
    pub fn quiesce(&self) -> Result<(), DeviceFailure> {
        let _operation = self.operation("draining devices")?;
        self.parts.quiesce()
    }

    /// Releases the resources of a running guest (disk locks).
    ///
    /// # Errors
    /// The device that could not, and why.
    pub fn release_resources(&self) -> Result<(), DeviceFailure> {
        let _operation = self.operation("releasing the disk")?;
        self.parts.control.status().holds = false;
        for device in self.parts.devices().iter_mut() {
            device.release().map_err(|error| DeviceFailure::new(device.id(), error))?;
        }
        Ok(())
    }

    /// Saves everything but memory.
    ///
    /// # Errors
    /// The device that could not be saved, and why.
    pub fn save(&self) -> Result<Vec<Section>, DeviceFailure> {
        let _operation = self.operation("saving device state")?;
        sections::save(&self.parts)
    }

    /// How much the guest has put out through each device with an output stream, since this
    /// process created it.
    ///
    /// # Errors
    /// When the guest has run since, or another operation holds the machine.
    pub fn outputs(&self) -> Result<Vec<OutputPosition>, MachineError> {
        let _operation = self.operation("reading output positions")?;
        let devices = self.parts.devices();
        let outputs = devices.iter().filter_map(|device| {
            device.output_position().map(|position| OutputPosition { device: device.id().to_string(), position })
        });
        Ok(outputs.collect())
    }

    /// Adds to `into` every page that was written up to this stop and has not been harvested: as
    /// [`DirtyLog::harvest`](crate::DirtyLog::harvest). Devices write until they are drained.
    ///
    /// # Errors
    /// When the guest has run since, logging was not started or KVM refuses.
    pub fn harvest(&self, into: &mut PageBitmap) -> io::Result<()> {
        self.check().map_err(io::Error::other)?;
        self.parts.dirty_log.harvest(into)
    }

    /// The operation lock, at the same stop.
    fn operation(&self, doing: &'static str) -> Result<Option<OperationGuard<'_>>, MachineError> {
        if self.in_operation {
            return Ok(None);
        }
        let operation = self.parts.control.operation.take(doing)?;
        self.check()?;
        self.parts.control.wait_halted()?;
        Ok(Some(operation))
    }

    fn check(&self) -> Result<(), MachineError> {
        match self.parts.control.status().entries == self.entries {
            true => Ok(()),
            false => Err(MachineError::RanOn),
        }
    }
}

impl Machine {
    /// Stops the vCPUs for the shortest time that `read` takes, then lets them go on; a stopped
    /// guest stays stopped. Clients see no event.
    ///
    /// # Errors
    /// Those of `read`, or why the vCPUs could not be stopped; the guest goes on in any case.
    pub fn while_stopped<T, E: From<MachineError>>(
        &self,
        doing: &'static str,
        read: impl FnOnce(&Stopped) -> Result<T, E>,
    ) -> Result<T, E> {
        let control = &self.parts.control;
        let _operation = control.operation.take(doing)?;
        let runs = control.status().running;
        match runs {
            true => control.halt()?,
            false => self.check_not_ended()?,
        }
        let stopped = Stopped { in_operation: true, ..Stopped::new(&self.parts, &control.status()) };
        let result = read(&stopped);
        if runs {
            control.go_on()?;
            self.check_not_ended()?;
        }
        result
    }
}

impl std::fmt::Debug for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stopped").field("name", &self.parts.name).field("entries", &self.entries).finish()
    }
}
