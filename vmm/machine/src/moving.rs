//! A migration's operations on a machine: hold, save, load, release.
//!
//! The drivers call this. [`Machine::hold`] leaves the guest stopped, and [`Machine::release_hold`]
//! ends that; on error, the guest is as it was before.

use std::time::Instant;

use ferry_devices::fault::Direction;
use ferry_migration::Section;
use ferry_migration::guards::Guards;
use ferry_migration::ownership::custody::{self, Again};

use super::error::{DeviceFailure, MachineError};
use super::status::Hold;
use super::stopped::Stopped;
use super::{Machine, operation, sections};

impl Machine {
    /// Stops the vCPUs (returns when none is in KVM_RUN) and keeps them stopped. A switchover's
    /// hold may become [`Hold::HandedOver`]. Ends throttling. The result reads the machine at this
    /// stop.
    ///
    /// # Errors
    /// When the guest has ended or belongs to another process, or a vCPU does not stop. Only an
    /// earlier hold then remains.
    pub fn hold(&self, hold: Hold) -> Result<Stopped, MachineError> {
        let control = &self.parts.control;
        if hold == Hold::HandedOver
            && let Some(stopped) = self.hand_over_stopped()
        {
            return Ok(stopped);
        }
        let _operation = control.operation.take("stopping the guest")?;
        let before = {
            let mut status = control.status();
            match (status.hold, hold) {
                (Some(Hold::HandedOver), Hold::HandedOver) => return Ok(Stopped::new(&self.parts, &status)),
                (Some(Hold::HandedOver), _) => return Err(MachineError::HandedOver),
                (Some(Hold::Incoming), Hold::Switchover) => return Err(MachineError::AwaitsGuest),
                _ => {}
            }
            status.hold.replace(hold)
        };
        let stopped = control.stop();
        self.end_throttle();
        let mut status = control.status();
        let result = match (stopped, &status.ended) {
            (Err(error), _) => Err(error),
            // A hand-over succeeds even if the guest has ended by itself.
            (Ok(()), Some(reason)) if hold != Hold::HandedOver => Err(MachineError::Ended(reason.to_string())),
            (Ok(()), _) => Ok(()),
        };
        if result.is_err() {
            status.hold = before;
        }
        result.map(|()| Stopped::new(&self.parts, &status))
    }

    /// Hands over a guest that the switchover has stopped, without the operation lock: no thread
    /// that holds it may delay it.
    fn hand_over_stopped(&self) -> Option<Stopped> {
        let mut status = self.parts.control.status();
        let stopped = status.hold == Some(Hold::Switchover) && !status.running;
        stopped.then(|| {
            status.hold = Some(Hold::HandedOver);
            Stopped::new(&self.parts, &status)
        })
    }

    /// As [`Machine::release_hold_if`], for a guest without a record.
    ///
    /// # Errors
    /// As there.
    pub fn release_hold(&self) -> Result<(), MachineError> {
        self.release_hold_if(|| Ok(()))
    }

    /// Ends the hold: acquires the guest's resources (its disk's lock) and, if the operator wants
    /// it and `allowed` agrees, runs the guest; returns once the vCPUs are entering `KVM_RUN`. From
    /// then on a guest that arrived is this process's own. `allowed` is called with the disk held.
    ///
    /// # Errors
    /// When the guest belongs to another process, or a device cannot begin to run (its disk is
    /// locked by another process). The hold then stays. If the guest fails to start after its disk
    /// was acquired, the disk is released, also if it was held before: the sign of a hand-over is
    /// shown at it.
    pub fn release_hold_if(&self, allowed: impl FnOnce() -> Result<(), String>) -> Result<(), MachineError> {
        let control = &self.parts.control;
        let _operation = control.operation.take("starting the guest")?;
        let before = control.status().hold;
        if before == Some(Hold::HandedOver) {
            return Err(MachineError::HandedOver);
        }
        let arrives = before == Some(Hold::Incoming);
        let guest = arrives.then(|| self.parts.describe_guest());
        self.parts.acquire_patiently()?;
        allowed().map_err(MachineError::NotOurs).inspect_err(|_| self.parts.give_up_resources())?;
        // The guest of a second migration, whose disk was released in the first.
        let claim = self.parts.claim(Again::Resume).inspect_err(|_| self.parts.give_up_resources())?;
        {
            let mut status = control.status();
            // Handed over while the disk was being locked.
            if status.hold != before {
                drop(status);
                self.parts.give_up_resources();
                return Err(MachineError::HandedOver);
            }
            // A guest that arrived has run, if not here.
            status.ever_ran |= arrives;
            if arrives {
                self.parts.keep_description(guest);
            }
            (status.hold, status.requests_sent) = (None, false);
        }
        if let Err(error) = self.parts.run_if_wanted() {
            let mut status = control.status();
            status.hold = before;
            if arrives {
                self.parts.keep_description(None);
            }
            drop(status);
            self.parts.give_up_resources();
            return Err(error);
        }
        self.parts.has_its_disk(claim);
        self.parts.faults.set_direction(Direction::Outgoing);
        Ok(())
    }

