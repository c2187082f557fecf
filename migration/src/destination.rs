//! The destination's state machine: from an accepted connection to a running guest, or to a clean way out.
//!
//! ```text
//!  AwaitHello ─► Checking ─► Receiving ◄──► Rehearsing
//!                               │
//!                               ▼ Package
//!                           Gathering ─► Loading ─► AwaitPermit ─► Starting ─► Done(Completed)
//!                                                                     │
//!      anything that fails ─────────────────────────────────────► Done(Failed)
//! ```
//!
//! Until the permit is here, every way out is safe: the guest is the source's. From the permit on the machine starts, whatever
//! becomes of the link. A destination that gives up says so (`NotStarted`) when it can, and never runs after it.

use crate::message::{Failure, PROTOCOL_VERSION, ToDestination, ToSource};
use crate::timer::Timer;

/// What can happen to a destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The source said something.
    Message(ToDestination),
    /// A link broke or carried nonsense; the text says which and how.
    LinkLost(String),
    /// A timer that was started ran out.
    Timer(Timer),
    /// The greeting was compared with this machine; an error names the first item that differs.
    Checked(Result<(), String>),
    /// Every bulk link has delivered the marker of this number.
    MarkerReached(u32),
    /// Loading (on trial, or for real) has ended.
    Loaded(Result<LoadTimes, Failure>),
    /// The vCPUs run, or could not be started; microseconds since the permit.
    Started(Result<u64, Failure>),
    /// The operator ends the process or the attempt.
    Cancel,
}

/// How long a load took, for the source's account of the downtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LoadTimes {
    /// Microseconds from the package's arrival to the end of loading.
    pub load_us: u64,
    /// Microseconds of these that went into waiting for the last pages.
    pub pages_us: u64,
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Compare the greeting with this machine; answer with `Checked`.
    CheckGreeting,
    /// Take pages from the bulk links; report `MarkerReached`.
    ReceivePages,
    /// Send on the control link.
    Send(ToSource),
    /// Start a timer, anew if it runs.
    StartTimer(Timer),
    /// Stop a timer.
    StopTimer(Timer),
    /// Load the last state received, `post_load` included; answer with `Loaded`.
    Load {
        /// Whether this is the rehearsal.
        rehearsal: bool,
    },
    /// End a load that is going on, at once.
    Interrupt,
    /// Take the disk and run the guest (if it ran at the source); answer with `Started`.
    Start,
    /// Close all links.
    CloseLinks,
    /// The attempt has ended.
    Finish(Outcome),
}

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
    Gathering { marker: u32 },
    Loading,
    AwaitPermit,
    Starting,
    Done,
}

