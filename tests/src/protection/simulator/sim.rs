//! Virtual time, the processes and links in it, and the record that they share.

use std::collections::BTreeMap;

use ferry_migration::ownership::{Change, Partnership, Record};
use ferry_migration::protection::{Plan, Rules, Timer, primary, secondary};

use super::Micros;
use super::calls::{name, owner};
use super::faults::Planned;
use super::guest::{Emission, Guest, Observer, PAGES};
use super::link::Link;
use super::process::{Delta, PrimaryHost, Process, Role, SecondaryHost};
use super::secondary_host::result;
use crate::simulator::rng::Rng;

/// The guest must be protected for so long, once everything is mended, to have come out well.
const GOOD_FOR: Micros = 500_000;
/// By then, after everything was mended, it must.
const PATIENCE: Micros = 60_000_000;
/// Most processes whose part has not ended, at any time: those of the present protection, and some
/// that were frozen when theirs ended.
const MOST_PROCESSES: usize = 24;

/// How a simulation came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// Checkpoints that were captured, and applied at a secondary.
    pub captures: u64,
    /// The latter.
    pub commits: u64,
    /// Takeovers.
    pub takeovers: u64,
    /// Protections that ended with the primary going on alone.
    pub unprotected: u64,
    /// Primaries that were deposed.
    pub deposed: u64,
    /// Outputs that were seen outside, and those that were seen again.
    pub outputs: u64,
    /// The latter.
    pub repeated: u64,
    /// Frames and jobs that waited in a queue at most.
    pub most_waiting: usize,
}

/// Why a seed failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("seed {seed}, at {at_us} µs: {why}\n{story}")]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// When.
    pub at_us: Micros,
    /// What must not have happened.
    pub why: String,
    /// What happened last.
    pub story: String,
}

/// Something that will happen.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Frame {
        to: usize,
        link: usize,
        bytes: Vec<u8>,
    },
    Closed {
        to: usize,
        link: usize,
    },
    Timer {
        at: usize,
        timer: Timer,
        start: u64,
    },
    Job {
        at: usize,
        job: Job,
    },
    Guest {
        at: usize,
    },
    Protect {
        at: usize,
    },
    /// A change of the record that was given up comes all the same.
    LateChange(Box<Change>),
    Fault,
}

/// Work of a process.
#[derive(Clone, Debug)]
pub(super) enum Job {
    Capture { epoch: u64, holds: bool, stays: bool },
    Release(Option<u64>),
    StopGuest,
    Record(Operation),
    Whole(u64, Delta),
    Verify,
    Apply,
    Reload,
    TakeDisk,
    Try,
    ReleaseDisk,
    TakeDiskAgain,
}

/// A question to the record.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    Enrol,
    Solo,
    Read,
    TakeOver,
}

/// Everything.
pub(super) struct Sim {
    pub(super) rng: Rng,
    pub(super) rules: Rules,
    pub(super) now: Micros,
    queue: BTreeMap<(Micros, u64), Event>,
    pub(super) serial: u64,
    pub(super) processes: Vec<Process>,
    pub(super) links: Vec<Link>,
    pub(super) record: Record,
    pub(super) observer: Observer,
    /// The guest's pages and last output at each capture, by link and epoch.
    pub(super) truths: BTreeMap<(usize, u64), ([u64; PAGES], Emission)>,
    pub(super) planned: Planned,
    pub(super) captures: u64,
    pub(super) commits: u64,
    pub(super) takeovers: u64,
    pub(super) unprotected: u64,
    pub(super) deposed: u64,
    most_waiting: usize,
    failure: Option<String>,
    story: std::collections::VecDeque<String>,
}

/// Simulates one guest for `epochs` captures in which much goes wrong, then without faults.
///
/// # Errors
/// When a promise is broken, or the guest does not come to be protected.
pub fn run(seed: u64, epochs: u64) -> Result<Ending, Failure> {
    run_with(seed, epochs, Rules::all())
}

