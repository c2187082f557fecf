//! A planned failover, and the guest that is left stopped for it.
//!
//! The last checkpoint leaves the guest stopped. Once it is committed the disk is released, then
//! the permit is sent. If the failover does not happen, the guest runs here again only with its
//! disk.

use super::{Disk, Outcome, Output, Phase, Primary, State};
use crate::message::Failure;
use crate::protection::message::ToSecondary;
use crate::protection::timer::Timer;

impl Primary {
    pub(super) fn failover(&mut self) -> Vec<Output> {
        if self.leaving && matches!(self.state, State::Protected | State::Releasing | State::AwaitStarted) {
            return vec![Output::Refuse("a planned failover is under way already")];
        }
        if self.state != State::Protected {
            return vec![Output::Refuse("the guest is not protected: there is no secondary to move it to")];
        }
        if self.stopped {
            return vec![Output::Refuse(
                "the guest waits for its disk after a planned failover that failed: try again when it runs",
            )];
        }
        self.leaving = true;
        self.capture_if_due()
    }

    /// A planned failover does not happen: the guest goes on here, protected.
    pub(super) fn stay(&mut self, reason: String) -> Vec<Output> {
        self.leaving = false;
        let mut outputs = self.resume();
        outputs.extend([Output::StartTimer(Timer::Epoch), Output::FailoverFailed(reason)]);
        outputs
    }

    /// The disk is released, or stays held: the secondary may take over, or not.
    pub(super) fn disk_released(&mut self, result: Result<(), Failure>) -> Vec<Output> {
        self.disk = if result.is_ok() { Disk::Released } else { Disk::Held };
        match (&self.state, result) {
            (State::Releasing, Ok(())) => {
                self.state = State::AwaitStarted;
                vec![Output::Send(ToSecondary::Permit { generation: self.plan.generation })]
            }
            (State::Releasing, Err(failure)) => {
                self.state = State::Protected;
                let mut outputs = vec![Output::StopTimer(Timer::Start)];
                outputs.extend(self.stay(failure.to_string()));
                outputs
            }
            (State::Done(Outcome::Unprotected(_)), _) => self.resume(),
            _ => Vec::new(),
        }
    }

    /// Lets a guest run that was left stopped: with its disk, which may have been released.
    pub(super) fn resume(&mut self) -> Vec<Output> {
        match self.disk {
            _ if !self.stopped => Vec::new(),
            // Its answer comes back here.
            Disk::Releasing => Vec::new(),
            Disk::Released => vec![Output::TakeDisk],
            Disk::Held => {
                self.stopped = false;
                vec![Output::ResumeGuest]
            }
        }
    }

    /// The disk is held again, or the secondary has not released it yet.
    pub(super) fn disk_taken(&mut self, result: Result<(), Failure>) -> Vec<Output> {
        match result {
            Ok(()) => {
                self.disk = Disk::Held;
                let mut outputs = self.resume();
                outputs.extend(self.capture_if_due());
                outputs
            }
            Err(failure) => {
                vec![Output::Phase(Phase::AwaitsDisk(failure.to_string())), Output::StartTimer(Timer::RetryDisk)]
            }
        }
    }

    /// The secondary runs the guest, as planned.
    pub(super) fn moved(&mut self) -> Vec<Output> {
        let mut outputs = vec![Output::StopTimer(Timer::Start)];
        outputs.extend(self.close());
        outputs.extend([Output::DropOutputs, Output::HandOver]);
        outputs.extend(self.finish(Outcome::Moved));
        outputs
    }
}
