//! The ways out of a protection: alone, deposed, moved.
//!
//! Once the record may name the secondary, nothing that is held is let out before the record names
//! this side without a partner. An operator's word (`Resolve`) replaces its answer, where it does
//! not come or where there is no record.

use super::{Outcome, Output, Phase, Primary, State, Survivor};
use crate::protection::Answer;
use crate::protection::message::ToSecondary;
use crate::protection::rules::Rule;
use crate::protection::timer::Timer;

impl Primary {
    /// The secondary is lost, or not to be trusted.
    pub(super) fn lost(&mut self, reason: String) -> Vec<Output> {
        match self.state {
            State::Syncing | State::First => self.unprotected(reason),
            State::Enrolling | State::Protected | State::Releasing | State::AwaitStarted => self.part(reason, false),
            // The operator ends the protection, and the secondary need not be told any more.
            State::Parting(_) if self.linked => self.close(),
            _ => Vec::new(),
        }
    }

    /// The guest has ended, or the process is about to: that is shown once the secondary cannot
    /// bring the guest back to life.
    pub(super) fn end(&mut self, reason: String) -> Vec<Output> {
        match self.state {
            State::Syncing | State::First => self.unprotected(reason),
            State::Enrolling | State::Protected | State::Releasing | State::AwaitStarted => self.part(reason, true),
            _ => Vec::new(),
        }
    }

    pub(super) fn unprotect(&mut self, reason: &str) -> Vec<Output> {
        match self.state {
            State::Syncing | State::First | State::Enrolling | State::Protected => self.end(reason.to_owned()),
            State::Releasing | State::AwaitStarted => {
                vec![Output::Refuse("a planned failover is under way: its end decides where the guest goes on")]
            }
            State::Parting(_) | State::Isolated(_) => {
                vec![Output::Refuse("the protection ends already, as soon as the ownership record answers")]
            }
            State::Idle | State::Deposing(_) | State::Done(_) => vec![Output::Refuse("the guest is not protected")],
        }
    }

    /// Ends the protection of a guest whose secondary may be enrolled. `tells`: the link is good,
    /// and the secondary is told afterwards.
    pub(super) fn part(&mut self, reason: String, tells: bool) -> Vec<Output> {
        let timers = [Timer::Commit, Timer::Epoch, Timer::Start, Timer::RetryRecord];
        let mut outputs: Vec<_> = timers.map(Output::StopTimer).into();
        if !tells {
            outputs.extend(self.close());
        }
        outputs.extend(self.in_flight.take().map(|epoch| Output::Restore { epoch }));
        if !self.rules.has(Rule::ReleasesAfterSolo) {
            outputs.push(Output::ReleaseAll);
        }
        if self.plan.has_record {
            self.state = State::Parting(reason.clone());
            outputs.extend([Output::Phase(Phase::Parting(reason)), Output::Solo]);
        } else {
            outputs.extend(self.isolated(reason));
        }
        outputs
    }

    pub(super) fn close(&mut self) -> Vec<Output> {
        self.linked = false;
        vec![Output::StopTimer(Timer::Heartbeat), Output::StopTimer(Timer::PeerSilent), Output::CloseLinks]
    }

    fn close_if_open(&mut self) -> Vec<Output> {
        if self.linked { self.close() } else { Vec::new() }
    }

    pub(super) fn soloed(&mut self, answer: Answer) -> Vec<Output> {
        let (State::Parting(reason) | State::Isolated(reason)) = &self.state else { return Vec::new() };
        let reason = reason.clone();
        match answer {
            Answer::Won => self.unprotected(reason),
            Answer::Lost => self.deposed(reason),
            Answer::Unreachable => {
                let mut outputs = vec![Output::StartTimer(Timer::RetryRecord)];
                if !self.rules.has(Rule::UnansweredSoloReleasesNothing) {
                    outputs.push(Output::ReleaseAll);
                }
                if matches!(self.state, State::Parting(_)) {
                    outputs.extend(self.isolated(reason));
                }
                outputs
            }
        }
    }

    /// The record does not answer, or there is none.
    fn isolated(&mut self, reason: String) -> Vec<Output> {
        self.state = State::Isolated(reason.clone());
        let mut outputs = self.close_if_open();
        outputs.push(Output::Phase(Phase::Isolated(reason)));
        if self.plan.stops_isolated && !self.stopped {
            outputs.push(Output::StopGuest);
        }
        outputs
    }

    pub(super) fn ask_again(&mut self) -> Vec<Output> {
        match self.state {
            State::Enrolling => vec![Output::Enrol],
            State::Isolated(_) if self.plan.has_record => vec![Output::Solo],
            _ => Vec::new(),
        }
    }

    pub(super) fn resolve(&mut self, survivor: Survivor) -> Vec<Output> {
        let State::Isolated(reason) = &self.state else {
            return vec![Output::Refuse("it is not uncertain which side goes on")];
        };
        let reason = format!("{reason}; the operator has decided");
        match survivor {
            Survivor::Primary => {
                let mut outputs = self.unprotected(reason);
                if self.plan.has_record {
                    outputs.insert(0, Output::SoloLater);
                }
                outputs
            }
            Survivor::Secondary => self.deposed(reason),
        }
    }

    /// The guest goes on here, and no other process may run it.
    pub(super) fn unprotected(&mut self, reason: String) -> Vec<Output> {
        let timers = [Timer::Commit, Timer::Epoch, Timer::RetryRecord].map(Output::StopTimer);
        let mut outputs = Vec::from(timers);
        // The greeting has announced a hand-over.
        if self.plan.has_record && matches!(self.state, State::Syncing | State::First) {
            outputs.push(Output::Settle);
        }
        outputs.extend(self.in_flight.take().map(|epoch| Output::Restore { epoch }));
        outputs.push(Output::ReleaseAll);
        outputs.extend(self.resume());
        if std::mem::take(&mut self.leaving) {
            outputs.push(Output::FailoverFailed(reason.clone()));
        }
        if self.linked {
            outputs.push(Output::Send(ToSecondary::Dismiss { reason: reason.clone() }));
            outputs.extend(self.close());
        }
        outputs.extend(self.finish(Outcome::Unprotected(reason)));
        outputs
    }

    /// The record names another process.
    fn deposed(&mut self, reason: String) -> Vec<Output> {
        let mut outputs = self.close_if_open();
        outputs.push(Output::StopTimer(Timer::RetryRecord));
        outputs.push(Output::DropOutputs);
        if !self.rules.has(Rule::LostSoloReleasesNothing) {
            outputs.push(Output::ReleaseAll);
        }
        self.state = State::Deposing(reason);
        match self.stopped {
            true => outputs.extend(self.guest_stopped()),
            false => outputs.push(Output::StopGuest),
        }
        outputs
    }

    pub(super) fn guest_stopped(&mut self) -> Vec<Output> {
        self.stopped = true;
        match &self.state {
            State::Deposing(reason) => {
                let outcome = Outcome::Deposed(reason.clone());
                let mut outputs = vec![Output::HandOver];
                outputs.extend(self.finish(outcome));
                outputs
            }
            State::Done(Outcome::Unprotected(_)) => self.resume(),
            _ => Vec::new(),
        }
    }

    pub(super) fn finish(&mut self, outcome: Outcome) -> Vec<Output> {
        self.state = State::Done(outcome.clone());
        vec![Output::Finish(outcome)]
    }
}