/// The same with some rule off.
///
/// # Errors
/// As [`run`].
pub fn run_with(seed: u64, epochs: u64, rules: Rules) -> Result<Ending, Failure> {
    let mut sim = Sim::new(seed, rules);
    let (mut captures, mut captured_at) = (0, 0);
    while sim.captures < epochs && sim.failure.is_none() {
        sim.advance();
        if sim.captures > captures {
            (captures, captured_at) = (sim.captures, sim.now);
        } else if sim.now > captured_at + PATIENCE {
            sim.fails("no checkpoint has been captured for long".to_owned());
        }
    }
    sim.planned.mended = true;
    let mended_at = sim.now;
    let mut protected_since = None;
    while sim.failure.is_none() {
        sim.advance();
        protected_since = if sim.is_protected() { protected_since.or(Some((sim.now, sim.commits))) } else { None };
        if protected_since.is_some_and(|(since, commits)| sim.now > since + GOOD_FOR && sim.commits > commits + 10) {
            return Ok(sim.ending());
        }
        if sim.now > mended_at + PATIENCE {
            sim.fails("nothing goes wrong any more, and the guest does not come to be protected".to_owned());
        }
    }
    let story = Vec::from(std::mem::take(&mut sim.story)).join("\n");
    Err(Failure { seed, at_us: sim.now, why: sim.failure.unwrap_or_default(), story })
}

impl Sim {
    fn new(seed: u64, rules: Rules) -> Self {
        let record = Record {
            vm: name("vm"),
            generation: 1,
            owner: owner(0),
            migration_id: 0,
            settled: true,
            nonce: 0,
            partner: None,
        };
        let mut sim = Sim {
            rng: Rng::new(seed),
            rules,
            now: 0,
            queue: BTreeMap::new(),
            serial: 0,
            processes: vec![Process::new(Role::Runner(Box::new(Guest::new())))],
            links: Vec::new(),
            record,
            observer: Observer::default(),
            truths: BTreeMap::new(),
            planned: Planned::default(),
            captures: 0,
            commits: 0,
            takeovers: 0,
            unprotected: 0,
            deposed: 0,
            most_waiting: 0,
            failure: None,
            story: std::collections::VecDeque::new(),
        };
        sim.at(0, Event::Guest { at: 0 });
        sim.at(0, Event::Protect { at: 0 });
        sim.at(50_000, Event::Fault);
        sim
    }

    fn ending(&self) -> Ending {
        Ending {
            captures: self.captures,
            commits: self.commits,
            takeovers: self.takeovers,
            unprotected: self.unprotected,
            deposed: self.deposed,
            outputs: self.observer.highest,
            repeated: self.observer.repeated,
            most_waiting: self.most_waiting,
        }
    }

    /// The guest is protected: its partner is named, and both live. That checkpoints are captured
    /// is looked at apart.
    fn is_protected(&self) -> bool {
        let live = |process: &&Process| process.alive && process.frozen_until <= self.now;
        let primary = |process: &Process| matches!(&process.role, Role::Primary(host) if host.core.outcome().is_none());
        let partner = self.record.partner.as_ref().map(|partner| &self.processes[partner.id as usize]);
        partner.is_some_and(|partner| partner.alive) && self.processes.iter().filter(live).any(primary)
    }

    pub(super) fn fails(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        self.story.push_back(format!("{:>10}  {}", self.now, text()));
        if self.story.len() > 60 {
            self.story.pop_front();
        }
    }

    /// `event` happens in so many microseconds.
    pub(super) fn at(&mut self, after: Micros, event: Event) {
        self.serial += 1;
        self.queue.insert((self.now + after, self.serial), event);
        self.most_waiting = self.most_waiting.max(self.queue.len());
    }

    pub(super) fn job(&mut self, at: usize, job: Job, (from, to): (Micros, Micros)) {
        let after = self.rng.within(from, to);
        self.at(after, Event::Job { at, job });
    }

    pub(super) fn protects_soon(&mut self, at: usize) {
        let after = self.rng.within(5_000, 60_000);
        self.at(after, Event::Protect { at });
    }

    pub(super) fn emits(&mut self, at: usize, output: Emission) {
        if let Err(why) = self.observer.sees(output) {
            self.fails(format!("process {at}: {why}"));
        }
    }

