//! The secondary's state machine: from the first checkpoint to the takeover, or to a clean way out.
//!
//! ```text
//!            ┌──────────── bad: Reloading ◄──┐
//!            ▼                               │
//!   Standby{c} ── k is whole, c applied ─► Verifying ── good: commit, acknowledge ─► Standby{k}
//!       │                                    │ link lost: closes it, waits for the result
//!       ▼ link lost, silent, told            ▼
//!   Suspecting ─► Reading ─► TakingDisk ─► Trying ─► Claiming ─► Done(TookOver)
//!                  │  ▲         └── failed ──┘          │
//!                  ▼  └ no answer, no partner           ▼ lost
//!            Done(Superseded)                     Done(Superseded)
//! ```
//!
//! At every instant there is one whole checkpoint, the last commit. A failure leaves that one, and
//! a takeover goes on from it. A secondary that suspects its primary closes the links first, so
//! the primary lets out nothing that this side does not have. The module [`takeover`] goes from
//! the suspicion on.

mod interface;
mod takeover;

use crate::message::Failure;
use crate::protection::Plan;
use crate::protection::message::{ToPrimary, ToSecondary};
use crate::protection::rules::{Rule, Rules};
use crate::protection::timer::Timer;

pub use self::interface::{Input, Outcome, Output, Phase};

/// Where a secondary stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Idle,
    Standby,
    Verifying,
    /// The state of the last commit is loaded again, after this.
    Reloading(Setback),
    Suspecting,
    Reading,
    TakingDisk,
    Trying,
    Claiming,
    /// An operator decides.
    Isolated,
    Done(Outcome),
}

/// Why the state of the last commit is loaded again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Setback {
    /// This checkpoint was refused.
    Refused { epoch: u64, failure: Failure },
    /// A planned failover did not happen.
    NotStarted(Failure),
}

/// A checkpoint whose announcement has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Announced {
    epoch: u64,
    disk_applied: u64,
    whole: bool,
}

/// The secondary's side of one protection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Secondary {
    state: State,
    plan: Plan,
    rules: Rules,
    /// The last checkpoint that was committed; 0 before the first.
    committed: u64,
    /// The last checkpoint that was announced. One that was refused has a later number than the
    /// last commit.
    announced: u64,
    /// The last commit is being written into guest memory.
    applying: bool,
    /// The next one, as far as it is here.
    next: Option<Announced>,
    /// The record names this side as partner, by the primary's word.
    enrolled: bool,
    /// The primary has sent the permit of a planned failover.
    permitted: bool,
    /// Why the primary is suspected, if it is.
    suspicion: Option<String>,
    /// The primary has had its head start.
    head_start_over: bool,
    /// A record that names no partner is not asked again.
    last_look: bool,
    /// An operator has decided for this side, with the primary fenced.
    resolved: bool,
}

