//! The destination from the permit on: claiming the guest, running it, and postcopy.

use super::{Claim, Destination, GiveBack, Outcome, Output, State};
use crate::guards::Guard;
use crate::message::{Failure, Handshake, ToSource};
use crate::timer::Timer;

impl Destination {
    pub(super) fn permitted(&mut self) -> Vec<Output> {
        if self.handshake == Handshake::Owned && self.guards.has(Guard::StartNeedsClaim) {
            self.state = State::Claiming;
            return vec![Output::StopTimer(Timer::PeerSilent), Output::Claim];
        }
        self.begin_start()
    }

    pub(super) fn begin_start(&mut self) -> Vec<Output> {
        self.state = State::Starting;
        vec![Output::StopTimer(Timer::PeerSilent), Output::Start]
    }

    pub(super) fn claimed(&mut self, result: Claim) -> Vec<Output> {
        if self.state != State::Claiming {
            return vec![];
        }
        let result = match result {
            Claim::Lost if !self.guards.has(Guard::ClaimLostStaysStopped) => Claim::Won,
            Claim::Unreachable if !self.guards.has(Guard::ClaimUnreachableStaysStopped) => Claim::Won,
            result => result,
        };
        match result {
            Claim::Won => match (self.faults_died.take(), self.leaving.take()) {
                (Some(reason), _) => self.give_back(Failure { device: "userfaultfd".to_owned(), reason }),
                (None, Some(reason)) => self.give_back(Failure { device: "destination".to_owned(), reason }),
                (None, None) => self.begin_start(),
            },
            Claim::Lost => {
                let reason = "the source took the guest back before it was started here".to_owned();
                self.give_up("ownership record", reason)
            }
            Claim::Unreachable => {
                self.state = State::Unsure;
                let mut out = vec![];
                if !self.link_lost {
                    // The source must not wait for an answer that may never come: with the link
                    // closed, it asks the record itself.
                    self.link_lost = true;
                    out.push(Output::CloseLinks);
                }
                out.push(Output::StartTimer(Timer::RetryRecord));
                out
            }
        }
    }

    pub(super) fn started(&mut self, result: Result<u64, Failure>) -> Vec<Output> {
        if self.state != State::Starting {
            return vec![];
        }
        match result {
            Err(failure) if self.handshake == Handshake::Owned && self.guards.has(Guard::GivesBackFirst) => {
                self.give_back(failure)
            }
            Err(failure) => self.not_started(failure),
            Ok(start_us) => {
                let mut out = vec![Output::Send(ToSource::Started { start_us, permit_us: 0 })];
                if self.handshake == Handshake::Owned {
                    out.push(Output::Settle);
                }
                out.extend(self.running());
                out
            }
        }
    }

    fn running(&mut self) -> Vec<Output> {
        if !self.postcopy {
            return self.completed();
        }
        self.state = State::Active;
        // A guest that has ended with its process needs no more pages.
        if self.all_received || self.leaving.is_some() {
            return self.drained();
        }
        if let Some(reason) = self.faults_died.take() {
            return self.lose_guest(reason);
        }
        if self.link_lost && self.guards.has(Guard::StartRemembersLink) {
            return self.paused();
        }
        vec![Output::StartTimer(Timer::PeerSilent), Output::StartTimer(Timer::Heartbeat)]
    }

    fn give_back(&mut self, failure: Failure) -> Vec<Output> {
        self.state = State::GivingBack(failure);
        vec![Output::GiveBack]
    }

    fn not_started(&mut self, failure: Failure) -> Vec<Output> {
        let reason = format!("could not start the guest: {failure}");
        self.end(Some(ToSource::NotStarted(failure)), reason)
    }

    pub(super) fn gave_back(&mut self, result: GiveBack) -> Vec<Output> {
        let State::GivingBack(failure) = &self.state else { return vec![] };
        match result {
            GiveBack::Done => {
                let failure = failure.clone();
                self.not_started(failure)
            }
            GiveBack::Unreachable => vec![Output::StartTimer(Timer::RetryRecord)],
        }
    }

    pub(super) fn all_received(&mut self) -> Vec<Output> {
        self.all_received = true;
        if matches!(self.state, State::Active | State::Paused) { self.drained() } else { vec![] }
    }

    /// The guest has ended here, or its process is about to.
    pub(super) fn ends(&mut self, reason: String) -> Vec<Output> {
        match self.state {
            State::Active => self.drained(),
            State::Paused => self.completed(),
            State::Claiming | State::Unsure | State::Starting | State::GivingBack(_) => {
                if self.guards.has(Guard::LeavingGivesBack) {
                    self.leaving = Some(reason);
                }
                vec![]
            }
            _ => self.give_up("destination", reason),
        }
    }

    /// The guest needs nothing more from the source: every page is here, or it has ended.
    pub(super) fn drained(&mut self) -> Vec<Output> {
        let mut out = vec![Output::Send(ToSource::DrainedAck)];
        out.extend(self.completed());
        out
    }

    fn completed(&mut self) -> Vec<Output> {
        self.state = State::Done;
        vec![Output::CloseLinks, Output::Finish(Outcome::Completed)]
    }

    pub(super) fn paused(&mut self) -> Vec<Output> {
        self.state = State::Paused;
        vec![
            Output::StopTimer(Timer::PeerSilent),
            Output::StopTimer(Timer::Heartbeat),
            Output::CloseLinks,
            Output::Paused,
        ]
    }

    pub(super) fn pause(&mut self) -> Vec<Output> {
        if self.state == State::Active {
            self.link_lost = true;
            return self.paused();
        }
        vec![]
    }

    pub(super) fn recover(&mut self, generation: u64) -> Vec<Output> {
        if !self.is_this_run(generation, Guard::RecoverNeedsGeneration) {
            let reason =
                format!("it is in the postcopy of generation {}, not of generation {generation}", self.generation);
            return vec![Output::Send(ToSource::RecoverRefused { reason }), Output::CloseLinks];
        }
        self.state = State::Active;
        self.link_lost = false;
        vec![Output::Send(ToSource::RecoverAck), Output::Resumed, Output::StartTimer(Timer::Heartbeat)]
    }

    pub(super) fn faults_died(&mut self, reason: String) -> Vec<Output> {
        match self.state {
            State::Active | State::Paused => self.lose_guest(reason),
            State::Claiming | State::Unsure | State::Starting | State::GivingBack(_) => {
                if self.guards.has(Guard::FaultsDeathIsRemembered) {
                    self.faults_died = Some(reason);
                }
                vec![]
            }
            _ => self.give_up("userfaultfd", reason),
        }
    }

    fn lose_guest(&mut self, reason: String) -> Vec<Output> {
        self.state = State::Done;
        vec![
            Output::LoseGuest(reason.clone()),
            Output::CloseLinks,
            Output::Finish(Outcome::Failed(format!("the guest cannot get its missing pages: {reason}"))),
        ]
    }
}
