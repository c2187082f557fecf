//! Every way back to a guest that runs on the source.

use super::{Outcome, Output, Source, State};
use crate::guards::Guard;
use crate::info::Status;
use crate::message::{Failure, ToDestination};

const TOO_LATE: &str = "the destination has been permitted to run the guest: the migration can no longer be cancelled";

impl Source {
    pub(super) fn cancel(&mut self) -> Vec<Output> {
        match self.state {
            _ if self.permit_may_be_out() && self.guards.has(Guard::RefusesLateCancel) => {
                vec![Output::Refuse(TOO_LATE)]
            }
            State::Idle | State::Winding(_) | State::Resuming(_) | State::Done(_) => vec![],
            _ => {
                let mut out = vec![Output::Status(Status::Cancelling)];
                out.extend(self.give_up(Outcome::Cancelled));
                out
            }
        }
    }

    /// Ends a migration whose guest belongs to the source, from wherever it stands.
    pub(super) fn give_up(&mut self, outcome: Outcome) -> Vec<Output> {
        let mut out = vec![Output::Interrupt];
        out.extend(self.farewell(&outcome));
        out.push(Output::CloseLinks);
        match self.state {
            State::Stopping | State::Saving if self.guards.has(Guard::WindingWaits) => {
                self.state = State::Winding(outcome);
            }
            State::Stopping | State::Saving => out.extend(self.resume(outcome)),
            State::LastPages | State::AwaitReady | State::AwaitStarted | State::TakingBack(_) | State::Uncertain(_) => {
                out.extend(self.resume(outcome))
            }
            _ => out.extend(self.finish(outcome, true)),
        }
        out
    }

    /// The same, when stopping or saving the guest has just ended.
    pub(super) fn give_up_stopped(&mut self, outcome: Outcome) -> Vec<Output> {
        let mut out = vec![Output::Interrupt];
        out.extend(self.farewell(&outcome));
        out.push(Output::CloseLinks);
        out.extend(self.resume(outcome));
        out
    }

    fn farewell(&self, outcome: &Outcome) -> Option<Output> {
        let reason = match outcome {
            Outcome::Failed(reason) => format!("the source gave up: {reason}"),
            _ => "the migration was cancelled at the source".to_owned(),
        };
        (self.state != State::Connecting).then_some(Output::Send(ToDestination::Cancel { reason }))
    }

    pub(super) fn resume(&mut self, outcome: Outcome) -> Vec<Output> {
        self.state = State::Resuming(outcome);
        vec![Output::ResumeGuest]
    }

    pub(super) fn resumed(&mut self, result: Result<(), Failure>) -> Vec<Output> {
        let State::Resuming(outcome) = &self.state else { return vec![] };
        let held = result.is_ok();
        let outcome = match (outcome.clone(), result) {
            (outcome, Ok(())) => outcome,
            (Outcome::Failed(reason), Err(failure)) => {
                Outcome::Failed(format!("{reason}; and the guest stays stopped here: {failure}"))
            }
            (_, Err(failure)) => Outcome::Failed(format!("cancelled, but the guest stays stopped here: {failure}")),
        };
        self.finish(outcome, held)
    }

    /// Ends a migration whose guest is here. `held`: so is its disk. Otherwise the guest stays
    /// stopped without its disk's lock, still with its newest state, and the record stays
    /// unsettled.
    fn finish(&mut self, outcome: Outcome, held: bool) -> Vec<Output> {
        let status = if outcome == Outcome::Cancelled { Status::Cancelled } else { Status::Failed };
        self.state = State::Done(outcome.clone());
        let mut out = vec![Output::Status(status)];
        if self.plan.has_record && (held || !self.guards.has(Guard::SettlesOnlyWhatItHolds)) {
            out.push(Output::Settle);
        }
        out.push(Output::Finish(outcome));
        out
    }
}
