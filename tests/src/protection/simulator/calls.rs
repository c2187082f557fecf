//! What a driver asks of the world around it: the record, the links, the clock.

use ferry_migration::ownership::{Change, Name, OwnerId, Record, Verdict, judge};
use ferry_migration::protection::{Answer, Timer, primary, secondary};
use ferry_migration::wire::Message;

use super::Micros;
use super::faults::Reply;
use super::process::Role;
use super::sim::{Event, Job, Operation, Sim};

/// Longest epoch.
const EPOCH: Micros = 12_000;

impl Sim {
    pub(super) fn ask(&mut self, at: usize, operation: Operation) {
        self.job(at, Job::Record(operation), (800, 6_000));
    }

    pub(super) fn record_is_asked(&mut self, at: usize, operation: Operation) {
        let me = owner(at);
        let partnership = match &self.processes[at].role {
            Role::Primary(host) => host.partnership.clone(),
            Role::Secondary(host) => host.partnership.clone(),
            _ => return,
        };
        let unreachable = self.processes[at].cut_off_until > self.now;
        let change = match operation {
            Operation::Read => {
                let reading = (!unreachable).then(|| partnership.reading(&me, Some(&self.record)));
                return self.step_secondary(at, secondary::Input::Read(reading));
            }
            Operation::Enrol => partnership.enrol(&owner(self.links[self.processes[at].link.expect("a link")].ends[1])),
            Operation::Solo => partnership.solo(),
            Operation::TakeOver => partnership.take_over(&me),
        };
        let mine = |record: &Record| partnership.is_mine(&me, record) && !matches!(operation, Operation::Enrol);
        let answer = match self.planned.record() {
            _ if unreachable => Answer::Unreachable,
            Reply::Whole => match self.change(&change) {
                Answer::Lost if mine(&self.record) => Answer::Won,
                answer => answer,
            },
            Reply::Lost => {
                self.change(&change);
                Answer::Unreachable
            }
            Reply::Late => {
                let after = self.rng.within(1_000, 1_500_000);
                self.at(after, Event::LateChange(Box::new(change)));
                Answer::Unreachable
            }
        };
        self.note(|| format!("{at}: the record is asked to {operation:?}: {answer:?}"));
        match operation {
            Operation::Enrol => self.step_primary(at, primary::Input::Enrolled(answer)),
            Operation::Solo => self.step_primary(at, primary::Input::Soloed(answer)),
            Operation::TakeOver | Operation::Read => self.step_secondary(at, secondary::Input::Claimed(answer)),
        }
    }

    pub(super) fn change(&mut self, change: &Change) -> Answer {
        match judge(&self.record, &change.expected, &change.record) {
            Ok(Verdict::Write) => {
                self.record = change.record.clone();
                Answer::Won
            }
            Ok(Verdict::Repeat) => Answer::Won,
            Ok(Verdict::Lost) => Answer::Lost,
            Err(error) => {
                self.fails(format!("{error}"));
                Answer::Lost
            }
        }
    }

    pub(super) fn send<M: Message>(&mut self, at: usize, frame: (&M, &[u8])) {
        let Some(link) = self.processes[at].link else { return };
        let from = self.links[link].end_of(at);
        let to = self.links[link].ends[1 - from];
        if let Some((arrival, bytes)) = self.links[link].send(from, frame, self.now, &mut self.rng) {
            self.at(arrival - self.now, Event::Frame { to, link, bytes });
        }
    }

    /// `at` closes its link, or dies.
    pub(super) fn close(&mut self, at: usize) {
        let Some(link) = self.processes[at].link else { return };
        let from = self.links[link].end_of(at);
        let to = self.links[link].ends[1 - from];
        if std::mem::take(&mut self.links[link].open[from]) && !self.links[link].is_silent {
            let arrival = self.links[link].arrives(from, self.now, &mut self.rng);
            self.at(arrival - self.now, Event::Closed { to, link });
        }
    }

    pub(super) fn start_timer(&mut self, at: usize, timer: Timer) {
        let after = match timer {
            Timer::Heartbeat => 100_000,
            Timer::PeerSilent => 500_000,
            Timer::Epoch => self.rng.within(EPOCH / 3, EPOCH),
            Timer::Commit | Timer::Start | Timer::Capture | Timer::Work => 1_000_000,
            Timer::HeadStart => 10_000,
            Timer::RetryRecord | Timer::RetryTrial | Timer::RetryDisk => 500_000,
            Timer::KeepStale => 20_000_000,
        };
        self.serial += 1;
        let start = self.serial;
        self.processes[at].timers.insert(timer, start);
        self.at(after, Event::Timer { at, timer, start });
    }

    pub(super) fn stop_timer(&mut self, at: usize, timer: Timer) {
        self.processes[at].timers.remove(&timer);
    }
}

pub(super) fn owner(process: usize) -> OwnerId {
    OwnerId { id: process as u128, label: name("process") }
}

pub(super) fn name(text: &str) -> Name {
    Name::try_from(text).expect("a good name")
}
