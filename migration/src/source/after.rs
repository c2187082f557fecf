//! The source after the permit: the destination runs, or nobody knows, or postcopy goes on.

use super::{Drain, Outcome, Output, Owner, Source, State, TakeBack};
use crate::guards::Guard;
use crate::info::Status;
use crate::message::{Failure, Handshake, ToDestination};
use crate::timer::Timer;

const NOT_PAUSED: &str = "only a postcopy that is paused can be recovered";
const NOT_ACTIVE: &str = "only a postcopy that is active can be paused";
const NOT_UNCERTAIN: &str = "it is not uncertain who owns the guest: there is nothing to resolve";
const OUTRUN: &str = "the destination has run the guest: the memory here is old and must not run again";

impl Source {
    pub(super) fn started(&mut self) -> Vec<Output> {
        if !self.go_postcopy {
            return self.completed();
        }
        if self.link_lost && self.guards.has(Guard::StartedRemembersLink) {
            // The word came on the control link while a bulk link was gone already.
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
            // While it was uncertain who owns the guest no signs of life went.
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
        let outcome = Outcome::Stranded(format!("{reason}; the guest runs nowhere, as the handshake 'none' allows"));
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
            // The destination may have taken the record and given it back: the record must name this side before it runs.
            (State::AwaitStarted | State::TakingBack(_) | State::Uncertain(_), Handshake::Owned)
                if self.guards.has(Guard::NotStartedAsksRecord) =>
            {
                self.take_back(reason)
            }
            (State::AwaitStarted, Handshake::None) => self.strand(reason),
            _ => self.give_up(Outcome::Failed(reason)),
        }
    }

    /// The link is gone, or silent, or carried nonsense.
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
            TakeBack::Lost if !self.guards.has(Guard::TakeBackLostStaysStopped) => TakeBack::Won,
            TakeBack::Unreachable if !self.guards.has(Guard::TakeBackUnreachableStaysStopped) => TakeBack::Won,
            TakeBack::Claimed if !self.guards.has(Guard::ClaimedIsNotSettled) => TakeBack::Lost,
            result => result,
        };
        match result {
            TakeBack::Won => self.give_up(Outcome::Failed(format!("{reason}; the ownership record names this side"))),
            TakeBack::Lost => self.destination_owns(),
            // A claim may yet be given back: what this side holds is kept until the record says for good.
            TakeBack::Claimed | TakeBack::Unreachable => {
                let mut out = self.uncertain(reason);
                out.push(Output::StartTimer(Timer::RetryRecord));
                out
            }
        }
    }

    /// The record, or the operator, says that the destination has the guest, and the link is gone.
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

    pub(super) fn resolve(&mut self, owner: Owner) -> Vec<Output> {
        match (&self.state, owner) {
            // The record may be asked at this very moment: what it answers later is not heard any more.
            (State::Uncertain(reason) | State::TakingBack(reason), Owner::Source) => {
                let outcome = Outcome::Failed(format!("{reason}; the operator gave the guest to the source"));
                self.give_up(outcome)
            }
            (State::Uncertain(_), Owner::Destination) => self.destination_owns(),
            // The destination's last word was lost, or it is lost itself: an operator who has looked there ends it here.
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