    /// When the first vCPU entered `KVM_RUN` after the guest was last started, if one has.
    #[must_use]
    pub fn first_entry(&self) -> Option<Instant> {
        self.parts.control.gate.first_in()
    }

    /// Ends a switchover's hold without running the guest, when [`Machine::release_hold`] could
    /// not: it stays stopped until the operator's `cont`, which tries again to acquire its
    /// resources, and claims the guest by [`Custody`](super::Custody) before it runs.
    pub fn leave_stopped(&self) {
        let mut status = self.parts.control.status();
        if status.hold == Some(Hold::Switchover) {
            (status.hold, status.requests_sent, status.wants) = (None, false, false);
            status.let_go = true;
        }
    }

    /// Whether the record may be settled when a migration of the guest has ended here: not until a
    /// disk that was released in a switchover has been acquired again.
    #[must_use]
    pub fn may_settle(&self) -> bool {
        custody::may_settle(self.parts.control.status().let_go, Guards::all())
    }

    /// Saves everything but memory between two guest instructions.
    ///
    /// # Errors
    /// The device that could not be saved, and why; the guest goes on in any case.
    pub fn snapshot(&self) -> Result<Vec<Section>, DeviceFailure> {
        self.while_stopped("saving device state", Stopped::save)
    }

    /// Loads and post_loads everything but memory. vCPUs stopped. Repeatable.
    ///
    /// # Errors
    /// The device that could not be loaded, and why. The machine can then be loaded again, but not
    /// run.
    pub fn load(&self, sections: &[Section]) -> Result<(), DeviceFailure> {
        let _operation = self.stopped("loading device state")?;
        sections::load(&self.parts, sections)
    }

    /// Makes KVM write the deferred part of a load to guest memory, which must be the guest's own;
    /// without this, the start does it. vCPUs stopped.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn complete_load(&self) -> Result<(), MachineError> {
        let _operation = self.stopped("setting the guest's clocks")?;
        self.parts.complete_load()
    }

    /// The operation lock, with the vCPUs stopped.
    fn stopped(&self, doing: &'static str) -> Result<operation::OperationGuard<'_>, MachineError> {
        let control = &self.parts.control;
        let operation = control.operation.take(doing)?;
        if control.status().running {
            return Err(MachineError::Busy { doing: "running the guest, which must be stopped first" });
        }
        control.wait_halted()?;
        Ok(operation)
    }

    /// For a destination that runs the guest while pages are missing: from now on, and until the
    /// last is here, a vCPU may block in KVM where no signal reaches it. Such a guest can still be
    /// stopped, but a reset, which needs all vCPUs out of KVM, waits.
    pub fn set_memory_arrives(&self, arrives: bool) {
        self.parts.control.status().memory_arrives = arrives;
        // A reset may have waited for the last page.
        self.parts.control.notify();
    }

    pub(super) fn check_not_ended(&self) -> Result<(), MachineError> {
        match &self.parts.control.status().ended {
            Some(reason) => Err(MachineError::Ended(reason.to_string())),
            None => Ok(()),
        }
    }

    /// For a source that sends the permit: the requested run state and reset, which may have
    /// changed since the state was saved. From here on a command would come too late for the
    /// destination, and is refused until the switchover has ended.
    #[must_use]
    pub fn final_requests(&self) -> Vec<u8> {
        let mut status = self.parts.control.status();
        status.requests_sent = status.hold == Some(Hold::Switchover);
        drop(status);
        sections::requests(&self.parts).expect("requests are plain data")
    }

    /// For a destination that has the permit: adopts what the source's operator has requested; a
    /// `cont` or `stop` of this process's operator overrides it.
    ///
    /// # Errors
    /// When the bytes do not decode.
    pub fn adopt_requests(&self, bytes: &[u8]) -> Result<(), postcard::Error> {
        sections::adopt_requests(&self.parts, bytes)
    }
}