/// The destination's side of one migration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    state: State,
    generation: u64,
    marker_reached: u32,
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
        Destination { state: State::AwaitHello, generation: 0, marker_reached: 0 }
    }

    /// Begins.
    pub fn start(&mut self) -> Vec<Output> {
        vec![Output::StartTimer(Timer::Setup)]
    }

    /// Whether the guest may be running here.
    #[must_use]
    pub fn may_run(&self) -> bool {
        self.state == State::Starting
    }

    /// Takes one input and says what to do.
    pub fn step(&mut self, input: Input) -> Vec<Output> {
        if self.state == State::Done {
            return vec![];
        }
        match input {
            Input::Message(message) => self.message(message),
            Input::LinkLost(reason) => self.lost(reason),
            Input::Timer(timer) => self.timer(timer),
            Input::Checked(result) => self.checked(result),
            Input::MarkerReached(number) => self.marker(number),
            Input::Loaded(result) => self.loaded(result),
            Input::Started(result) => self.started(result),
            Input::Cancel => self.lost("the destination was told to end".into()),
        }
    }

    fn message(&mut self, message: ToDestination) -> Vec<Output> {
        let mut out = match (&self.state, message) {
            // Nothing that comes after the permit may stop the start.
            (State::Starting, _) => return vec![],
            (_, ToDestination::Heartbeat) => vec![],
            (_, ToDestination::Cancel { reason }) => return self.cancelled(reason),
            (State::AwaitHello, ToDestination::Hello { version, generation }) => self.hello(version, generation),
            (State::Receiving, ToDestination::Rehearse) => {
                self.state = State::Rehearsing;
                vec![Output::Load { rehearsal: true }]
            }
            (State::Receiving, ToDestination::Package { generation, marker }) if generation == self.generation => {
                self.state = State::Gathering { marker };
                self.gather()
            }
            (State::AwaitPermit, ToDestination::Permit { generation }) if generation == self.generation => {
                self.state = State::Starting;
                vec![Output::StopTimer(Timer::PeerSilent), Output::StopTimer(Timer::Heartbeat), Output::Start]
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

    fn hello(&mut self, version: u16, generation: u64) -> Vec<Output> {
        if version != PROTOCOL_VERSION {
            let reason = format!("protocol version: the source has {version}, the destination has {PROTOCOL_VERSION}");
            return self.refuse(reason);
        }
        self.generation = generation;
        self.state = State::Checking;
        vec![Output::CheckGreeting]
    }

    fn checked(&mut self, result: Result<(), String>) -> Vec<Output> {
        match (&self.state, result) {
            (State::Checking, Ok(())) => {
                self.state = State::Receiving;
                vec![
                    Output::StopTimer(Timer::Setup),
                    Output::ReceivePages,
                    Output::Send(ToSource::HelloAck),
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

    fn marker(&mut self, number: u32) -> Vec<Output> {
        self.marker_reached = self.marker_reached.max(number);
        self.gather()
    }

    fn gather(&mut self) -> Vec<Output> {
        match self.state {
            State::Gathering { marker } if self.marker_reached >= marker => {
                self.state = State::Loading;
                vec![Output::Load { rehearsal: false }]
            }
            _ => vec![],
        }
    }

    fn loaded(&mut self, result: Result<LoadTimes, Failure>) -> Vec<Output> {
        match (&self.state, result) {
            (State::Rehearsing, Ok(_)) => {
                self.state = State::Receiving;
                vec![Output::Send(ToSource::Rehearsed)]
            }
            (State::Rehearsing, Err(failure)) => {
                let reason = format!("could not load the device state in rehearsal: {failure}");
                self.end(Some(ToSource::RehearsalFailed(failure)), reason)
            }
            (State::Loading, Ok(times)) => {
                self.state = State::AwaitPermit;
                vec![Output::Send(ToSource::Ready { load_us: times.load_us, pages_us: times.pages_us })]
            }
            (State::Loading, Err(failure)) => {
                let reason = format!("could not load the device state: {failure}");
                self.end(Some(ToSource::LoadFailed(failure)), reason)
            }
            _ => vec![],
        }
    }

    fn started(&mut self, result: Result<u64, Failure>) -> Vec<Output> {
        if self.state != State::Starting {
            return vec![];
        }
        match result {
            Ok(start_us) => {
                self.state = State::Done;
                vec![
                    Output::Send(ToSource::Started { start_us }),
                    Output::CloseLinks,
                    Output::Finish(Outcome::Completed),
                ]
            }
            Err(failure) => {
                let reason = format!("could not start the guest: {failure}");
                self.end(Some(ToSource::NotStarted(failure)), reason)
            }
        }
    }

    fn cancelled(&mut self, reason: String) -> Vec<Output> {
        self.end(None, reason)
    }

    fn lost(&mut self, reason: String) -> Vec<Output> {
        if self.state == State::Starting {
            return vec![];
        }
        let reason = format!("{reason} ({})", self.doing());
        self.give_up("link", reason)
    }

    fn give_up(&mut self, what: &str, reason: String) -> Vec<Output> {
        let failure = Failure { device: what.to_owned(), reason: reason.clone() };
        self.end(Some(ToSource::NotStarted(failure)), reason)
    }

    fn end(&mut self, last_word: Option<ToSource>, reason: String) -> Vec<Output> {
        self.state = State::Done;
        let mut out = vec![Output::Interrupt];
        out.extend(last_word.map(Output::Send));
        out.extend([Output::CloseLinks, Output::Finish(Outcome::Failed(reason))]);
        out
    }

    fn timer(&mut self, timer: Timer) -> Vec<Output> {
        match timer {
            Timer::Heartbeat if self.hears_peer() => {
                vec![Output::Send(ToSource::Heartbeat), Output::StartTimer(Timer::Heartbeat)]
            }
            Timer::Setup => self.lost("the source did not introduce itself in time".into()),
            Timer::PeerSilent => self.lost("the source gave no sign of life in time".into()),
            _ => vec![],
        }
    }

    fn hears_peer(&self) -> bool {
        !matches!(self.state, State::AwaitHello | State::Checking | State::Starting | State::Done)
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
            State::Starting => "starting the guest",
            State::Done => "done",
        }
    }
}

#[cfg(test)]
#[path = "destination_tests.rs"]
mod tests;
