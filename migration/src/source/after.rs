//! The source after the permit: the destination runs, or that is uncertain, or postcopy goes on.

use super::{Drain, Outcome, Output, Owner, Resolution, Source, State, TakeBack};
use crate::guards::Guard;
use crate::info::Status;
use crate::message::{Failure, Handshake, ToDestination};
use crate::timer::Timer;

const NOT_PAUSED: &str = "only a postcopy that is paused can be recovered";
const NOT_ACTIVE: &str = "only a postcopy that is active can be paused";
const NOT_UNCERTAIN: &str = "it is not uncertain who owns the guest: there is nothing to resolve";
const NAMES_ANOTHER: &str = "the ownership record names another process, which may have run the guest since: what this side holds is too old to \
                             run. 'ferry status' names that process; if it has ended, boot the guest from its disk";
const IS_CLAIMED: &str = "the ownership record names the destination, which may have run the guest. If its log says that it never did, say so: \
                          'never-ran': true, or --never-ran";
const IS_UNREACHABLE: &str = "the ownership record cannot be reached, and it may name the destination. Bring its storage back, and the record decides; \
                              or, if the destination's log says that it never ran the guest, say so: 'never-ran': true, or --never-ran";
const IS_KEPT: &str =
    "the ownership record has just given the guest to this side, and the destination can no longer run it";
const IS_ASKED: &str = "the ownership record is being asked already, as an operator wanted: try again in 2 seconds";
const HAS_STARTED: &str = "the destination has just said that it runs the guest";
const NOT_STARTED: &str = "the destination has just said that it did not start the guest, which runs here again";
const OUTRUN: &str = "the destination has run the guest: the memory here is old and must not run again";

impl Source {
    pub(super) fn started(&mut self) -> Vec<Output> {
        let mut out: Vec<Output> = self.answer_operator(Owner::Destination).into_iter().collect();
        out.extend(self.runs_there());
        out
    }

    fn runs_there(&mut self) -> Vec<Output> {
        if !self.go_postcopy {
            return self.completed();
        }
        if self.link_lost && self.guards.has(Guard::StartedRemembersLink) {
            // `Started` arrived on the control link after a bulk link was lost.
            return self.destination_owns();
        }
        self.state = State::Active(Drain::Sending);
        let mut out = vec![
            Output::StopTimer(Timer::Start),
            Output::HandOver,
            Output::Status(Status::PostcopyActive),
            Output::StartTimer(Timer::PeerSilent),
        ];
        if self.guards.has(Guard::BeatsAfterUncertainty) {
            // No heartbeats were sent while it was uncertain which side owns the guest.
            out.push(Output::StartTimer(Timer::Heartbeat));
        }
        out
    }

    pub(super) fn completed(&mut self) -> Vec<Output> {
        self.state = State::Done(Outcome::Completed);
        vec![
            Output::HandOver,
            Output::CloseLinks,
            Output::Status(Status::Completed),
            Output::Finish(Outcome::Completed),
        ]
    }

    pub(super) fn strand(&mut self, reason: String) -> Vec<Output> {
        self.fail_without_guest(Outcome::Stranded(format!(
            "{reason}; the guest runs nowhere, as the handshake 'none' allows"
        )))
    }

    /// The migration has failed, and the guest's state on this side must never run.
    fn fail_without_guest(&mut self, outcome: Outcome) -> Vec<Output> {
        self.state = State::Done(outcome.clone());
        vec![
            Output::Interrupt,
            Output::HandOver,
            Output::CloseLinks,
            Output::Status(Status::Failed),
            Output::Finish(outcome),
        ]
    }

    pub(super) fn not_started(&mut self, failure: Failure) -> Vec<Output> {
        let reason = format!("the destination did not start the guest: {failure}");
        match (&self.state, self.plan.handshake) {
            // The destination may have claimed the guest and given it back: the record must name
            // this side before it runs.
            (State::AwaitStarted | State::TakingBack(_) | State::Uncertain(_), Handshake::Owned)
                if self.guards.has(Guard::NotStartedAsksRecord) =>
            {
                self.take_back(reason)
            }
            (State::AwaitStarted, Handshake::None) => self.strand(reason),
            _ => {
                let mut out: Vec<Output> = self.answer_operator(Owner::Source).into_iter().collect();
                out.extend(self.give_up(Outcome::Failed(reason)));
                out
            }
        }
    }

