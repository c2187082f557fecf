//! The source from the stop of its guest to the permit.

use super::{Outcome, Output, Source, State};
use crate::info::Status;
use crate::message::{Failure, Handshake, ToDestination};
use crate::timer::Timer;

impl Source {
    pub(super) fn stopped(&mut self, result: Result<(), Failure>) -> Vec<Output> {
        match (&self.state, result) {
            (State::Stopping, Ok(())) => {
                self.state = State::Saving;
                let status = if self.go_postcopy { Status::PostcopySetup } else { Status::Device };
                vec![Output::Status(status), Output::Save]
            }
            (State::Stopping, Err(failure)) => {
                self.give_up_stopped(Outcome::Failed(format!("the source could not stop its guest: {failure}")))
            }
            (State::Winding(outcome), _) => self.resume(outcome.clone()),
            _ => vec![],
        }
    }

    pub(super) fn saved(&mut self, result: Result<(), Failure>) -> Vec<Output> {
        match (&self.state, result) {
            (State::Saving, Ok(())) => {
                self.state = State::LastPages;
                vec![
                    Output::StopTimer(Timer::Stop),
                    Output::StartTimer(Timer::Load),
                    Output::SendLastPages { postcopy: self.go_postcopy },
                ]
            }
            (State::Saving, Err(failure)) => {
                self.give_up_stopped(Outcome::Failed(format!("the source could not save its device state: {failure}")))
            }
            (State::Winding(outcome), _) => self.resume(outcome.clone()),
            _ => vec![],
        }
    }

    pub(super) fn last_pages_sent(&mut self, marker: u32) -> Vec<Output> {
        if self.state != State::LastPages {
            return vec![];
        }
        // With the handshake `none` the package itself is the permit.
        let unasked = self.plan.handshake == Handshake::None;
        self.state = if unasked { State::AwaitStarted } else { State::AwaitReady };
        let package = ToDestination::Package { generation: self.plan.generation, marker, postcopy: self.go_postcopy };
        let mut out = vec![Output::StartTimer(Timer::Load), Output::Send(package)];
        if unasked {
            out.extend([Output::StopTimer(Timer::Load), Output::StartTimer(Timer::Start)]);
        }
        if self.go_postcopy {
            out.push(Output::ServePages);
        }
        out
    }

    pub(super) fn ready(&mut self) -> Vec<Output> {
        if self.plan.handshake == Handshake::Pong {
            let mut out = vec![Output::StopTimer(Timer::Load)];
            out.extend(self.started());
            return out;
        }
        // The state changes before the permit is handed out: "may have been sent" counts as sent.
        self.state = State::AwaitStarted;
        vec![
            Output::StopTimer(Timer::Load),
            Output::StartTimer(Timer::Start),
            Output::Send(ToDestination::Permit { generation: self.plan.generation }),
        ]
    }

    pub(super) fn load_failed(&mut self, failure: Failure) -> Vec<Output> {
        let reason = format!("the destination could not load the device state: {failure}");
        match (&self.state, self.plan.handshake) {
            (State::AwaitStarted, Handshake::None) => self.strand(reason),
            (State::AwaitStarted, _) => self.lost(reason),
            _ => self.give_up(Outcome::Failed(reason)),
        }
    }
}
