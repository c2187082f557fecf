//! The source's state machine: from `migrate` to the moment when the guest belongs to the destination, or runs here again.
//!
//! ```text
//!  Connecting ─► AwaitHelloAck ─► Rounds ◄──► Snapshotting ─► Rehearsing
//!                                   │
//!                                   ▼  (the guest stops)
//!        Stopping ─► Saving ─► LastPages ─► AwaitReady ─► AwaitStarted ─► Done(Completed)
//!            │          │          │            │         │  permit sent: no way back by itself
//!            └──────────┴──────────┴────────────┘         └► Uncertain
//!                            ▼
//!                 Winding ─► Resuming ─► Done(Failed | Cancelled)
//! ```
//!
//! Who drives it (the runtime in `ferry-vmm`, a simulator, an explorer) feeds one [`Input`] at a time and carries out the
//! [`Output`]s in order. The promise that everything here serves: after `Send(Permit)` the source resumes only when the
//! destination has said that it has not run and never will.

use crate::convergence::Decision;
use crate::info::Status;
use crate::message::{Failure, PROTOCOL_VERSION, ToDestination, ToSource};
use crate::timer::Timer;

/// What can happen to a source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// All links are open.
    Connected,
    /// The destination said something.
    Message(ToSource),
    /// A link broke, could not be opened, or carried nonsense; the text says which and how.
    LinkLost(String),
    /// A timer that was started ran out.
    Timer(Timer),
    /// A round has been sent, and this is what its numbers say.
    RoundDone(Decision),
    /// The state for the rehearsal was saved; the guest runs.
    Snapshotted(Result<(), Failure>),
    /// The vCPUs are stopped, the devices drained, the disk released.
    Stopped(Result<(), Failure>),
    /// The final device state was saved.
    Saved(Result<(), Failure>),
    /// The last pages and the marker behind them were handed to the bulk links.
    LastPagesSent {
        /// The marker's number.
        marker: u32,
    },
    /// The guest runs again on the source, or could not be started.
    Resumed(Result<(), Failure>),
    /// The guest shut down or the process is about to end.
    GuestGone(String),
    /// The operator cancels.
    Cancel,
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Tell clients.
    Status(Status),
    /// Open the links; answer with `Connected` or `LinkLost`.
    Connect,
    /// Send on the control link, with its attachment.
    Send(ToDestination),
    /// Start a timer, anew if it runs.
    StartTimer(Timer),
    /// Stop a timer.
    StopTimer(Timer),
    /// Send one round; answer with `RoundDone`.
    SendRound,
    /// Save the state between two guest instructions; answer with `Snapshotted`.
    Snapshot,
    /// Stop the vCPUs, drain the devices, release the disk; answer with `Stopped`.
    StopGuest,
    /// Save the final state; answer with `Saved`.
    Save,
    /// Send what is dirty, then a marker; answer with `LastPagesSent`.
    SendLastPages,
    /// End what is being sent or saved, at once. Pending answers may still come, or not.
    Interrupt,
    /// Take the disk back and let the guest run; answer with `Resumed`.
    ResumeGuest,
    /// The guest belongs to the destination: never run it here again.
    HandOver,
    /// Close all links.
    CloseLinks,
    /// Tell the operator that the cancel comes too late, and why.
    RefuseCancel(&'static str),
    /// The migration has ended.
    Finish(Outcome),
}

/// How a migration ended on the source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The destination runs the guest.
    Completed,
    /// The guest stays here; the text says why.
    Failed(String),
    /// The operator cancelled; the guest stays here.
    Cancelled,
}

/// Where a source stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Idle,
    Connecting,
    AwaitHelloAck,
    Rounds,
    Snapshotting,
    Rehearsing,
    Stopping,
    Saving,
    LastPages,
    AwaitReady,
    AwaitStarted,
    Uncertain,
    /// Given up while the machine was being stopped or saved: that must end before the guest may run.
    Winding(Outcome),
    Resuming(Outcome),
    Done(Outcome),
}

/// The source's side of one migration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    state: State,
    generation: u64,
    rehearse: bool,
}

