//! The source's state machine: from `migrate` to the moment when the guest belongs to the
//! destination, or runs here again.
//!
//! ```text
//!  Connecting ─► Proving ─► AwaitHelloAck ─► Rounds ◄──► Snapshotting ─► Rehearsing
//!                                               │
//!                                               ▼  (the guest stops)
//!                 Stopping ─► Saving ─► LastPages ─► AwaitReady ─► AwaitStarted ──► Done(Completed)
//!                    │          │          │             │              │     └───► Postcopy: Active ⇄ Paused ─► Done
//!                    └──────────┴──────────┴─────────────┘              ▼ permit sent: no way back by itself
//!                                     ▼                         TakingBack ⇄ Uncertain
//!                          Winding ─► Resuming ─► Done(Failed | Cancelled)
//! ```
//!
//! The caller (a driver in `ferry-transfer`, a simulator, an explorer) feeds one [`Input`] at a
//! time and carries out the [`Output`]s in order. The promise of this module: after `Send(Permit)`
//! the source resumes by itself only when the ownership record names it again, or, without a
//! record, when the destination has sent `NotStarted`.
//!
//! The module [`before`] goes up to the stop, [`switchover`] from there to the permit, [`after`]
//! from the permit on, [`back`] holds every way back to a guest that runs here.

mod after;
mod back;
mod before;
mod interface;
mod switchover;

use crate::guards::Guards;
use crate::info::Status;
use crate::message::{Handshake, ToDestination, ToSource};
use crate::timer::Timer;

pub use self::interface::{Input, Outcome, Output, Owner, Plan, Resolution, TakeBack};

/// Where a source stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Idle,
    Connecting,
    Proving,
    AwaitHelloAck,
    Rounds,
    Snapshotting,
    Rehearsing,
    Stopping,
    Saving,
    LastPages,
    AwaitReady,
    AwaitStarted,
    /// Taking the guest back in the record; the text is the reason.
    TakingBack(String),
    /// The record has not decided (it is asked again), or there is none (an operator decides).
    Uncertain(String),
    Active(Drain),
    Paused(Drain),
    Recovering(Drain),
    /// Given up while the machine was being stopped or saved: that must end before the guest may
    /// run.
    Winding(Outcome),
    Resuming(Outcome),
    Done(Outcome),
}

/// How far a postcopy has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Drain {
    Sending,
    AwaitAck,
}

/// The source's side of one migration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    state: State,
    plan: Plan,
    /// The guest is to go by postcopy at the next opportunity.
    go_postcopy: bool,
    /// A link of the present connection is lost, even if that had no effect at the time.
    link_lost: bool,
    /// An operator's resolution that waits for the record's answer.
    asked: Option<Resolution>,
    guards: Guards,
}

