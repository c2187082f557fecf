//! From the suspicion, or the permit of a planned failover, to the takeover.
//!
//! Only the record decides. Everything that can fail comes before the swap: the disk, the load,
//! the first entry into the guest, whose outputs are held until the swap is won. A trial that
//! fails costs nothing: it is undone, and made again.

use super::{Outcome, Output, Phase, Secondary, Setback, State};
use crate::message::Failure;
use crate::ownership::partnership::Reading;
use crate::protection::Answer;
use crate::protection::primary::Survivor;
use crate::protection::rules::Rule;
use crate::protection::timer::Timer;

impl Secondary {
    /// The primary is lost, or not to be trusted.
    pub(super) fn lost(&mut self, reason: String) -> Vec<Output> {
        if self.suspicion.is_some() || matches!(self.state, State::Idle | State::Done(_)) {
            return Vec::new();
        }
        self.suspicion = Some(reason.clone());
        match self.state {
            // The primary cannot have enrolled this side, and has let out everything.
            State::Standby | State::Verifying if self.committed == 0 => self.failed(reason),
            State::Standby if !self.permitted => self.suspect(),
            // The permit outlives the link; a result is waited for.
            _ => self.deafen(),
        }
    }

    /// Accepts and acknowledges nothing more.
    fn deafen(&mut self) -> Vec<Output> {
        let mut outputs = vec![Output::StopTimer(Timer::Heartbeat), Output::StopTimer(Timer::PeerSilent)];
        if self.rules.has(Rule::DeafOnceSuspicious) {
            outputs.push(Output::CloseLinks);
        }
        outputs
    }

    /// Begins a takeover of its own accord. A checkpoint that is not whole is dropped.
    pub(super) fn suspect(&mut self) -> Vec<Output> {
        self.next = self.next.filter(|next| next.whole);
        self.state = State::Suspecting;
        let mut outputs = self.deafen();
        outputs.extend([Output::Phase(Phase::TakingOver(self.reason())), Output::StartTimer(Timer::HeadStart)]);
        outputs.extend(self.verify_if_ready());
        outputs
    }

    fn reason(&self) -> String {
        self.suspicion.clone().unwrap_or_else(|| "a planned failover".to_owned())
    }

    /// The head start is over, or the permit is here: asks the record once the last commit is in
    /// guest memory.
    pub(super) fn take_over_when_applied(&mut self) -> Vec<Output> {
        let begins = match self.state {
            State::Suspecting => self.head_start_over,
            State::Standby => self.permitted,
            _ => false,
        };
        if !begins || (self.applying && self.rules.has(Rule::EntersApplied)) {
            return Vec::new();
        }
        if !self.plan.has_record && !self.permitted {
            self.state = State::Isolated;
            return vec![Output::Phase(Phase::Isolated(self.reason()))];
        }
        if !self.plan.has_record {
            return self.take_disk();
        }
        self.state = State::Reading;
        vec![Output::StartTimer(Timer::KeepStale), Output::ReadRecord]
    }

    pub(super) fn read(&mut self, reading: Option<Reading>) -> Vec<Output> {
        if self.state != State::Reading {
            return Vec::new();
        }
        match reading {
            Some(Reading::Partner) => self.take_disk(),
            Some(Reading::NoPartner) if !self.rules.has(Rule::ReadsItsName) => self.take_disk(),
            Some(Reading::NoPartner) if self.last_look => {
                let reason = format!("{}; the ownership record does not name this side as partner", self.reason());
                self.superseded(reason)
            }
            Some(Reading::NoPartner) | None => vec![Output::StartTimer(Timer::RetryRecord)],
            Some(Reading::Other) => {
                let reason = format!("{}; the ownership record has the guest go on elsewhere", self.reason());
                self.superseded(reason)
            }
        }
    }

    fn take_disk(&mut self) -> Vec<Output> {
        let mut outputs = vec![Output::StopTimer(Timer::KeepStale), Output::StopTimer(Timer::RetryRecord)];
        if self.rules.has(Rule::TakesDiskFirst) {
            self.state = State::TakingDisk;
            outputs.extend([Output::StartTimer(Timer::Work), Output::TakeDisk]);
        } else {
            outputs.extend(self.begin_trial());
        }
        outputs
    }

    pub(super) fn disk_taken(&mut self, result: Result<(), Failure>) -> Vec<Output> {
        match (&self.state, result) {
            (State::TakingDisk, Ok(())) => self.begin_trial(),
            (State::TakingDisk, Err(failure)) => self.trial_failed(failure),
            // This side's part has ended meanwhile.
            (_, Ok(())) => vec![Output::UndoTrial],
            (_, Err(_)) => Vec::new(),
        }
    }

    fn begin_trial(&mut self) -> Vec<Output> {
        if !self.rules.has(Rule::TriesBeforeClaim) {
            self.state = State::Claiming;
            return vec![Output::Claim];
        }
        self.state = State::Trying;
        vec![Output::StartTimer(Timer::Work), Output::Try { epoch: self.committed }]
    }