impl Secondary {
    /// A protection that has not begun; the first copy has converged.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self::with_rules(plan, Rules::all())
    }

    /// The same with some rule off, for an explorer.
    #[must_use]
    pub fn with_rules(plan: Plan, rules: Rules) -> Self {
        Secondary {
            state: State::Idle,
            plan,
            rules,
            committed: 0,
            announced: 0,
            applying: false,
            next: None,
            enrolled: false,
            permitted: false,
            suspicion: None,
            head_start_over: false,
            last_look: false,
            resolved: false,
        }
    }

    /// Begins, on the links of the first copy.
    ///
    /// # Panics
    /// When it has begun already.
    pub fn start(&mut self) -> Vec<Output> {
        assert_eq!(self.state, State::Idle, "a protection is started once");
        self.state = State::Standby;
        vec![Output::Phase(Phase::Syncing), Output::StartTimer(Timer::Heartbeat), Output::StartTimer(Timer::PeerSilent)]
    }

    /// The checkpoint from which a takeover goes on; 0 before the first commit.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Whether a takeover has begun.
    #[must_use]
    pub fn takes_over(&self) -> bool {
        self.suspicion.is_some() || self.permitted
    }

    /// How this side's part ended, if it has.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            State::Done(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Takes one input and returns the outputs to carry out.
    pub fn step(&mut self, input: Input) -> Vec<Output> {
        match input {
            Input::Message(message) => self.message(message),
            Input::Whole { epoch } => self.whole(epoch),
            Input::Verified(result) => self.verified(result),
            Input::Applied => self.applied(),
            Input::Reloaded(result) => self.reloaded(result),
            Input::LinkLost(reason) => self.lost(reason),
            Input::Timer(timer) => self.timer(timer),
            Input::Read(reading) => self.read(reading),
            Input::DiskTaken(result) => self.disk_taken(result),
            Input::Tried(result) => self.tried(result),
            Input::Claimed(answer) => self.claimed(answer),
            Input::LostHeartbeat => self.told_that_primary_is_lost(),
            Input::Leave(reason) => self.leave(reason),
            Input::Resolve(survivor) => self.resolve(survivor),
        }
    }

    /// Whether messages of the primary still count.
    fn listens(&self) -> bool {
        match self.state {
            State::Idle | State::Done(_) => false,
            _ => self.suspicion.is_none() || !self.rules.has(Rule::DeafOnceSuspicious),
        }
    }

    fn message(&mut self, message: ToSecondary) -> Vec<Output> {
        if !self.listens() {
            return Vec::new();
        }
        let mut outputs = Vec::new();
        if self.suspicion.is_none() {
            outputs.push(Output::StartTimer(Timer::PeerSilent));
        }
        outputs.extend(match message {
            // The driver keeps input until a checkpoint says that the guest has read it.
            ToSecondary::Heartbeat | ToSecondary::Input { .. } => Vec::new(),
            ToSecondary::Checkpoint { epoch, disk_applied, .. } if self.expects(epoch) => {
                self.announced = epoch;
                self.next = Some(Announced { epoch, disk_applied, whole: false });
                match self.rules.has(Rule::AcknowledgesWhole) {
                    true => Vec::new(),
                    false => vec![acknowledged(epoch)],
                }
            }
            ToSecondary::Enrolled { generation } if generation == self.plan.generation && self.committed > 0 => {
                self.enrolled = true;
                vec![Output::Phase(Phase::Protecting)]
            }
            ToSecondary::Permit { generation } if generation == self.plan.generation && self.may_be_permitted() => {
                self.permitted = true;
                self.take_over_when_applied()
            }
            ToSecondary::Dismiss { reason } => self.superseded(format!("the primary goes on alone: {reason}")),
            message => self.lost(format!("the primary sent {} out of place", message.name())),
        });
        outputs
    }

    /// The next checkpoint is announced once the one before it was answered.
    fn expects(&self, epoch: u64) -> bool {
        let listens_late = self.suspicion.is_some();
        self.next.is_none() && epoch == self.announced + 1 && (self.state == State::Standby || listens_late)
    }

    fn may_be_permitted(&self) -> bool {
        self.enrolled && self.state == State::Standby && self.next.is_none() && !self.permitted
    }

    fn whole(&mut self, epoch: u64) -> Vec<Output> {
        match &mut self.next {
            Some(next) if next.epoch == epoch => next.whole = true,
            _ => return Vec::new(),
        }
        self.verify_if_ready()
    }

    /// Verifies the next checkpoint if it is whole and the one before it applied.
    fn verify_if_ready(&mut self) -> Vec<Output> {
        let ready = matches!(self.state, State::Standby | State::Suspecting) && !self.applying;
        let Some(next) = self.next.filter(|next| next.whole && (ready || self.listens_late())) else {
            return Vec::new();
        };
        if self.listens_late() {
            return self.commit();
        }
        self.state = State::Verifying;
        let mut outputs = vec![Output::StartTimer(Timer::Work)];
        if !self.rules.has(Rule::AcknowledgesVerified) {
            outputs.push(acknowledged(next.epoch));
        }
        if !self.rules.has(Rule::AppliesAfterCommit) {
            outputs.push(Output::Apply { epoch: next.epoch });
        }
        outputs.push(Output::Verify { epoch: next.epoch });
        outputs
    }

    /// A takeover is under way, and the links were left open, which [`Rule::DeafOnceSuspicious`]
    /// forbids.
    fn listens_late(&self) -> bool {
        self.suspicion.is_some() && !self.rules.has(Rule::DeafOnceSuspicious)
    }

    fn verified(&mut self, result: Result<(), Failure>) -> Vec<Output> {
        let (State::Verifying, Some(next)) = (&self.state, self.next) else { return Vec::new() };
        match result {
            Ok(()) => {
                self.state = State::Standby;
                let mut outputs = vec![Output::StopTimer(Timer::Work)];
                outputs.extend(self.commit());
                if self.suspicion.is_some() {
                    outputs.extend(self.suspect());
                }
                outputs
            }
            Err(failure) if self.committed == 0 => {
                let reason = failure.to_string();
                let mut outputs = self.refuse(next.epoch, failure);
                outputs.extend(self.failed(reason));
                outputs
            }
            Err(failure) => {
                self.next = None;
                self.state = State::Reloading(Setback::Refused { epoch: next.epoch, failure });
                vec![Output::StartTimer(Timer::Work), Output::Reload { epoch: self.committed }]
            }
        }
    }

    /// The next checkpoint is good: from here on a takeover goes on from it.
    fn commit(&mut self) -> Vec<Output> {
        let Some(Announced { epoch, disk_applied, .. }) = self.next.take() else { return Vec::new() };
        (self.committed, self.applying) = (epoch, true);
        let drops_journal = if self.rules.has(Rule::KeepsJournal) { disk_applied } else { epoch };
        let mut outputs = vec![Output::Commit { epoch, drops_journal }];
        let early = !self.rules.has(Rule::AcknowledgesWhole) || !self.rules.has(Rule::AcknowledgesVerified);
        if self.listens() && !early {
            outputs.push(acknowledged(epoch));
        }
        outputs.push(Output::Apply { epoch });
        outputs
    }

    fn applied(&mut self) -> Vec<Output> {
        self.applying = false;
        let mut outputs = self.verify_if_ready();
        if outputs.is_empty() {
            outputs = self.take_over_when_applied();
        }
        outputs
    }

    fn reloaded(&mut self, result: Result<(), Failure>) -> Vec<Output> {
        let State::Reloading(setback) = &self.state else { return Vec::new() };
        let setback = setback.clone();
        self.state = State::Standby;
        let mut outputs = vec![Output::StopTimer(Timer::Work)];
        if self.listens() {
            outputs.extend(match setback {
                Setback::Refused { epoch, failure } => self.refuse(epoch, failure),
                Setback::NotStarted(failure) => vec![Output::Send(ToPrimary::NotStarted(failure))],
            });
        }
        match result {
            Err(failure) => outputs.extend(self.failed(format!("the last checkpoint does not load again: {failure}"))),
            Ok(()) if self.suspicion.is_some() => outputs.extend(self.suspect()),
            Ok(()) => {}
        }
        outputs
    }

    fn refuse(&mut self, epoch: u64, failure: Failure) -> Vec<Output> {
        if !self.listens() {
            return Vec::new();
        }
        vec![Output::Send(ToPrimary::CheckpointFailed { epoch, failure })]
    }

    fn timer(&mut self, timer: Timer) -> Vec<Output> {
        match timer {
            Timer::Heartbeat if self.listens() => {
                vec![Output::Send(ToPrimary::Heartbeat), Output::StartTimer(Timer::Heartbeat)]
            }
            Timer::PeerSilent => self.lost("the primary has been silent for too long".to_owned()),
            Timer::HeadStart => {
                self.head_start_over = true;
                self.take_over_when_applied()
            }
            Timer::RetryRecord => self.ask_again(),
            Timer::RetryTrial => self.try_again(),
            Timer::KeepStale => self.kept_long_enough(),
            Timer::Work => vec![Output::InterruptWork],
            Timer::Heartbeat | Timer::Epoch | Timer::Capture | Timer::Commit | Timer::Start | Timer::RetryDisk => {
                Vec::new()
            }
        }
    }

    fn failed(&mut self, reason: String) -> Vec<Output> {
        self.finish(Outcome::Failed(reason))
    }

    fn superseded(&mut self, reason: String) -> Vec<Output> {
        self.finish(Outcome::Superseded(reason))
    }

    fn finish(&mut self, outcome: Outcome) -> Vec<Output> {
        let timers = [
            Timer::Heartbeat,
            Timer::PeerSilent,
            Timer::HeadStart,
            Timer::RetryRecord,
            Timer::RetryTrial,
            Timer::KeepStale,
            Timer::Work,
        ];
        let mut outputs = Vec::from(timers.map(Output::StopTimer));
        if self.resolved && self.plan.has_record && outcome == Outcome::TookOver {
            outputs.push(Output::ClaimLater);
        }
        outputs.push(match outcome {
            Outcome::TookOver => Output::GoLive,
            Outcome::Superseded(_) | Outcome::Failed(_) => Output::Discard,
        });
        if self.permitted && outcome == Outcome::TookOver {
            outputs.push(Output::Send(ToPrimary::Started));
        }
        outputs.push(Output::CloseLinks);
        self.state = State::Done(outcome.clone());
        outputs.push(Output::Finish(outcome));
        outputs
    }
}

/// The driver fills in how long it took.
fn acknowledged(epoch: u64) -> Output {
    Output::Send(ToPrimary::Committed { epoch, receive_us: 0, verify_us: 0 })
}

#[cfg(test)]
mod tests;
