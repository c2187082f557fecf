//! What the operator asks of a machine: go on, stop, reset, quit.
//!
//! QMP and the console call this. A wish that a hold forbids for now is remembered and fulfilled when the hold ends, here or at the
//! destination: it travels with the state and, if it comes later, with the permit. Behind that it would be lost, and is refused.

use super::error::{ExitReason, GuestFailure, MachineError};
use super::status::{Hold, ResetCause};
use super::{Machine, reset};

impl Machine {
    /// The operator's `cont`. Remembered while a hold is in place.
    ///
    /// # Errors
    /// When the guest is or was handed over or has ended, or a device cannot begin to run.
    pub fn cont(&self) -> Result<(), MachineError> {
        self.say(true)?;
        let _turn = match self.held() {
            true => return Ok(()),
            false => self.parts.control.turn.take("cont")?,
        };
        // A hold that came meanwhile remembers the wish.
        match self.held() {
            true => Ok(()),
            false => self.parts.begin().inspect_err(|_| self.parts.control.status().wants = false),
        }
    }

    /// Takes what running needs (the disk's lock) before the guest is first let run, and keeps it.
    ///
    /// # Errors
    /// The device that could not begin to run, and why: another process has its disk.
    pub fn take_resources(&self) -> Result<(), MachineError> {
        let _turn = self.parts.control.turn.take("taking the disk")?;
        self.parts.acquire()
    }

    /// The operator's `stop`. Remembered while a hold is in place.
    ///
    /// # Errors
    /// When the guest is or was handed over or has ended, or a vCPU does not stop; then it runs on.
    pub fn stop(&self) -> Result<(), MachineError> {
        self.say(false)?;
        if self.held() {
            return Ok(());
        }
        let _turn = self.parts.control.turn.take("stop")?;
        if self.parts.control.status().wants {
            return Ok(());
        }
        if let Err(error) = self.parts.control.stop() {
            self.parts.control.status().wants = true;
            return Err(error);
        }
        // Memory stands still while the guest is stopped; but while it arrives, a disk may wait for a page that nobody sends, and the
        // operator with it.
        if !self.held()
            && !self.parts.control.status().memory_arrives
            && let Err(failure) = self.parts.quiesce()
        {
            tracing::warn!(%failure, "stopped, but the device may still be writing");
        }
        Ok(())
    }

    fn say(&self, run: bool) -> Result<(), MachineError> {
        let mut status = self.parts.control.status();
        match (&status.ended, status.hold) {
            (Some(reason), _) => Err(MachineError::Ended(reason.to_string())),
            (None, Some(Hold::HandedOver)) => Err(MachineError::HandedOver),
            (None, Some(Hold::Switchover)) if status.wishes_left => Err(MachineError::Leaving),
            (None, _) => {
                (status.wants, status.said) = (run, true);
                Ok(())
            }
        }
    }

    fn held(&self) -> bool {
        self.parts.control.status().hold.is_some()
    }

    /// The operator's `system_reset`. While a hold is in place it is remembered and travels with the guest; while the guest is
    /// stopped it is carried out at once, or, if pages are missing that it would wait for, when the guest goes on.
    ///
    /// # Errors
    /// When the guest is not here or has ended, or a part cannot be reset.
    pub fn reset(&self) -> Result<(), MachineError> {
        let control = &self.parts.control;
        let (hold, wishes_left) = {
            let status = control.status();
            (status.hold, status.wishes_left)
        };
        self.check_not_ended()?;
        match hold {
            Some(Hold::Switchover) if wishes_left => return Err(MachineError::Leaving),
            Some(Hold::HandedOver) => return Err(MachineError::HandedOver),
            Some(Hold::Incoming) => return Err(MachineError::AwaitsGuest),
            Some(Hold::Switchover) | None => control.request_reset(ResetCause::Operator),
        }
        if control.status().running || hold.is_some() {
            return Ok(());
        }
        let _turn = control.turn.take("a reset")?;
        match self.held() {
            true => Ok(()),
            false => reset::carry_out_pending(&self.parts),
        }
    }

    /// The operator's `quit`: the guest stops and [`Machine::wait_exit`] returns.
    pub fn quit(&self) {
        self.quit_because("host-qmp-quit");
    }

    /// The guest cannot go on: a page that it needs will never come. It stops and [`Machine::wait_exit`] returns.
    pub fn lose_guest(&self, reason: &str) {
        self.parts.control.end(ExitReason::Failed(GuestFailure::Lost(reason.to_owned())));
    }

    /// As [`Machine::quit`], for another of QEMU's `ShutdownCause`s, for example `host-signal` or `host-ui`.
    pub fn quit_because(&self, cause: &'static str) {
        self.parts.control.end(ExitReason::Quit(cause));
    }

    /// Blocks until the guest has ended, and says why.
    #[must_use]
    pub fn wait_exit(&self) -> ExitReason {
        let status = self.parts.control.wait_until(|status| status.ended.is_some());
        status.ended.clone().unwrap_or(ExitReason::Shutdown)
    }
}
