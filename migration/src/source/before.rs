//! The source while its guest runs: connecting, comparing, rounds, rehearsal.

use super::{Input, Outcome, Output, Source, State};
use crate::convergence::Decision;
use crate::guards::Guard;
use crate::info::Status;
use crate::message::{Failure, Handshake, PROTOCOL_VERSION, ToDestination};
use crate::timer::Timer;

const NO_POSTCOPY: &str =
    "postcopy is not allowed for this migration: set the capability postcopy-ram before it begins";
const NOT_NOW: &str = "the migration is past its rounds: postcopy can no longer be started";

impl Source {
    pub(super) fn connected(&mut self) -> Vec<Output> {
        match self.state {
            State::Connecting if self.announces() => {
                self.state = State::Proving;
                vec![Output::WriteNonce]
            }
            State::Connecting => self.hello(),
            State::Recovering(_) => {
                self.link_lost = false;
                let generation = self.plan.generation;
                vec![Output::Send(ToDestination::Recover { generation }), Output::StartTimer(Timer::Recover)]
            }
            _ => vec![],
        }
    }

    /// With every handshake, a process that boots the guest must find out that its newest state
    /// may be in a process which is stopped and holds no lock.
    fn announces(&self) -> bool {
        let owned = self.plan.handshake == Handshake::Owned;
        self.plan.has_record && (owned || self.guards.has(Guard::EveryHandshakeAnnounces))
    }

    pub(super) fn nonce_written(&mut self, result: Result<(), String>) -> Vec<Output> {
        match (&self.state, result) {
            (State::Proving, Ok(())) => self.hello(),
            (State::Proving, Err(reason)) => {
                self.give_up(Outcome::Failed(format!("the ownership record could not be written: {reason}")))
            }
            _ => vec![],
        }
    }

    fn hello(&mut self) -> Vec<Output> {
        self.state = State::AwaitHelloAck;
        vec![Output::Send(ToDestination::Hello {
            version: PROTOCOL_VERSION,
            generation: self.plan.generation,
            postcopy: self.plan.postcopy,
            handshake: self.plan.handshake,
        })]
    }

    pub(super) fn hello_ack(&mut self, record_shared: bool) -> Vec<Output> {
        let falls_back = self.guards.has(Guard::UnsharedRecordIsNone);
        if self.plan.handshake == Handshake::Owned && !record_shared && falls_back {
            if self.plan.insist_on_record {
                return self.give_up(Outcome::Failed(
                    "the destination does not see, or cannot read, this side's ownership record: the destination's log says \
                     which; give both the same file with --ownership file:PATH"
                        .to_owned(),
                ));
            }
            self.plan.handshake = Handshake::Setup;
        }
        self.state = State::Rounds;
        let mut out = vec![
            Output::StopTimer(Timer::Setup),
            Output::StartTimer(Timer::Heartbeat),
            Output::Handshake(self.plan.handshake),
            Output::Status(Status::Active),
            Output::SendRound,
        ];
        if self.go_postcopy {
            // Requested while the link was being opened: the first round only begins the dirty log.
            out.push(Output::EndRound);
        }
        out
    }

    pub(super) fn start_postcopy(&mut self) -> Vec<Output> {
        if !self.plan.postcopy {
            return vec![Output::Refuse(NO_POSTCOPY)];
        }
        match self.state {
            State::Connecting | State::Proving | State::AwaitHelloAck | State::Snapshotting | State::Rehearsing => {
                self.go_postcopy = true;
                vec![]
            }
            State::Rounds => {
                self.go_postcopy = true;
                vec![Output::EndRound]
            }
            _ => vec![Output::Refuse(NOT_NOW)],
        }
    }

    pub(super) fn round_done(&mut self, decision: Decision) -> Vec<Output> {
        if self.state != State::Rounds {
            return vec![];
        }
        match decision {
            // Requested by a parameter, but not allowed: the rounds go on, within their own limits.
            Decision::Postcopy if !self.plan.postcopy => return vec![Output::SendRound],
            Decision::Postcopy => self.go_postcopy = true,
            Decision::GiveUp(reason) if !self.go_postcopy => return self.give_up(Outcome::Failed(reason)),
            Decision::Again if !self.go_postcopy => return vec![Output::SendRound],
            _ => {}
        }
        if self.plan.rehearse {
            self.plan.rehearse = false;
            self.state = State::Snapshotting;
            return vec![Output::StartTimer(Timer::Rehearsal), Output::Snapshot];
        }
        self.state = State::Stopping;
        vec![Output::StartTimer(Timer::Stop), Output::StopGuest]
    }

    pub(super) fn snapshotted(&mut self, result: Result<(), Failure>) -> Vec<Output> {
        match (&self.state, result) {
            (State::Snapshotting, Ok(())) => {
                self.state = State::Rehearsing;
                vec![Output::Send(ToDestination::Rehearse)]
            }
            (State::Snapshotting, Err(failure)) => {
                self.give_up(Outcome::Failed(format!("the source could not save its state for rehearsal: {failure}")))
            }
            _ => vec![],
        }
    }

    pub(super) fn rehearsed(&mut self) -> Vec<Output> {
        self.state = State::Rounds;
        let mut out = vec![Output::StopTimer(Timer::Rehearsal)];
        if self.go_postcopy {
            out.extend(self.step(Input::RoundDone(Decision::Postcopy)));
        } else {
            // The guest went on writing during the rehearsal: those pages are sent before it stops.
            out.push(Output::SendRound);
        }
        out
    }

    pub(super) fn guest_gone(&mut self, reason: String) -> Vec<Output> {
        match self.state {
            State::Connecting
            | State::Proving
            | State::AwaitHelloAck
            | State::Rounds
            | State::Snapshotting
            | State::Rehearsing => self.give_up(Outcome::Failed(reason)),
            _ => vec![],
        }
    }
}
