//! The source's state machine: from `migrate` to the moment when the guest belongs to the destination, or runs here again.
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
//! Who drives it (the runtime in `ferry-vmm`, a simulator, an explorer) feeds one [`Input`] at a time and carries out the
//! [`Output`]s in order. The promise that everything here serves: after `Send(Permit)` the source resumes only when the
//! ownership record is its own again, or, without a record, when the destination has said that it has not run and never will.
//!
//! The module [`before`] goes up to the stop, [`switchover`] from there to the permit, [`after`] from the permit on, [`back`]
//! holds every way back to a guest that runs here.

mod after;
mod back;
mod before;
mod switchover;

use crate::convergence::Decision;
use crate::guards::Guards;
use crate::info::Status;
use crate::message::{Failure, Handshake, ToDestination, ToSource};
use crate::named::named;
use crate::timer::Timer;

/// What an operator asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Which run of the guest this is.
    pub generation: u64,
    /// Load the state on trial before the guest stops.
    pub rehearse: bool,
    /// Postcopy is allowed.
    pub postcopy: bool,
    /// What ends the switchover.
    pub handshake: Handshake,
    /// With `Owned`: give up when the destination does not see the record, in place of going on with `Setup`.
    pub insist_on_record: bool,
    /// This side has an ownership record: it says that a migration is under way from before the
    /// stop of the guest on, with every handshake.
    pub has_record: bool,
}

/// What can happen to a source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The control link is open.
    Connected,
    /// A new nonce stands in the ownership record, or could not be written.
    NonceWritten(Result<(), String>),
    /// The destination said something.
    Message(ToSource),
    /// A link broke, could not be opened, or carried nonsense; the text says which and how.
    LinkLost(String),
    /// A timer that was started ran out.
    Timer(Timer),
    /// A round has been sent or was ended, and this is what its numbers say.
    RoundDone(Decision),
    /// The state for the rehearsal was saved; the guest runs.
    Snapshotted(Result<(), Failure>),
    /// The vCPUs are stopped, the devices drained, the disk released.
    Stopped(Result<(), Failure>),
    /// The final device state was saved.
    Saved(Result<(), Failure>),
    /// The last pages (in postcopy: none of them) and the marker behind them were handed to the bulk links.
    LastPagesSent {
        /// The marker's number.
        marker: u32,
    },
    /// The ownership record was asked to name the source again.
    TookBack(TakeBack),
    /// Postcopy: every page that the destination lacks has been handed to the links.
    AllSent,
    /// The guest runs again on the source, or could not be started.
    Resumed(Result<(), Failure>),
    /// The guest shut down or the process is about to end.
    GuestGone(String),
    /// The operator wants the destination to run now.
    StartPostcopy,
    /// The operator breaks the link on purpose (`migrate-pause`).
    Pause,
    /// The operator reconnects a paused postcopy (`migrate` with `resume`).
    Recover,
    /// The operator says who owns the guest, the other side being fenced (`x-ferry-resolve`): in an uncertainty, or, that the
    /// destination needs nothing more, in a paused postcopy.
    Resolve(Resolution),
    /// The operator cancels.
    Cancel,
}

/// One of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The side that had the guest.
    Source,
    /// The side that was to get it.
    Destination,
}

/// An operator's word about who owns the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Resolution {
    /// Who does.
    pub owner: Owner,
    /// The operator knows that the destination has never run the guest: then the source may have
    /// it although its record cannot be reached, or names the destination in this very migration.
    pub never_ran: bool,
}

impl Resolution {
    /// The guest is `owner`'s; nothing is said of what the destination did.
    #[must_use]
    pub fn to(owner: Owner) -> Self {
        Resolution { owner, never_ran: false }
    }
}

