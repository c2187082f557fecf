//! The destination's state machine: from an accepted connection to a running guest, or to a clean
//! way out.
//!
//! ```text
//!  AwaitHello ─► Checking ─► Receiving ◄──► Rehearsing
//!                               │
//!                               ▼ Package
//!                           Gathering ─► Loading ─► AwaitPermit ─► Claiming ─► Starting ─► Done(Completed)
//!                                                                     ⇅           │  └─► Postcopy: Active ⇄ Paused ─► Done
//!                                                                   Unsure     GivingBack ─► Done(Failed)
//!      anything that fails before the permit ────────────────────────────────────────────► Done(Failed)
//! ```
//!
//! Until the permit is here, every way out is safe: the guest is the source's. From the permit on
//! the ownership record (where there is one) decides, even if the link is lost. A destination that
//! gives up sends `NotStarted` if it can, and never runs after it.
//!
//! The module [`before`] goes up to the permit, [`after`] from there on.

mod after;
mod before;

use crate::guards::{Guard, Guards};
use crate::message::{Failure, Handshake, ToDestination, ToSource};
use crate::named::named;
use crate::timer::Timer;

/// The delay is on this side, not at the source.
const CHECK_IS_LATE: &str = "the destination did not get ready in time; see whether its host or its storage is held up, then \
                             try again";

/// An input of a destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// A message from the source.
    Message(ToDestination),
    /// A link broke or carried invalid data; the text says which and how.
    LinkLost(String),
    /// A timer that was started ran out.
    Timer(Timer),
    /// The greeting was compared with this machine: whether this side sees the source's nonce in
    /// the ownership record, or the first item that differs.
    Checked(Result<bool, String>),
    /// Every bulk link has delivered the marker of this number.
    MarkerReached(u32),
    /// Loading (on trial, or for real) has ended.
    Loaded(Result<LoadTimes, Failure>),
    /// The attempt to claim the guest in the ownership record has ended.
    Claimed(Claim),
    /// The attempt to give the guest back in the ownership record has ended.
    GaveBack(GiveBack),
    /// The vCPUs run, or could not be started; microseconds since the permit.
    Started(Result<u64, Failure>),
    /// Postcopy: every page is here.
    AllReceived,
    /// Postcopy: the fault handler has died; the text says how.
    FaultsDied(String),
    /// The operator breaks the link on purpose (`migrate-pause`).
    Pause,
    /// The guest has ended here, or the process has to end: the text says why.
    Ends(String),
}

/// The result of claiming the guest in the ownership record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    /// The record names this side.
    Won,
    /// The source has taken the guest back.
    Lost,
    /// The outcome is unknown: the record could not be reached, or its answer was lost.
    Unreachable,
}

/// The result of giving the guest back in the ownership record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GiveBack {
    /// The record names the source.
    Done,
    /// The record could not be reached.
    Unreachable,
}

/// How long a load took, for the source's account of the downtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LoadTimes {
    /// Microseconds from the package's arrival to the end of loading.
    pub load_us: u64,
    /// Of these, microseconds spent waiting for the last pages.
    pub pages_us: u64,
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Compare the greeting with this machine; answer with `Checked`.
    CheckGreeting,
    /// Receive pages from the bulk links; report `MarkerReached`.
    ReceivePages,
    /// Send on the control link, with its attachment.
    Send(ToSource),
    /// Start a timer, anew if it runs.
    StartTimer(Timer),
    /// Stop a timer.
    StopTimer(Timer),
    /// Load the last state received, `post_load` included; answer with `Loaded`. In postcopy the
    /// remaining pages are registered with userfaultfd first.
    Load {
        /// Whether this is the rehearsal.
        rehearsal: bool,
        /// Whether pages remain.
        postcopy: bool,
    },
    /// End a load that is going on, at once.
    Interrupt,
    /// Try to make the ownership record name this side; answer with `Claimed`.
    Claim,
    /// Make the ownership record name the source again; answer with `GaveBack`.
    GiveBack,
    /// Settle the ownership record: the guest runs here for good. There is no answer: the driver
    /// retries until the record is settled, even after the end; until then the source keeps its
    /// state.
    Settle,
    /// Take the disk and run the guest (if it ran at the source); answer with `Started`.
    Start,
    /// Postcopy: the link is gone; the guest waits where it needs a page. The driver listens for a
    /// recover.
    Paused,
    /// Postcopy: the link is back.
    Resumed,
    /// The guest cannot go on: a page that it needs will never arrive.
    LoseGuest(String),
    /// Close all links.
    CloseLinks,
    /// The attempt has ended.
    Finish(Outcome),
}

