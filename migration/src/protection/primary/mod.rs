//! The primary's state machine: from the first capture to the end of the protection.
//!
//! ```text
//!  Syncing ─► First ─► Enrolling ─► Protected ─► (planned) Releasing ─► AwaitStarted ─► Done(Moved)
//!     │         │          │            │                                 │
//!     ▼         ▼          ▼            ▼                                 ▼
//!  Done(Unprotected)     Parting ◄──────┴─────────────────────────────────┘
//!                         │   ⇅ no answer
//!                won      │ Isolated        lost
//!  Done(Unprotected) ◄────┴───────────────► Deposing ─► Done(Deposed)
//! ```
//!
//! Until the request to enrol, a failure costs only the protection. From then on the record
//! decides, or an operator in its place: what is held stays held until the solo swap is won, and
//! is dropped if it is lost. The module [`parting`] has these ways out, [`failover`] the planned
//! one.

mod failover;
mod interface;
mod parting;

use crate::message::Failure;
use crate::protection::message::{ToPrimary, ToSecondary};
use crate::protection::rules::{Rule, Rules};
use crate::protection::timer::Timer;
use crate::protection::{Answer, Plan};

pub use self::interface::{Input, Outcome, Output, Phase, Survivor};

/// So many failed verifications in a row end the protection.
const MOST_FAILED_COMMITS: u8 = 2;
/// So many failed captures in a row do.
const MOST_FAILED_CAPTURES: u8 = 3;

/// Where a primary stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Idle,
    /// Checkpoint 1 is being captured.
    Syncing,
    /// Checkpoint 1 was sent.
    First,
    /// The record is asked to name the partner.
    Enrolling,
    Protected,
    /// The last checkpoint is committed: the disk is being released for a planned failover.
    Releasing,
    /// The permit of a planned failover may have been delivered.
    AwaitStarted,
    /// The record is asked for the solo swap; the text is the reason.
    Parting(String),
    /// The record has not answered it (it is asked again), or there is none (an operator decides).
    Isolated(String),
    /// The record names another process: the guest is being stopped.
    Deposing(String),
    Done(Outcome),
}

/// Whether this side holds the guest's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Disk {
    Held,
    /// It is being released for a planned failover.
    Releasing,
    Released,
}

/// The primary's side of one protection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Primary {
    state: State,
    plan: Plan,
    rules: Rules,
    /// The checkpoint at the end of the present epoch.
    epoch: u64,
    /// A capture is under way; whether it leaves the guest stopped.
    capturing: Option<bool>,
    /// The checkpoint that was sent and is not answered. There is one at most.
    in_flight: Option<u64>,
    /// The epoch is to end as soon as that is possible.
    due: bool,
    /// A planned failover is under way: the next checkpoint is the last.
    leaving: bool,
    /// The guest was left stopped.
    stopped: bool,
    disk: Disk,
    /// The links are open.
    linked: bool,
    failed_commits: u8,
    failed_captures: u8,
}

