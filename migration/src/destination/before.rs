//! The destination until the permit: every way out is safe.

use super::{Destination, LoadTimes, Outcome, Output, State};
use crate::guards::Guard;
use crate::message::{Failure, Handshake, OLDEST_VERSION, PROTOCOL_VERSION, ToSource, takes_version};
use crate::timer::Timer;

impl Destination {
    pub(super) fn hello(&mut self, version: u16) -> Vec<Output> {
        if !takes_version(version) {
            let reason = format!(
                "protocol version: the source has {version}, the destination takes {OLDEST_VERSION} to {PROTOCOL_VERSION}"
            );
            return self.refuse(reason);
        }
        self.state = State::Checking;
        vec![Output::CheckGreeting]
    }

    pub(super) fn checked(&mut self, result: Result<bool, String>) -> Vec<Output> {
        match (&self.state, result) {
            (State::Checking, Ok(record_shared)) => {
                if self.handshake == Handshake::Owned && !record_shared {
                    // The source falls back or gives up; either way this side does not claim.
                    self.handshake = Handshake::Setup;
                }
                self.state = State::Receiving;
                vec![
                    Output::StopTimer(Timer::Setup),
                    Output::ReceivePages,
                    Output::Send(ToSource::HelloAck { record_shared }),
                    Output::StartTimer(Timer::Heartbeat),
                    Output::StartTimer(Timer::PeerSilent),
                ]
            }
            (State::Checking, Err(reason)) => self.refuse(reason),
            _ => vec![],
        }
    }

    fn refuse(&mut self, reason: String) -> Vec<Output> {
        self.state = State::Done;
        let outcome = Outcome::Failed(format!("refused the migration: {reason}"));
        vec![Output::Send(ToSource::Refused { reason }), Output::CloseLinks, Output::Finish(outcome)]
    }

    pub(super) fn marker(&mut self, number: u32) -> Vec<Output> {
        self.marker_reached = self.marker_reached.max(number);
        if matches!(self.state, State::Receiving | State::Rehearsing) {
            return vec![Output::Send(ToSource::MarkerReached { marker: number })];
        }
        self.gather()
    }

    pub(super) fn gather(&mut self) -> Vec<Output> {
        match self.state {
            State::Gathering { marker }
                if self.marker_reached >= marker || !self.guards.has(Guard::LoadNeedsMarker) =>
            {
                self.state = State::Loading;
                vec![Output::Load { rehearsal: false, postcopy: self.postcopy }]
            }
            _ => vec![],
        }
    }

    pub(super) fn loaded(&mut self, result: Result<LoadTimes, Failure>) -> Vec<Output> {
        match (&self.state, result) {
            (State::Rehearsing, Ok(_)) => {
                self.state = State::Receiving;
                vec![Output::Send(ToSource::Rehearsed)]
            }
            (State::Rehearsing, Err(failure)) => {
                let reason = format!("could not load the device state in rehearsal: {failure}");
                self.end(Some(ToSource::RehearsalFailed(failure)), reason)
            }
            (State::Loading, Ok(times)) => self.ready(times),
            (State::Loading, Err(failure)) => {
                let reason = format!("could not load the device state: {failure}");
                self.end(Some(ToSource::LoadFailed(failure)), reason)
            }
            _ => vec![],
        }
    }

    fn ready(&mut self, times: LoadTimes) -> Vec<Output> {
        let ready = Output::Send(ToSource::Ready { load_us: times.load_us, pages_us: times.pages_us });
        let asks_nobody = matches!(self.handshake, Handshake::None | Handshake::Pong);
        if asks_nobody || !self.guards.has(Guard::StartNeedsPermit) {
            let mut out = vec![ready];
            out.extend(self.begin_start());
            return out;
        }
        self.state = State::AwaitPermit;
        vec![ready]
    }

    /// The link is lost or silent, or carried invalid data.
    pub(super) fn lost(&mut self, reason: String) -> Vec<Output> {
        self.link_lost = true;
        match self.state {
            State::Claiming | State::Unsure | State::Starting | State::GivingBack(_)
                if self.guards.has(Guard::PermitOutlivesLink) =>
            {
                vec![]
            }
            // A link of the connection on which the source wants to recover: without it the others
            // are useless.
            State::Paused if self.guards.has(Guard::PausedClosesLostLink) => vec![Output::CloseLinks],
            State::Paused => vec![],
            State::Active => self.paused(),
            _ => {
                let reason = format!("{reason} (while {})", self.doing());
                self.give_up("link", reason)
            }
        }
    }

    pub(super) fn give_up(&mut self, what: &str, reason: String) -> Vec<Output> {
        let failure = Failure { device: what.to_owned(), reason: reason.clone() };
        self.end(Some(ToSource::NotStarted(failure)), reason)
    }

    pub(super) fn end(&mut self, last_word: Option<ToSource>, reason: String) -> Vec<Output> {
        self.state = State::Done;
        let mut out = vec![Output::Interrupt];
        out.extend(last_word.map(Output::Send));
        out.extend([Output::CloseLinks, Output::Finish(Outcome::Failed(reason))]);
        out
    }
}