impl Source {
    /// A migration that has not begun.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self::with_guards(plan, Guards::all())
    }

    /// The same with some guard off, for an explorer.
    #[must_use]
    pub fn with_guards(plan: Plan, guards: Guards) -> Self {
        Source { state: State::Idle, plan, go_postcopy: false, link_lost: false, asked: None, guards }
    }

    /// Begins.
    ///
    /// # Panics
    /// When it has begun already.
    pub fn start(&mut self) -> Vec<Output> {
        assert_eq!(self.state, State::Idle, "a migration is started once");
        self.state = State::Connecting;
        vec![Output::Status(Status::Setup), Output::StartTimer(Timer::Setup), Output::Connect]
    }

    /// Whether the permit may have been delivered and the destination has not sent `NotStarted`.
    #[must_use]
    pub fn permit_may_be_out(&self) -> bool {
        matches!(
            self.state,
            State::AwaitStarted
                | State::TakingBack(_)
                | State::Uncertain(_)
                | State::Active(_)
                | State::Paused(_)
                | State::Recovering(_)
                | State::Done(Outcome::Completed | Outcome::Stranded(_))
        )
    }

    /// Whether a postcopy waits to be reconnected.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        matches!(self.state, State::Paused(_))
    }

    /// Whether the guest is to run at the destination before all of its memory is there.
    #[must_use]
    pub fn goes_postcopy(&self) -> bool {
        self.go_postcopy
    }

    /// The handshake in force.
    #[must_use]
    pub fn handshake(&self) -> Handshake {
        self.plan.handshake
    }

    /// Whether an operator's resolution waits for the record's answer: `Output::Resolved` follows.
    #[must_use]
    pub fn is_resolving(&self) -> bool {
        self.asked.is_some()
    }

    /// Why it is uncertain who owns the guest, if it is.
    #[must_use]
    pub fn uncertainty(&self) -> Option<&str> {
        match &self.state {
            State::Uncertain(reason) => Some(reason),
            _ => None,
        }
    }

    /// The loss after the permit, while neither the record nor the operator has decided which side
    /// owns the guest.
    #[must_use]
    pub fn lost_after_permit(&self) -> Option<&str> {
        match &self.state {
            State::Uncertain(reason) | State::TakingBack(reason) => Some(reason),
            _ => None,
        }
    }

    /// Takes one input and returns the outputs to carry out.
    pub fn step(&mut self, input: Input) -> Vec<Output> {
        match input {
            Input::Message(message) => self.message(message),
            Input::LinkLost(reason) => {
                self.link_lost = true;
                self.lost(reason)
            }
            Input::Timer(timer) => self.timer(timer),
            Input::Connected => self.connected(),
            Input::NonceWritten(result) => self.nonce_written(result),
            Input::RoundDone(decision) => self.round_done(decision),
            Input::Snapshotted(result) => self.snapshotted(result),
            Input::Stopped(result) => self.stopped(result),
            Input::Saved(result) => self.saved(result),
            Input::LastPagesSent { marker } => self.last_pages_sent(marker),
            Input::TookBack(result) => self.took_back(result),
            Input::AllSent => self.all_sent(),
            Input::Resumed(result) => self.resumed(result),
            Input::GuestGone(reason) => self.guest_gone(reason),
            Input::StartPostcopy => self.start_postcopy(),
            Input::Pause => self.pause(),
            Input::Recover => self.recover(),
            Input::Resolve(resolution) => self.resolve(resolution),
            Input::Cancel => self.cancel(),
        }
    }

    fn message(&mut self, message: ToSource) -> Vec<Output> {
        if matches!(self.state, State::Idle | State::Winding(_) | State::Resuming(_) | State::Done(_)) {
            return vec![];
        }
        let mut out = match (&self.state, message) {
            // A marker's arrival concerns the thread that sends pages.
            (_, ToSource::Heartbeat | ToSource::MarkerReached { .. }) => vec![],
            (State::AwaitHelloAck, ToSource::HelloAck { record_shared }) => self.hello_ack(record_shared),
            // A destination that is busy refuses before it has read anything.
            (
                State::Proving | State::AwaitHelloAck | State::Rounds | State::Snapshotting | State::Rehearsing,
                ToSource::Refused { reason },
            ) => self.give_up(Outcome::Failed(format!("the destination refused the migration: {reason}"))),
            (State::Rehearsing, ToSource::Rehearsed) => self.rehearsed(),
            (State::Rehearsing, ToSource::RehearsalFailed(failure)) => self.give_up(Outcome::Failed(format!(
                "the destination could not load the device state in rehearsal: {failure}"
            ))),
            (State::AwaitReady, ToSource::Ready { .. }) => self.ready(),
            // With the handshake `none` the package was the permit, and `Ready` changes nothing.
            (State::AwaitStarted, ToSource::Ready { .. }) if self.plan.handshake == Handshake::None => vec![],
            (State::AwaitReady | State::AwaitStarted, ToSource::LoadFailed(failure)) => self.load_failed(failure),
            (State::AwaitStarted | State::TakingBack(_) | State::Uncertain(_), ToSource::Started { .. }) => {
                self.started()
            }
            // With `pong` the source goes on at `Ready`; `Started` follows it.
            (State::Active(_), ToSource::Started { .. }) => vec![],
            // The destination counts the pages itself, and may be complete before this side knows,
            // even on a connection that was opened to recover it.
            (State::Active(_) | State::Recovering(_), ToSource::DrainedAck) => self.completed(),
            (State::Recovering(_), ToSource::RecoverAck) => self.recovered(),
            (State::Recovering(_), ToSource::RecoverRefused { reason } | ToSource::Refused { reason }) => {
                self.lost(format!("the destination refused to recover: {reason}"))
            }
            (State::Active(_) | State::Paused(_) | State::Recovering(_), unexpected) => {
                self.lost(format!("the destination sent {} during postcopy", unexpected.name()))
            }
            (_, ToSource::NotStarted(failure)) => self.not_started(failure),
            (_, unexpected) => {
                let reason = format!("the destination sent {} {}", unexpected.name(), self.doing());
                self.lost(reason)
            }
        };
        if self.hears_peer() {
            out.push(Output::StartTimer(Timer::PeerSilent));
        }
        out
    }

    fn timer(&mut self, timer: Timer) -> Vec<Output> {
        match (timer, &self.state) {
            (Timer::Heartbeat, _) if self.hears_peer() => {
                vec![Output::Send(ToDestination::Heartbeat), Output::StartTimer(Timer::Heartbeat)]
            }
            (Timer::Setup, State::Connecting | State::Proving | State::AwaitHelloAck) => {
                self.lost("the destination did not answer in time".into())
            }
            (Timer::PeerSilent, _) if self.hears_peer() => {
                self.lost("the destination gave no sign of life in time".into())
            }
            (Timer::Rehearsal, State::Snapshotting | State::Rehearsing) => {
                self.lost("the rehearsal did not end in time".into())
            }
            (Timer::Stop, State::Stopping | State::Saving) => {
                self.lost("the source's own devices did not stop and save in time".into())
            }
            (Timer::Load, State::LastPages | State::AwaitReady) => {
                self.lost("the destination did not take the guest in time".into())
            }
            (Timer::Start, State::AwaitStarted) => {
                self.lost("the destination did not say in time whether it runs the guest".into())
            }
            (Timer::RetryRecord, State::Uncertain(reason)) if self.plan.handshake == Handshake::Owned => {
                self.state = State::TakingBack(reason.clone());
                vec![Output::TakeBack]
            }
            (Timer::Recover, State::Recovering(_)) => self.lost("the destination did not recover in time".into()),
            _ => vec![],
        }
    }

    /// Whether heartbeats are sent and expected.
    fn hears_peer(&self) -> bool {
        matches!(
            self.state,
            State::Rounds
                | State::Snapshotting
                | State::Rehearsing
                | State::Stopping
                | State::Saving
                | State::LastPages
                | State::AwaitReady
                | State::AwaitStarted
                | State::Active(_)
        )
    }

    /// The present activity, for errors.
    fn doing(&self) -> &'static str {
        match self.state {
            State::Idle | State::Connecting => "while connecting",
            State::Proving => "while writing to the ownership record",
            State::AwaitHelloAck => "while comparing the machines",
            State::Rounds => "while sending pages",
            State::Snapshotting | State::Rehearsing => "during the rehearsal",
            State::Stopping => "while stopping the guest",
            State::Saving => "while saving the device state",
            State::LastPages => "while sending the last pages",
            State::AwaitReady => "while the destination loaded the device state",
            State::AwaitStarted => "after the permit was sent",
            State::TakingBack(_) | State::Uncertain(_) => "while the owner is uncertain",
            State::Active(_) | State::Paused(_) => "during postcopy",
            State::Recovering(_) => "while recovering",
            State::Winding(_) | State::Resuming(_) => "while taking the guest back",
            State::Done(_) => "after the end",
        }
    }
}

#[cfg(test)]
mod record_tests;
#[cfg(test)]
mod tests;