const TOO_LATE: &str = "the destination has been permitted to run the guest: the migration can no longer be cancelled";

impl Source {
    /// A migration that has not begun, of the guest's run number `generation`; `rehearse` asks for a rehearsal.
    #[must_use]
    pub fn new(generation: u64, rehearse: bool) -> Self {
        Source { state: State::Idle, generation, rehearse }
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

    /// Whether the destination may have been permitted to run the guest and has not said that it will not.
    #[must_use]
    pub fn permit_may_be_out(&self) -> bool {
        matches!(self.state, State::AwaitStarted | State::Uncertain | State::Done(Outcome::Completed))
    }

    /// Takes one input and says what to do.
    pub fn step(&mut self, input: Input) -> Vec<Output> {
        match input {
            Input::Message(message) => self.message(message),
            Input::LinkLost(reason) => self.lost(reason),
            Input::Timer(timer) => self.timer(timer),
            Input::Cancel => self.cancel(),
            Input::GuestGone(reason) => self.guest_gone(reason),
            Input::Connected => self.connected(),
            Input::RoundDone(decision) => self.round_done(decision),
            Input::Snapshotted(result) => self.snapshotted(result),
            Input::Stopped(result) => self.stopped(result),
            Input::Saved(result) => self.saved(result),
            Input::LastPagesSent { marker } => self.last_pages_sent(marker),
            Input::Resumed(result) => self.resumed(result),
        }
    }

    fn connected(&mut self) -> Vec<Output> {
        if self.state != State::Connecting {
            return vec![];
        }
        self.state = State::AwaitHelloAck;
        vec![Output::Send(ToDestination::Hello { version: PROTOCOL_VERSION, generation: self.generation })]
    }

    fn message(&mut self, message: ToSource) -> Vec<Output> {
        if matches!(self.state, State::Winding(_) | State::Resuming(_) | State::Done(_) | State::Idle) {
            return vec![];
        }
        let mut out = match message {
            ToSource::Heartbeat => vec![],
            ToSource::NotStarted(failure) => self.not_started(failure),
            ToSource::HelloAck if self.state == State::AwaitHelloAck => self.hello_ack(),
            ToSource::Refused { reason } if self.state == State::AwaitHelloAck => {
                self.give_up(Outcome::Failed(format!("the destination refused the migration: {reason}")))
            }
            ToSource::Rehearsed if self.state == State::Rehearsing => self.rehearsed(),
            ToSource::RehearsalFailed(failure) if self.state == State::Rehearsing => self.give_up(Outcome::Failed(
                format!("the destination could not load the device state in rehearsal: {failure}"),
            )),
            ToSource::Ready { .. } if self.state == State::AwaitReady => self.ready(),
            ToSource::LoadFailed(failure) if self.state == State::AwaitReady => {
                self.give_up(Outcome::Failed(format!("the destination could not load the device state: {failure}")))
            }
            ToSource::Started { .. } if self.permit_may_be_out() => return self.started(),
            unexpected => {
                let reason = format!("the destination sent {} while {}", unexpected.name(), self.doing());
                return self.lost(reason);
            }
        };
        if self.hears_peer() {
            out.push(Output::StartTimer(Timer::PeerSilent));
        }
        out
    }

    fn hello_ack(&mut self) -> Vec<Output> {
        self.state = State::Rounds;
        vec![
            Output::StopTimer(Timer::Setup),
            Output::StartTimer(Timer::Heartbeat),
            Output::Status(Status::Active),
            Output::SendRound,
        ]
    }

    fn round_done(&mut self, decision: Decision) -> Vec<Output> {
        if self.state != State::Rounds {
            return vec![];
        }
        match decision {
            Decision::Again => vec![Output::SendRound],
            Decision::GiveUp(reason) => self.give_up(Outcome::Failed(reason)),
            Decision::Switch if self.rehearse => {
                self.rehearse = false;
                self.state = State::Snapshotting;
                vec![Output::StartTimer(Timer::Rehearsal), Output::Snapshot]
            }
            Decision::Switch => {
                self.state = State::Stopping;
                vec![Output::StartTimer(Timer::Stop), Output::StopGuest]
            }
        }
    }

    fn snapshotted(&mut self, result: Result<(), Failure>) -> Vec<Output> {
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

    fn rehearsed(&mut self) -> Vec<Output> {
        // The guest went on writing during the rehearsal: what that dirtied is sent before the guest stops.
        self.state = State::Rounds;
        vec![Output::StopTimer(Timer::Rehearsal), Output::SendRound]
    }

    fn stopped(&mut self, result: Result<(), Failure>) -> Vec<Output> {
        match (&self.state, result) {
            (State::Stopping, Ok(())) => {
                self.state = State::Saving;
                vec![Output::Status(Status::Device), Output::Save]
            }
            (State::Stopping, Err(failure)) => {
                let outcome = Outcome::Failed(format!("the source could not stop its guest: {failure}"));
                self.resume(outcome)
            }
            (State::Winding(outcome), _) => self.resume(outcome.clone()),
            _ => vec![],
        }
    }

    fn saved(&mut self, result: Result<(), Failure>) -> Vec<Output> {
        match (&self.state, result) {
            (State::Saving, Ok(())) => {
                self.state = State::LastPages;
                vec![Output::StopTimer(Timer::Stop), Output::StartTimer(Timer::Load), Output::SendLastPages]
            }
            (State::Saving, Err(failure)) => {
                let outcome = Outcome::Failed(format!("the source could not save its device state: {failure}"));
                self.resume(outcome)
            }
            (State::Winding(outcome), _) => self.resume(outcome.clone()),
            _ => vec![],
        }
    }

    fn last_pages_sent(&mut self, marker: u32) -> Vec<Output> {
        if self.state != State::LastPages {
            return vec![];
        }
        self.state = State::AwaitReady;
        vec![
            Output::StartTimer(Timer::Load),
            Output::Send(ToDestination::Package { generation: self.generation, marker }),
        ]
    }

    fn ready(&mut self) -> Vec<Output> {
        // The state changes before the permit is handed out: "may have been sent" counts as sent.
        self.state = State::AwaitStarted;
        vec![
            Output::StopTimer(Timer::Load),
            Output::StartTimer(Timer::Start),
            Output::Send(ToDestination::Permit { generation: self.generation }),
        ]
    }

    fn started(&mut self) -> Vec<Output> {
        if matches!(self.state, State::Done(_)) {
            return vec![];
        }
        self.state = State::Done(Outcome::Completed);
        vec![
            Output::HandOver,
            Output::CloseLinks,
            Output::Status(Status::Completed),
            Output::Finish(Outcome::Completed),
        ]
    }

    fn not_started(&mut self, failure: Failure) -> Vec<Output> {
        self.give_up(Outcome::Failed(format!("the destination did not start the guest: {failure}")))
    }

    fn lost(&mut self, reason: String) -> Vec<Output> {
        match self.state {
            State::AwaitStarted => {
                self.state = State::Uncertain;
                vec![Output::StopTimer(Timer::Start), Output::Status(Status::Uncertain)]
            }
            State::Idle | State::Uncertain | State::Winding(_) | State::Resuming(_) | State::Done(_) => vec![],
            _ => {
                let doing = self.doing();
                self.give_up(Outcome::Failed(format!("{reason} ({doing})")))
            }
        }
    }

    fn timer(&mut self, timer: Timer) -> Vec<Output> {
        match timer {
            Timer::Heartbeat if self.hears_peer() => {
                vec![Output::Send(ToDestination::Heartbeat), Output::StartTimer(Timer::Heartbeat)]
            }
            Timer::Heartbeat => vec![],
            Timer::Setup => self.lost("the destination did not answer in time".into()),
            Timer::PeerSilent => self.lost("the destination gave no sign of life in time".into()),
            Timer::Rehearsal if matches!(self.state, State::Snapshotting | State::Rehearsing) => {
                self.lost("the rehearsal did not end in time".into())
            }
            Timer::Stop if matches!(self.state, State::Stopping | State::Saving) => {
                self.lost("the source's own devices did not stop and save in time".into())
            }
            Timer::Load if matches!(self.state, State::LastPages | State::AwaitReady) => {
                self.lost("the destination did not take the guest in time".into())
            }
            Timer::Start if self.state == State::AwaitStarted => {
                self.lost("the destination did not say in time whether it runs the guest".into())
            }
            Timer::Rehearsal | Timer::Stop | Timer::Load | Timer::Start => vec![],
        }
    }

    fn cancel(&mut self) -> Vec<Output> {
        match self.state {
            State::AwaitStarted | State::Uncertain | State::Done(Outcome::Completed) => {
                vec![Output::RefuseCancel(TOO_LATE)]
            }
            State::Idle | State::Winding(_) | State::Resuming(_) | State::Done(_) => vec![],
            _ => {
                let mut out = vec![Output::Status(Status::Cancelling)];
                out.extend(self.give_up(Outcome::Cancelled));
                out
            }
        }
    }

    fn guest_gone(&mut self, reason: String) -> Vec<Output> {
        match self.state {
            State::Connecting | State::AwaitHelloAck | State::Rounds | State::Snapshotting | State::Rehearsing => {
                self.give_up(Outcome::Failed(reason))
            }
            _ => vec![],
        }
    }

    /// Ends a migration whose guest belongs to the source, from wherever it stands.
    fn give_up(&mut self, outcome: Outcome) -> Vec<Output> {
        let reason = match &outcome {
            Outcome::Failed(reason) => format!("the source gave up: {reason}"),
            _ => "the migration was cancelled at the source".to_owned(),
        };
        let mut out = vec![Output::Interrupt];
        if self.state != State::Connecting {
            out.push(Output::Send(ToDestination::Cancel { reason }));
        }
        out.push(Output::CloseLinks);
        match self.state {
            State::Stopping | State::Saving => self.state = State::Winding(outcome),
            State::LastPages | State::AwaitReady | State::AwaitStarted | State::Uncertain => {
                out.extend(self.resume(outcome));
            }
            _ => out.extend(self.finish(outcome)),
        }
        out
    }

    fn resume(&mut self, outcome: Outcome) -> Vec<Output> {
        self.state = State::Resuming(outcome);
        vec![Output::Interrupt, Output::CloseLinks, Output::ResumeGuest]
    }

    fn resumed(&mut self, result: Result<(), Failure>) -> Vec<Output> {
        let State::Resuming(outcome) = &self.state else { return vec![] };
        let outcome = match (outcome.clone(), result) {
            (outcome, Ok(())) => outcome,
            (Outcome::Failed(reason), Err(failure)) => {
                Outcome::Failed(format!("{reason}; and the guest stays stopped here: {failure}"))
            }
            (_, Err(failure)) => Outcome::Failed(format!("cancelled, but the guest stays stopped here: {failure}")),
        };
        self.finish(outcome)
    }

    fn finish(&mut self, outcome: Outcome) -> Vec<Output> {
        let status = if outcome == Outcome::Cancelled { Status::Cancelled } else { Status::Failed };
        self.state = State::Done(outcome.clone());
        vec![Output::Status(status), Output::Finish(outcome)]
    }

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
        )
    }

    /// What was going on, for errors.
    fn doing(&self) -> &'static str {
        match self.state {
            State::Idle | State::Connecting => "while connecting",
            State::AwaitHelloAck => "while comparing the machines",
            State::Rounds => "while sending pages",
            State::Snapshotting | State::Rehearsing => "during the rehearsal",
            State::Stopping => "while stopping the guest",
            State::Saving => "while saving the device state",
            State::LastPages => "while sending the last pages",
            State::AwaitReady => "while the destination loaded the device state",
            State::AwaitStarted => "after the permit was sent",
            State::Uncertain => "while the owner is uncertain",
            State::Winding(_) | State::Resuming(_) => "while taking the guest back",
            State::Done(_) => "after the end",
        }
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