named!(Output, "output's name":
    Output::CheckGreeting => "CheckGreeting",
    Output::ReceivePages => "ReceivePages",
    Output::Send(_) => "Send",
    Output::StartTimer(_) => "StartTimer",
    Output::StopTimer(_) => "StopTimer",
    Output::Load { rehearsal: true, .. } => "Rehearse",
    Output::Load { rehearsal: false, .. } => "Load",
    Output::Interrupt => "Interrupt",
    Output::Claim => "Claim",
    Output::GiveBack => "GiveBack",
    Output::Settle => "Settle",
    Output::Start => "Start",
    Output::Paused => "Paused",
    Output::Resumed => "Resumed",
    Output::LoseGuest(_) => "LoseGuest",
    Output::CloseLinks => "CloseLinks",
    Output::Finish(_) => "Finish",
);

/// How an incoming migration ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The guest is here.
    Completed,
    /// The guest is not here and will not be; the text says why.
    Failed(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    AwaitHello,
    Checking,
    Receiving,
    Rehearsing,
    Gathering {
        marker: u32,
    },
    Loading,
    AwaitPermit,
    /// The claim is under way.
    Claiming,
    /// The record could not be reached; the claim is retried.
    Unsure,
    Starting,
    /// It could not start: the record must name the source before `NotStarted` is sent.
    GivingBack(Failure),
    Active,
    Paused,
    Done,
}

/// The destination's side of one migration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    state: State,
    generation: u64,
    handshake: Handshake,
    postcopy_offered: bool,
    postcopy: bool,
    marker_reached: u32,
    all_received: bool,
    link_lost: bool,
    /// The fault handler died while the start was under way.
    faults_died: Option<String>,
    /// The process has to end while the start is under way; the reason.
    leaving: Option<String>,
    guards: Guards,
}

impl Default for Destination {
    fn default() -> Self {
        Self::new()
    }
}

impl Destination {
    /// A destination to which a source has just connected.
    #[must_use]
    pub fn new() -> Self {
        Self::with_guards(Guards::all())
    }

    /// The same with some guard off, for an explorer.
    #[must_use]
    pub fn with_guards(guards: Guards) -> Self {
        Destination {
            state: State::AwaitHello,
            generation: 0,
            handshake: Handshake::Setup,
            postcopy_offered: false,
            postcopy: false,
            marker_reached: 0,
            all_received: false,
            link_lost: false,
            faults_died: None,
            leaving: None,
            guards,
        }
    }

    /// Begins.
    pub fn start(&mut self) -> Vec<Output> {
        vec![Output::StartTimer(Timer::Setup)]
    }

    /// Whether the guest runs here while pages are missing.
    #[must_use]
    pub fn is_in_postcopy(&self) -> bool {
        matches!(self.state, State::Active | State::Paused)
    }

    /// The handshake in force.
    #[must_use]
    pub fn handshake(&self) -> Handshake {
        self.handshake
    }

    /// Whether the source may switch to postcopy.
    #[must_use]
    pub fn may_go_postcopy(&self) -> bool {
        self.postcopy_offered
    }

    /// Takes one input and returns the outputs to carry out.
    pub fn step(&mut self, input: Input) -> Vec<Output> {
        if self.state == State::Done && self.guards.has(Guard::NothingAfterDone) {
            return vec![];
        }
        match input {
            Input::Message(message) => self.message(message),
            Input::LinkLost(reason) => self.lost(reason),
            Input::Timer(timer) => self.timer(timer),
            Input::Checked(result) => self.checked(result),
            Input::MarkerReached(number) => self.marker(number),
            Input::Loaded(result) => self.loaded(result),
            Input::Claimed(result) => self.claimed(result),
            Input::GaveBack(result) => self.gave_back(result),
            Input::Started(result) => self.started(result),
            Input::AllReceived => self.all_received(),
            Input::FaultsDied(reason) => self.faults_died(reason),
            Input::Pause => self.pause(),
            Input::Ends(reason) => self.ends(reason),
        }
    }