impl Primary {
    /// A protection that has not begun; the first copy has converged.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self::with_rules(plan, Rules::all())
    }

    /// The same with some rule off, for an explorer.
    #[must_use]
    pub fn with_rules(plan: Plan, rules: Rules) -> Self {
        Primary {
            state: State::Idle,
            plan,
            rules,
            epoch: 1,
            capturing: None,
            in_flight: None,
            due: false,
            leaving: false,
            stopped: false,
            disk: Disk::Held,
            linked: true,
            failed_commits: 0,
            failed_captures: 0,
        }
    }

    /// Begins, on the links of the first copy.
    ///
    /// # Panics
    /// When it has begun already.
    pub fn start(&mut self) -> Vec<Output> {
        assert_eq!(self.state, State::Idle, "a protection is started once");
        self.state = State::Syncing;
        let mut outputs = vec![
            Output::Phase(Phase::Syncing),
            Output::StartTimer(Timer::Heartbeat),
            Output::StartTimer(Timer::PeerSilent),
        ];
        outputs.extend(self.capture());
        outputs
    }

    /// Whether the record may name the secondary as partner: only a swap ends the protection.
    #[must_use]
    pub fn may_be_enrolled(&self) -> bool {
        matches!(
            self.state,
            State::Enrolling
                | State::Protected
                | State::Releasing
                | State::AwaitStarted
                | State::Parting(_)
                | State::Isolated(_)
        )
    }

    /// Whether the protection is about to end: the record is asked, or does not answer.
    #[must_use]
    pub fn parts(&self) -> bool {
        matches!(self.state, State::Parting(_) | State::Isolated(_) | State::Deposing(_))
    }

    /// How the protection ended, if it has.
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
            Input::Captured { epoch, result } => self.captured(epoch, result),
            Input::Message(message) => self.message(message),
            Input::LinkLost(reason) => self.lost(reason),
            Input::Timer(timer) => self.timer(timer),
            Input::Enrolled(answer) => self.enrolled(answer),
            Input::Soloed(answer) => self.soloed(answer),
            Input::EpochEnds => self.epoch_ends(),
            Input::GuestStopped => self.guest_stopped(),
            Input::DiskReleased(result) => self.disk_released(result),
            Input::DiskTaken(result) => self.disk_taken(result),
            Input::GuestGone(reason) => self.end(reason),
            Input::Unprotect => self.unprotect("the operator has ended the protection"),
            Input::LostHeartbeat => self.unprotect("the operator has declared the secondary lost"),
            Input::Failover => self.failover(),
            Input::Resolve(survivor) => self.resolve(survivor),
        }
    }

    fn capture(&mut self) -> Vec<Output> {
        (self.capturing, self.due) = (Some(self.leaving), false);
        let holds = self.epoch == 1 && self.rules.has(Rule::HoldsFirst);
        let capture = Output::Capture { epoch: self.epoch, holds, stays: self.leaving };
        vec![Output::StartTimer(Timer::Capture), capture]
    }

    /// Captures if the epoch is to end and nothing is under way.
    pub(super) fn capture_if_due(&mut self) -> Vec<Output> {
        let goes_on = matches!(self.state, State::Enrolling | State::Protected);
        let rests = self.capturing.is_none() && self.in_flight.is_none();
        let free = goes_on && rests && self.epoch > 1 && !self.stopped;
        if free && (self.due || self.leaving) { self.capture() } else { Vec::new() }
    }

    fn captured(&mut self, epoch: u64, result: Result<(), Failure>) -> Vec<Output> {
        let stays = self.capturing.take().unwrap_or_default();
        self.stopped |= stays && result.is_ok();
        let mut outputs = vec![Output::StopTimer(Timer::Capture)];
        outputs.extend(match (&self.state, result) {
            (State::Syncing | State::Enrolling | State::Protected, Ok(())) => self.checkpoint(epoch),
            (State::Syncing, Err(failure)) => self.unprotected(failure.to_string()),
            (State::Enrolling | State::Protected, Err(failure)) => self.capture_failed(&failure),
            // The protection has ended meanwhile, or is about to.
            (State::Done(Outcome::Unprotected(_)), result) => {
                // The first capture closes the gate.
                let mut outputs = vec![Output::ReleaseAll];
                outputs.extend(result.is_ok().then_some(Output::Restore { epoch }));
                outputs.extend(self.resume());
                outputs
            }
            (_, Ok(())) => vec![Output::Restore { epoch }],
            (_, Err(_)) => Vec::new(),
        });
        outputs
    }

    /// The checkpoint was captured: sends it.
    fn checkpoint(&mut self, epoch: u64) -> Vec<Output> {
        (self.epoch, self.in_flight, self.failed_captures) = (epoch + 1, Some(epoch), 0);
        let mut outputs =
            vec![Output::SendCheckpoint { epoch }, Output::StartTimer(Timer::Commit), Output::StartTimer(Timer::Epoch)];
        if !self.rules.has(Rule::ReleasesOnCommit) {
            outputs.push(Output::Release { epoch });
        }
        if self.state == State::Syncing {
            self.state = State::First;
            if !self.rules.has(Rule::EnrolsAfterCommit) {
                self.state = State::Enrolling;
                outputs.push(Output::Enrol);
            }
        }
        outputs
    }

    fn capture_failed(&mut self, failure: &Failure) -> Vec<Output> {
        self.failed_captures += 1;
        if self.failed_captures >= MOST_FAILED_CAPTURES {
            return self.part(format!("no checkpoint can be captured: {failure}"), false);
        }
        if std::mem::take(&mut self.leaving) {
            return vec![Output::StartTimer(Timer::Epoch), Output::FailoverFailed(failure.to_string())];
        }
        vec![Output::StartTimer(Timer::Epoch)]
    }

    fn message(&mut self, message: ToPrimary) -> Vec<Output> {
        if !self.linked {
            return self.late(message);
        }
        let mut outputs = vec![Output::StartTimer(Timer::PeerSilent)];
        outputs.extend(match (message, &self.state) {
            (ToPrimary::Heartbeat, _) => Vec::new(),
            // The operator ends the protection: nothing that the secondary sends matters any more.
            (_, State::Parting(_)) => Vec::new(),
            (ToPrimary::Committed { epoch, .. }, _) if self.in_flight == Some(epoch) => self.committed(epoch),
            (ToPrimary::CheckpointFailed { epoch, failure }, _) if self.in_flight == Some(epoch) => {
                self.refused(epoch, &failure)
            }
            (ToPrimary::Started, State::AwaitStarted) => self.moved(),
            (ToPrimary::NotStarted(failure), State::AwaitStarted) => {
                self.state = State::Protected;
                let mut outputs = vec![Output::StopTimer(Timer::Start)];
                outputs.extend(self.stay(failure.to_string()));
                outputs
            }
            (message, _) => self.lost(format!("the secondary sent {} out of place", message.name())),
        });
        outputs
    }

    /// A message that arrives after the links were given up.
    fn late(&mut self, message: ToPrimary) -> Vec<Output> {
        match message {
            ToPrimary::Committed { epoch, .. } if !self.rules.has(Rule::IgnoresLateCommit) => {
                vec![Output::Release { epoch }]
            }
            _ => Vec::new(),
        }
    }

    fn committed(&mut self, epoch: u64) -> Vec<Output> {
        (self.in_flight, self.failed_commits) = (None, 0);
        let mut outputs = vec![Output::StopTimer(Timer::Commit), Output::Forget { epoch }];
        match self.state {
            State::First if self.plan.has_record => {
                self.state = State::Enrolling;
                outputs.push(Output::Enrol);
            }
            State::First => outputs.extend(self.protected()),
            State::Protected if self.stopped && self.leaving => {
                self.disk = Disk::Releasing;
                self.state = State::Releasing;
                outputs.extend([
                    Output::Release { epoch },
                    Output::StopTimer(Timer::Epoch),
                    Output::StartTimer(Timer::Start),
                    Output::ReleaseDisk,
                ]);
            }
            _ => {
                outputs.push(Output::Release { epoch });
                outputs.extend(self.capture_if_due());
            }
        }
        outputs
    }

    fn refused(&mut self, epoch: u64, failure: &Failure) -> Vec<Output> {
        self.in_flight = None;
        self.failed_commits += 1;
        let mut outputs = vec![Output::StopTimer(Timer::Commit)];
        outputs.push(match self.rules.has(Rule::KeepsHarvest) {
            true => Output::Restore { epoch },
            false => Output::Forget { epoch },
        });
        if !self.rules.has(Rule::FailedReleasesNothing) {
            outputs.push(Output::Release { epoch });
        }
        let reason = format!("the secondary refuses checkpoint {epoch}: {failure}");
        if !self.may_be_enrolled() {
            outputs.extend(self.unprotected(reason));
        } else if self.failed_commits >= MOST_FAILED_COMMITS {
            outputs.extend(self.part(reason, false));
        } else if self.stopped && self.leaving {
            outputs.extend(self.stay(reason));
        } else {
            outputs.extend(self.capture_if_due());
        }
        outputs
    }

    fn enrolled(&mut self, answer: Answer) -> Vec<Output> {
        if self.state != State::Enrolling {
            return Vec::new();
        }
        match answer {
            Answer::Won => self.protected(),
            Answer::Lost => self.part("the ownership record names another process".to_owned(), false),
            Answer::Unreachable if !self.rules.has(Rule::UnansweredEnrolmentMayBe) => {
                self.unprotected("the ownership record does not answer".to_owned())
            }
            Answer::Unreachable => vec![Output::Phase(Phase::Enrolling), Output::StartTimer(Timer::RetryRecord)],
        }
    }

    fn protected(&mut self) -> Vec<Output> {
        self.state = State::Protected;
        let mut outputs = vec![
            Output::Send(ToSecondary::Enrolled { generation: self.plan.generation }),
            Output::Phase(Phase::Protected),
        ];
        if !self.rules.has(Rule::HoldsFirst) {
            outputs.push(Output::Hold);
        }
        outputs.extend(self.capture_if_due());
        outputs
    }

    fn epoch_ends(&mut self) -> Vec<Output> {
        self.due = true;
        self.capture_if_due()
    }

    fn timer(&mut self, timer: Timer) -> Vec<Output> {
        match timer {
            Timer::Heartbeat if self.linked => {
                vec![Output::Send(ToSecondary::Heartbeat), Output::StartTimer(Timer::Heartbeat)]
            }
            Timer::PeerSilent => self.lost("the secondary has been silent for too long".to_owned()),
            Timer::Commit => self.lost("the secondary has not committed a checkpoint in time".to_owned()),
            Timer::Start => self.lost("the secondary has not reported in time whether it runs the guest".to_owned()),
            Timer::Epoch => self.epoch_ends(),
            Timer::Capture => vec![Output::InterruptCapture],
            Timer::RetryRecord => self.ask_again(),
            Timer::RetryDisk => self.resume(),
            Timer::Heartbeat | Timer::HeadStart | Timer::RetryTrial | Timer::KeepStale | Timer::Work => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
