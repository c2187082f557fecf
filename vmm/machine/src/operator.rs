//! The operator's commands: `cont`, `stop`, `system_reset`, `quit`.
//!
//! QMP and the console call this. During a hold, a command is recorded and carried out when the
//! hold ends, here or at the destination: it travels with the state or, if it comes later, with the
//! permit. After the permit it would be lost, and is refused.

use super::error::{ExitReason, GuestFailure, MachineError};
use super::operation::OperationGuard;
use super::status::{Hold, ResetCause};
use super::{Machine, reset};

impl Machine {
    /// The operator's `cont`. Only recorded while a hold is in place.
    ///
    /// # Errors
    /// When the guest is or was handed over or has ended, a device cannot begin to run, or another
    /// process may have run the guest since its disk was released here. The guest and the requested
    /// run state then do not change.
    pub fn cont(&self) -> Result<(), MachineError> {
        self.carry_out(true, "cont", |_| self.parts.begin())
    }

    /// Acquires the guest's resources (its disk's lock) before its first start, and keeps them.
    ///
    /// # Errors
    /// The device that could not begin to run, and why: another process has its disk.
    pub fn take_resources(&self) -> Result<(), MachineError> {
        let _operation = self.parts.control.operation.take("taking the disk")?;
        self.parts.acquire()
    }

    /// The operator's `stop`. Only recorded while a hold is in place.
    ///
    /// # Errors
    /// When the guest is or was handed over or has ended, or a vCPU does not stop. The guest and
    /// the requested run state then do not change.
    pub fn stop(&self) -> Result<(), MachineError> {
        self.carry_out(false, "stop", |_| self.halt_for_operator())
    }

    fn halt_for_operator(&self) -> Result<(), MachineError> {
        self.parts.control.stop()?;
        // Draining keeps memory unchanged while the guest is stopped; but while pages arrive, a
        // disk may wait for one that no source sends, and would block the operator.
        if !self.parts.control.status().memory_arrives
            && let Err(failure) = self.parts.quiesce()
        {
            tracing::warn!(%failure, "stopped, but the device may still be writing");
        }
        Ok(())
    }

    /// Carries out a command. Under a hold it is only recorded, and the end of the hold carries it
    /// out. Otherwise the operation lock comes first: a command that is refused because the
    /// machine is busy is not recorded.
    fn carry_out(
        &self,
        run: bool,
        doing: &'static str,
        act: impl FnOnce(&OperationGuard<'_>) -> Result<(), MachineError>,
    ) -> Result<(), MachineError> {
        if self.note_under_hold(run)? {
            return Ok(());
        }
        let operation = self.parts.control.operation.take(doing)?;
        // Under a hold that began meanwhile the command is recorded.
        if self.note_under_hold(run)? {
            return Ok(());
        }
        let before = {
            let mut status = self.parts.control.status();
            let before = (status.wants, status.commanded);
            (status.wants, status.commanded) = (run, true);
            before
        };
        act(&operation).inspect_err(|_| {
            let mut status = self.parts.control.status();
            (status.wants, status.commanded) = before;
        })
    }

    /// Records the command if a hold is in place; returns whether one is.
    fn note_under_hold(&self, run: bool) -> Result<bool, MachineError> {
        let mut status = self.parts.control.status();
        match (&status.ended, status.hold) {
            (Some(reason), _) => Err(MachineError::Ended(reason.to_string())),
            (None, Some(Hold::HandedOver)) => Err(MachineError::HandedOver),
            (None, Some(Hold::Switchover)) if status.requests_sent => Err(MachineError::Leaving),
            (None, Some(_)) => {
                (status.wants, status.commanded) = (run, true);
                Ok(true)
            }
            (None, None) => Ok(false),
        }
    }

    fn held(&self) -> bool {
        self.parts.control.status().hold.is_some()
    }

    /// The operator's `system_reset`. While a hold is in place it is recorded and travels with the
    /// guest; while the guest is stopped it is carried out at once. While pages of the guest are
    /// missing it waits: until every page is here and the guest is to run.
    ///
    /// # Errors
    /// When the guest is not here or has ended, or a part cannot be reset.
    pub fn reset(&self) -> Result<(), MachineError> {
        let control = &self.parts.control;
        let (hold, requests_sent) = {
            let status = control.status();
            (status.hold, status.requests_sent)
        };
        self.check_not_ended()?;
        match hold {
            Some(Hold::Switchover) if requests_sent => return Err(MachineError::Leaving),
            Some(Hold::HandedOver) => return Err(MachineError::HandedOver),
            Some(Hold::Incoming) => return Err(MachineError::AwaitsGuest),
            Some(Hold::Switchover) | None => {}
        }
        if control.status().running || hold.is_some() {
            control.request_reset(ResetCause::Operator);
            return Ok(());
        }
        // The lock comes first: a reset that is refused because the machine is busy must not
        // happen later.
        let _operation = control.operation.take("a reset")?;
        let asked_before = control.status().reset.is_some();
        control.request_reset(ResetCause::Operator);
        match self.held() {
            true => Ok(()),
            false => reset::carry_out_pending(&self.parts).inspect_err(|_| {
                if !asked_before {
                    control.status().reset = None;
                }
            }),
        }
    }

    /// The operator's `quit`: the guest stops and [`Machine::wait_exit`] returns.
    pub fn quit(&self) {
        self.quit_because("host-qmp-quit");
    }

    /// The guest cannot go on: a page that it needs will never come. It stops and
    /// [`Machine::wait_exit`] returns.
    pub fn lose_guest(&self, reason: &str) {
        self.parts.control.end(ExitReason::Failed(GuestFailure::Lost(reason.to_owned())));
    }

    /// As [`Machine::quit`], for another of QEMU's `ShutdownCause`s, for example `host-signal` or
    /// `host-ui`.
    pub fn quit_because(&self, cause: &'static str) {
        self.parts.control.end(ExitReason::Quit(cause));
    }

    /// Whether the guest has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.parts.control.status().ended.is_some()
    }

    /// Blocks until the guest has ended, and returns why.
    #[must_use]
    pub fn wait_exit(&self) -> ExitReason {
        let status = self.parts.control.wait_until(|status| status.ended.is_some());
        status.ended.clone().unwrap_or(ExitReason::Shutdown)
    }
}