    fn message(&mut self, message: ToDestination) -> Vec<Output> {
        let mut out = match (&self.state, message) {
            // No message after the permit may stop the claim or the start.
            (State::Claiming | State::Unsure | State::Starting | State::GivingBack(_), _)
                if self.guards.has(Guard::PermitOutlivesLink) =>
            {
                return vec![];
            }
            (_, ToDestination::Heartbeat) => vec![],
            (State::Active, ToDestination::Drained) if !self.guards.has(Guard::CompletesWithAllPages) => self.drained(),
            (State::Active, ToDestination::Drained) => vec![],
            (State::Paused, ToDestination::Recover { generation }) => self.recover(generation),
            (State::Active | State::Paused, unexpected) => {
                return self.lost(format!("the source sent {} during postcopy", unexpected.name()));
            }
            (_, ToDestination::Cancel { reason }) => return self.end(None, reason),
            (State::AwaitHello, ToDestination::Recover { .. }) => {
                let reason = "this process waits for a new migration: it has no paused postcopy to recover".to_owned();
                return self.end(Some(ToSource::RecoverRefused { reason: reason.clone() }), reason);
            }
            (State::AwaitHello, ToDestination::Hello { version, generation, postcopy, handshake }) => {
                self.generation = generation;
                self.postcopy_offered = postcopy;
                self.handshake = handshake;
                self.hello(version)
            }
            (State::Receiving, ToDestination::Rehearse) => {
                self.state = State::Rehearsing;
                vec![Output::Load { rehearsal: true, postcopy: false }]
            }
            (State::Receiving, ToDestination::Package { generation, marker, postcopy })
                if self.is_this_run(generation, Guard::PackageNeedsGeneration)
                    && (self.postcopy_offered || !postcopy) =>
            {
                self.postcopy = postcopy;
                self.state = State::Gathering { marker };
                self.gather()
            }
            (State::AwaitPermit, ToDestination::Permit { generation })
                if self.is_this_run(generation, Guard::PermitNeedsGeneration) =>
            {
                self.permitted()
            }
            (_, unexpected) => {
                let reason = format!("the source sent {} while {}", unexpected.name(), self.doing());
                return self.give_up("protocol", reason);
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
                vec![Output::Send(ToSource::Heartbeat), Output::StartTimer(Timer::Heartbeat)]
            }
            (Timer::Setup, State::AwaitHello) => self.lost("the source did not introduce itself in time".into()),
            // The driver names the part that has not answered, if it is known.
            (Timer::Setup, State::Checking) => self.lost(CHECK_IS_LATE.to_owned()),
            (Timer::PeerSilent, _) if self.hears_peer() => self.lost("the source gave no sign of life in time".into()),
            (Timer::Recover, State::Paused) => self.lost("the source did not ask to recover in time".into()),
            (Timer::RetryRecord, State::Unsure) => {
                self.state = State::Claiming;
                vec![Output::Claim]
            }
            (Timer::RetryRecord, State::GivingBack(_)) => vec![Output::GiveBack],
            _ => vec![],
        }
    }

    fn is_this_run(&self, generation: u64, guard: Guard) -> bool {
        generation == self.generation || !self.guards.has(guard)
    }

    fn hears_peer(&self) -> bool {
        matches!(
            self.state,
            State::Receiving
                | State::Rehearsing
                | State::Gathering { .. }
                | State::Loading
                | State::AwaitPermit
                | State::Active
        )
    }

    fn doing(&self) -> &'static str {
        match self.state {
            State::AwaitHello => "waiting for its greeting",
            State::Checking => "comparing the machines",
            State::Receiving => "receiving pages",
            State::Rehearsing => "rehearsing",
            State::Gathering { .. } => "receiving the last pages",
            State::Loading => "loading the device state",
            State::AwaitPermit => "waiting for the permit",
            State::Claiming | State::Unsure => "claiming the guest",
            State::Starting => "starting the guest",
            State::GivingBack(_) => "giving the guest back",
            State::Active | State::Paused => "running the guest in postcopy",
            State::Done => "done",
        }
    }
}

#[cfg(test)]
mod tests;