    pub(super) fn tried(&mut self, result: Result<(), Failure>) -> Vec<Output> {
        match (&self.state, result) {
            (State::Trying, Err(failure)) => self.trial_failed(failure),
            (State::Trying, Ok(())) if self.goes_live_without_claim() => self.finish(Outcome::TookOver),
            (State::Trying, Ok(())) => {
                self.state = State::Claiming;
                let mut outputs = vec![Output::StopTimer(Timer::Work), Output::Claim];
                if !self.rules.has(Rule::TrialIsSilent) {
                    outputs.insert(0, Output::GoLive);
                }
                outputs
            }
            // This side's part has ended meanwhile.
            (_, Ok(())) => vec![Output::UndoTrial],
            (_, Err(_)) => Vec::new(),
        }
    }

    /// The permit or the operator has decided, where there is no record.
    fn goes_live_without_claim(&self) -> bool {
        let by_mistake = !self.rules.has(Rule::TakesOverByRecord) || !self.rules.has(Rule::TriesBeforeClaim);
        !self.plan.has_record || self.resolved || by_mistake
    }

    /// The trial is undone, and made again in a while; of a planned failover the primary is told.
    fn trial_failed(&mut self, failure: Failure) -> Vec<Output> {
        let mut outputs = vec![Output::StopTimer(Timer::Work), Output::UndoTrial];
        if !self.plan.has_record && !self.permitted {
            self.state = State::Isolated;
            outputs.push(Output::Phase(Phase::Isolated(format!("{}; not yet: {failure}", self.reason()))));
        } else if self.permitted && self.suspicion.is_none() {
            self.permitted = false;
            self.state = State::Reloading(Setback::NotStarted(failure));
            outputs.extend([Output::StartTimer(Timer::Work), Output::Reload { epoch: self.committed }]);
        } else {
            self.state = State::Reading;
            let text = format!("{}; not yet: {failure}", self.reason());
            outputs.extend([Output::Phase(Phase::TakingOver(text)), Output::StartTimer(Timer::RetryTrial)]);
        }
        outputs
    }

    pub(super) fn try_again(&mut self) -> Vec<Output> {
        match self.state {
            State::Reading if self.plan.has_record && !self.resolved => {
                vec![Output::StartTimer(Timer::KeepStale), Output::ReadRecord]
            }
            State::Reading => self.take_disk(),
            _ => Vec::new(),
        }
    }

    pub(super) fn claimed(&mut self, answer: Answer) -> Vec<Output> {
        if self.state != State::Claiming {
            return Vec::new();
        }
        let won = match answer {
            Answer::Won => true,
            Answer::Lost => !self.rules.has(Rule::LostTakeoverIsNone),
            Answer::Unreachable => !self.rules.has(Rule::UnansweredTakeoverIsNone),
        };
        match (won, answer) {
            (true, _) if !self.rules.has(Rule::TriesBeforeClaim) => {
                self.state = State::Trying;
                vec![Output::Try { epoch: self.committed }]
            }
            (true, _) => self.finish(Outcome::TookOver),
            (false, Answer::Unreachable) => vec![Output::StartTimer(Timer::RetryRecord)],
            (false, _) => {
                let reason = format!("{}; another process has won the ownership record", self.reason());
                self.superseded(reason)
            }
        }
    }

    pub(super) fn ask_again(&mut self) -> Vec<Output> {
        match self.state {
            State::Reading => vec![Output::ReadRecord],
            State::Claiming => vec![Output::Claim],
            _ => Vec::new(),
        }
    }

    /// A primary that had not enrolled this side when it was lost may still do so, but not for
    /// ever: the record is read once more.
    pub(super) fn kept_long_enough(&mut self) -> Vec<Output> {
        if self.state != State::Reading {
            return Vec::new();
        }
        self.last_look = true;
        vec![Output::ReadRecord]
    }

    pub(super) fn told_that_primary_is_lost(&mut self) -> Vec<Output> {
        if !self.plan.has_record {
            return vec![Output::Refuse("there is no ownership record: decide with x-ferry-resolve")];
        }
        match self.state {
            State::Idle | State::Done(_) => vec![Output::Refuse("no guest is protected here")],
            _ if self.committed == 0 => {
                vec![Output::Refuse("no checkpoint is committed yet: the guest is the primary's")]
            }
            _ => self.lost("the operator has declared the primary lost".to_owned()),
        }
    }

    /// The process has to end. A claim that is under way may succeed, and is waited for.
    pub(super) fn leave(&mut self, reason: String) -> Vec<Output> {
        match self.state {
            State::Done(_) => Vec::new(),
            State::Claiming => vec![Output::Refuse("the guest is being taken over: quit when that has ended")],
            _ => self.failed(reason),
        }
    }

    /// The operator's word replaces the record's answer, where that does not come.
    pub(super) fn resolve(&mut self, survivor: Survivor) -> Vec<Output> {
        match (&self.state, survivor) {
            (State::Isolated | State::Reading, Survivor::Secondary) => {
                self.resolved = true;
                self.take_disk()
            }
            (State::Claiming, Survivor::Secondary) => {
                self.resolved = true;
                self.finish(Outcome::TookOver)
            }
            (State::TakingDisk | State::Trying, Survivor::Secondary) => {
                self.resolved = true;
                Vec::new()
            }
            (State::Claiming, Survivor::Primary) => {
                vec![Output::Refuse("the record is being asked, and may name this side: resolve when it has answered")]
            }
            (State::Isolated | State::Reading | State::TakingDisk | State::Trying, Survivor::Primary) => {
                let reason = format!("{}; the operator has decided for the primary", self.reason());
                self.superseded(reason)
            }
            _ => vec![Output::Refuse("it is not uncertain which side goes on")],
        }
    }
}