/// What came of taking the guest back in the ownership record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TakeBack {
    /// The record names the source: the destination is fenced.
    Won,
    /// The record names the destination for good: it has run the guest and settled the record.
    Lost,
    /// The record names a process that had no part in the migration: it has booted the guest.
    Taken,
    /// The record names the destination, which has not settled it yet: it is starting the guest, and may still find that it
    /// cannot and give it back.
    Claimed,
    /// Nobody knows: the record could not be reached, or its answer was lost.
    Unreachable,
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Tell clients.
    Status(Status),
    /// Open the control link; answer with `Connected` or `LinkLost`.
    Connect,
    /// Write a new nonce to the ownership record; answer with `NonceWritten`.
    WriteNonce,
    /// Tell clients which handshake is in force.
    Handshake(Handshake),
    /// Send on the control link, with its attachment.
    Send(ToDestination),
    /// Start a timer, anew if it runs.
    StartTimer(Timer),
    /// Stop a timer.
    StopTimer(Timer),
    /// Send one round; answer with `RoundDone`.
    SendRound,
    /// End the present round early; its `RoundDone` comes.
    EndRound,
    /// Save the state between two guest instructions; answer with `Snapshotted`.
    Snapshot,
    /// Stop the vCPUs, drain the devices, release the disk; answer with `Stopped`.
    StopGuest,
    /// Save the final state; answer with `Saved`.
    Save,
    /// Send what is dirty (in postcopy only find out what it is), then a marker; answer with `LastPagesSent`.
    SendLastPages {
        /// Leave the pages for after the start.
        postcopy: bool,
    },
    /// Postcopy: serve page requests and send the rest in the background; answer with `AllSent`.
    ServePages,
    /// Postcopy, after a recover: the same, but for what the destination says it lacks.
    ServeMissingPages,
    /// End what is being sent or saved, at once. Pending answers may still come, or not.
    Interrupt,
    /// Try to make the ownership record name the source; answer with `TookBack`.
    TakeBack,
    /// Take the disk back and let the guest run; answer with `Resumed`.
    ResumeGuest,
    /// The guest belongs to the destination: never run it here again.
    HandOver,
    /// Close all links.
    CloseLinks,
    /// Tell the operator that the command does not fit, and why.
    Refuse(&'static str),
    /// Answer the operator whose [`Resolution`] had to wait for the record.
    Resolved(Result<(), &'static str>),
    /// Make the ownership record say that no migration is under way: the guest is here, and its
    /// disk is held. There is no answer: the driver asks again until the record has it.
    Settle,
    /// The migration has ended.
    Finish(Outcome),
}

named!(Output, "output's name":
    Output::Status(_) => "Status",
    Output::Connect => "Connect",
    Output::WriteNonce => "WriteNonce",
    Output::Handshake(_) => "Handshake",
    Output::Send(_) => "Send",
    Output::StartTimer(_) => "StartTimer",
    Output::StopTimer(_) => "StopTimer",
    Output::SendRound => "SendRound",
    Output::EndRound => "EndRound",
    Output::Snapshot => "Snapshot",
    Output::StopGuest => "StopGuest",
    Output::Save => "Save",
    Output::SendLastPages { .. } => "SendLastPages",
    Output::ServePages => "ServePages",
    Output::ServeMissingPages => "ServeMissingPages",
    Output::Interrupt => "Interrupt",
    Output::TakeBack => "TakeBack",
    Output::ResumeGuest => "ResumeGuest",
    Output::HandOver => "HandOver",
    Output::CloseLinks => "CloseLinks",
    Output::Refuse(_) => "Refuse",
    Output::Resolved(_) => "Resolved",
    Output::Settle => "Settle",
    Output::Finish(_) => "Finish",
);

/// How a migration ended on the source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The destination runs the guest.
    Completed,
    /// The guest stays here; the text says why.
    Failed(String),
    /// The guest may be nowhere: only the handshake `none` can end like this.
    Stranded(String),
    /// The operator cancelled; the guest stays here.
    Cancelled,
}

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
    /// Asking the record for the guest; the text is why.
    TakingBack(String),
    /// The record did not answer (it is asked again), or there is none (an operator decides).
    Uncertain(String),
    Active(Drain),
    Paused(Drain),
    Recovering(Drain),
    /// Given up while the machine was being stopped or saved: that must end before the guest may run.
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
    /// Some link of the present connection is gone, whether or not that mattered when it went.
    link_lost: bool,
    /// An operator's word that waits for the record's answer.
    asked: Option<Resolution>,
    guards: Guards,
}

impl Source {
    /// A migration that has not begun.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self::with_guards(plan, Guards::all())
    }

    /// The same with some guard off: only an explorer asks for this, to see what the guard is for.
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

    /// Whether the destination may have been permitted to run the guest and has not said that it will not.
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

    /// Whether an operator's word waits for the record's answer: `Output::Resolved` is still to
    /// come.
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

    /// What was lost after the permit, while the record or the operator has not said who owns the
    /// guest.
    #[must_use]
    pub fn lost_after_permit(&self) -> Option<&str> {
        match &self.state {
            State::Uncertain(reason) | State::TakingBack(reason) => Some(reason),
            _ => None,
        }
    }

    /// Takes one input and says what to do.
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
            // A marker's arrival concerns whoever sends pages.
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
            // Without a handshake the destination's word comes when the source has let go already.
            (State::AwaitStarted, ToSource::Ready { .. }) if self.plan.handshake == Handshake::None => vec![],
            (State::AwaitReady | State::AwaitStarted, ToSource::LoadFailed(failure)) => self.load_failed(failure),
            (State::AwaitStarted | State::TakingBack(_) | State::Uncertain(_), ToSource::Started { .. }) => {
                self.started()
            }
            // With `pong` the source goes on at `Ready`, and this comes after it.
            (State::Active(_), ToSource::Started { .. }) => vec![],
            // The destination counts the pages itself, and may be done before this side has noticed that it is.
            // So it may be on a connection that was to recover it.
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

    /// Whether heartbeats go and are expected.
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

    /// What was going on, for errors.
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