    /// The link is lost or silent, or carried invalid data.
    pub(super) fn lost(&mut self, reason: String) -> Vec<Output> {
        match &self.state {
            State::AwaitStarted if !self.guards.has(Guard::StaysStoppedAfterPermit) => {
                self.give_up(Outcome::Failed(reason))
            }
            State::AwaitStarted => match self.plan.handshake {
                Handshake::Owned => self.take_back(reason),
                Handshake::None => self.strand(reason),
                Handshake::Pong | Handshake::Setup => self.uncertain(reason),
            },
            State::Active(_) if !self.guards.has(Guard::LinkEndIsNotDrained) => self.completed(),
            State::Active(drain) | State::Recovering(drain) => {
                self.state = State::Paused(*drain);
                vec![
                    Output::StopTimer(Timer::PeerSilent),
                    Output::StopTimer(Timer::Recover),
                    Output::Interrupt,
                    Output::CloseLinks,
                    Output::Status(Status::PostcopyPaused),
                ]
            }
            State::Idle
            | State::TakingBack(_)
            | State::Uncertain(_)
            | State::Paused(_)
            | State::Winding(_)
            | State::Resuming(_)
            | State::Done(_) => vec![],
            _ => {
                let doing = self.doing();
                self.give_up(Outcome::Failed(format!("{reason} ({doing})")))
            }
        }
    }

    fn uncertain(&mut self, reason: String) -> Vec<Output> {
        self.state = State::Uncertain(reason);
        vec![Output::StopTimer(Timer::Start), Output::Status(Status::Uncertain)]
    }

    fn take_back(&mut self, reason: String) -> Vec<Output> {
        self.state = State::TakingBack(reason);
        vec![Output::StopTimer(Timer::Start), Output::TakeBack]
    }

    pub(super) fn took_back(&mut self, result: TakeBack) -> Vec<Output> {
        let State::TakingBack(reason) = &self.state else { return vec![] };
        let reason = reason.clone();
        let result = match result {
            TakeBack::Lost | TakeBack::Taken if !self.guards.has(Guard::TakeBackLostStaysStopped) => TakeBack::Won,
            TakeBack::Unreachable if !self.guards.has(Guard::TakeBackUnreachableStaysStopped) => TakeBack::Won,
            TakeBack::Claimed if !self.guards.has(Guard::ClaimedIsNotSettled) => TakeBack::Lost,
            result => result,
        };
        let asked = self.asked.take();
        let (answer, mut then) = match (result, asked.map(|asked| asked.owner)) {
            (TakeBack::Won, asked) => {
                let outcome = Outcome::Failed(format!("{reason}; the ownership record names this side"));
                let answer = if asked == Some(Owner::Destination) { Err(IS_KEPT) } else { Ok(()) };
                (answer, self.give_up(outcome))
            }
            (TakeBack::Lost, asked) => {
                let answer = if asked == Some(Owner::Source) { Err(NAMES_ANOTHER) } else { Ok(()) };
                (answer, self.destination_owns())
            }
            (TakeBack::Taken, asked) => {
                let answer = if asked.is_some() { Err(NAMES_ANOTHER) } else { Ok(()) };
                (answer, self.taken(&reason))
            }
            (_, Some(Owner::Destination)) => (Ok(()), self.destination_owns()),
            (_, Some(Owner::Source)) if asked.is_some_and(|asked| asked.never_ran) => (Ok(()), self.kept_by(reason)),
            // A claimed guest may still be given back: this side keeps its state until the record
            // is settled.
            (TakeBack::Claimed, _) => (Err(IS_CLAIMED), self.ask_again(reason)),
            (TakeBack::Unreachable, _) => (Err(IS_UNREACHABLE), self.ask_again(reason)),
        };
        if asked.is_some() {
            then.insert(0, Output::Resolved(answer));
        }
        then
    }

    fn ask_again(&mut self, reason: String) -> Vec<Output> {
        let mut out = self.uncertain(reason);
        out.push(Output::StartTimer(Timer::RetryRecord));
        out
    }

    /// The operator has given the guest to this side.
    fn kept_by(&mut self, reason: String) -> Vec<Output> {
        self.give_up(Outcome::Failed(format!("{reason}; the operator gave the guest to the source")))
    }