    fn advance(&mut self) {
        let Some(((time, _), event)) = self.queue.pop_first() else {
            return self.fails("nothing happens any more".to_owned());
        };
        self.now = time;
        let whose = match &event {
            Event::Frame { to, .. } | Event::Closed { to, .. } => Some(*to),
            Event::Timer { at, .. } | Event::Job { at, .. } | Event::Guest { at } | Event::Protect { at } => Some(*at),
            Event::LateChange(_) | Event::Fault => None,
        };
        if let Some(at) = whose {
            let process = &self.processes[at];
            if !process.alive {
                return;
            }
            if process.frozen_until > time {
                return self.at(process.frozen_until - time, event);
            }
        }
        self.happens(event);
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Frame { to, link, bytes } => {
                if self.links[link].open[self.links[link].end_of(to)] {
                    self.primary_receives(to, &bytes);
                    if self.secondary(to).is_some() {
                        self.secondary_receives(to, &bytes);
                    }
                }
            }
            Event::Closed { to, link } => {
                let end = self.links[link].end_of(to);
                if std::mem::take(&mut self.links[link].open[end]) {
                    let reason = "the peer closed the link".to_owned();
                    self.step_primary(to, primary::Input::LinkLost(reason.clone()));
                    self.step_secondary(to, secondary::Input::LinkLost(reason));
                }
            }
            Event::Timer { at, timer, start } => {
                if self.processes[at].timers.get(&timer) == Some(&start) {
                    self.processes[at].timers.remove(&timer);
                    self.primary_timer(at, timer);
                    self.secondary_timer(at, timer);
                }
            }
            Event::Job { at, job } => self.works(at, job),
            Event::Guest { at } => self.guest_works(at),
            Event::Protect { at } => self.protect(at),
            Event::LateChange(change) => {
                self.note(|| "a change of the record comes late".to_owned());
                self.change(&change);
            }
            Event::Fault => self.fault(),
        }
    }

    fn works(&mut self, at: usize, job: Job) {
        match job {
            Job::Capture { epoch, holds, stays } => self.captures(at, epoch, holds, stays),
            Job::Release(upto) => self.releases(at, upto),
            Job::StopGuest => {
                if let Some(host) = self.primary(at) {
                    host.runs = false;
                    self.step_primary(at, primary::Input::GuestStopped);
                }
            }
            Job::Record(operation) => self.record_is_asked(at, operation),
            Job::Whole(epoch, delta) => self.whole(at, epoch, delta),
            Job::ReleaseDisk => self.step_primary(at, primary::Input::DiskReleased(Ok(()))),
            Job::TakeDiskAgain => self.takes_disk_again(at),
            Job::Verify => {
                let fails = std::mem::take(&mut self.planned.verify_fails);
                self.step_secondary(at, secondary::Input::Verified(result(fails)));
            }
            Job::Apply => self.applied(at),
            Job::Reload => self.step_secondary(at, secondary::Input::Reloaded(Ok(()))),
            Job::TakeDisk => self.step_secondary(at, secondary::Input::DiskTaken(Ok(()))),
            Job::Try => {
                let fails = std::mem::take(&mut self.planned.trial_fails);
                self.step_secondary(at, secondary::Input::Tried(result(fails)));
            }
        }
    }

    /// The first copy to a new secondary has converged.
    fn protect(&mut self, at: usize) {
        let role = std::mem::replace(&mut self.processes[at].role, Role::Gone);
        let Role::Runner(guest) = role else {
            self.processes[at].role = role;
            return;
        };
        let generation = self.record.generation;
        if self.record.owner != owner(at) {
            return self.fails(format!("process {at} runs a guest that the record does not give it"));
        }
        let (other, link) = (self.processes.len(), self.links.len());
        let made = Partnership::new(name("vm"), link as u128 + 1, generation, owner(at));
        let partnership = made.expect("generations of a simulation are small");
        let plan = Plan { generation, has_record: true, stops_isolated: self.rng.percent(30) };
        self.links.push(Link::new([at, other], link as u32));
        let pages = guest.pages;
        // What the guest writes from here on is dirty.
        let guest = Guest { dirty: 0, ..*guest };
        let primary = PrimaryHost::new(guest, link, partnership.clone(), (plan, self.rules));
        self.processes[at].role = Role::Primary(Box::new(primary));
        let secondary = SecondaryHost::new(pages, link, partnership, (plan, self.rules));
        self.processes.push(Process::new(Role::Secondary(Box::new(secondary))));
        (self.processes[at].link, self.processes[other].link) = (Some(link), Some(link));
        self.processes[at].timers.clear();
        let outputs = self.primary(at).expect("as above").core.start();
        outputs.into_iter().for_each(|output| self.perform_primary(at, output));
        let outputs = self.secondary(other).expect("as above").core.start();
        outputs.into_iter().for_each(|output| self.perform_secondary(other, output));
        let here = self.processes.iter().filter(|process| process.alive && !matches!(process.role, Role::Gone));
        if here.count() > MOST_PROCESSES {
            self.fails("processes do not end".to_owned());
        }
    }
}