    /// A third process has booted the guest: the state on this side is obsolete.
    fn taken(&mut self, reason: &str) -> Vec<Output> {
        self.fail_without_guest(Outcome::Failed(format!("{reason}; {NAMES_ANOTHER}")))
    }

    /// The record, or the operator, has given the guest to the destination, and the link is lost.
    fn destination_owns(&mut self) -> Vec<Output> {
        if !self.go_postcopy {
            return self.completed();
        }
        self.state = State::Paused(Drain::Sending);
        vec![
            Output::StopTimer(Timer::Start),
            Output::HandOver,
            Output::Interrupt,
            Output::CloseLinks,
            Output::Status(Status::PostcopyPaused),
        ]
    }

    pub(super) fn resolve(&mut self, resolution: Resolution) -> Vec<Output> {
        let asks = self.plan.has_record && self.guards.has(Guard::ResolveAsksRecord);
        match (&self.state, resolution.owner) {
            (State::TakingBack(_) | State::Uncertain(_), _) if self.asked.is_some() => {
                vec![Output::Refuse(IS_ASKED)]
            }
            // The record is being asked: its answer comes first.
            (State::TakingBack(_), _) if asks => {
                self.asked = Some(resolution);
                vec![]
            }
            (State::Uncertain(reason), Owner::Source) if asks => {
                let reason = reason.clone();
                self.asked = Some(resolution);
                self.take_back(reason)
            }
            (State::Uncertain(reason) | State::TakingBack(reason), Owner::Source) => {
                let reason = reason.clone();
                self.kept_by(reason)
            }
            (State::Uncertain(_) | State::TakingBack(_), Owner::Destination) => self.destination_owns(),
            // `DrainedAck` or the destination itself was lost: an operator who has checked the
            // destination ends the migration here.
            (State::Paused(_), Owner::Destination) => self.completed(),
            (State::Active(_) | State::Recovering(_), Owner::Source) => vec![Output::Refuse(OUTRUN)],
            (State::Paused(_), Owner::Source) if self.guards.has(Guard::PausedNeverResolvesToSource) => {
                vec![Output::Refuse(OUTRUN)]
            }
            (State::Paused(_), Owner::Source) => {
                self.resume(Outcome::Failed("the operator gave the guest to the source".to_owned()))
            }
            _ => vec![Output::Refuse(NOT_UNCERTAIN)],
        }
    }

    /// The destination's message has arrived before the record's answer, and answers the waiting
    /// operator.
    pub(super) fn answer_operator(&mut self, owner: Owner) -> Option<Output> {
        let asked = self.asked.take()?;
        let otherwise = if owner == Owner::Destination { HAS_STARTED } else { NOT_STARTED };
        Some(Output::Resolved(if asked.owner == owner { Ok(()) } else { Err(otherwise) }))
    }

    pub(super) fn all_sent(&mut self) -> Vec<Output> {
        match self.state {
            State::Active(Drain::Sending) if !self.guards.has(Guard::SentIsNotReceived) => self.completed(),
            State::Active(Drain::Sending) => {
                self.state = State::Active(Drain::AwaitAck);
                vec![Output::Send(ToDestination::Drained)]
            }
            _ => vec![],
        }
    }

    pub(super) fn pause(&mut self) -> Vec<Output> {
        match self.state {
            State::Active(_) | State::Recovering(_) => self.lost("paused by the operator".into()),
            _ => vec![Output::Refuse(NOT_ACTIVE)],
        }
    }

    pub(super) fn recover(&mut self) -> Vec<Output> {
        match self.state {
            State::Paused(drain) => {
                self.state = State::Recovering(drain);
                vec![Output::Status(Status::PostcopyRecover), Output::StartTimer(Timer::Recover), Output::Connect]
            }
            _ => vec![Output::Refuse(NOT_PAUSED)],
        }
    }

    pub(super) fn recovered(&mut self) -> Vec<Output> {
        self.state = State::Active(Drain::Sending);
        vec![
            Output::StopTimer(Timer::Recover),
            Output::StartTimer(Timer::Heartbeat),
            Output::Status(Status::PostcopyActive),
            Output::ServeMissingPages,
        ]
    }
}
