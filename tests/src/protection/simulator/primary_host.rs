//! A primary's driver in the simulation.

use std::collections::VecDeque;

use ferry_migration::message::Failure;
use ferry_migration::ownership::Partnership;
use ferry_migration::protection::primary::{Input, Outcome, Output};
use ferry_migration::protection::{Plan, Primary, Rules, Timer, ToPrimary, ToSecondary};

use super::guest::{Emission, Guest, PAGES};
use super::process::{Delta, PrimaryHost, Role};
use super::sim::{Event, Job, Operation, Sim};

impl PrimaryHost {
    pub(super) fn new(guest: Guest, link: usize, partnership: Partnership, (plan, rules): (Plan, Rules)) -> Self {
        let (held, positions) = (VecDeque::new(), VecDeque::new());
        let core = Primary::with_rules(plan, rules);
        PrimaryHost { core, link, partnership, guest, runs: true, gate: None, held, captured: None, positions }
    }
}

impl Sim {
    pub(super) fn primary(&mut self, at: usize) -> Option<&mut PrimaryHost> {
        match &mut self.processes[at].role {
            Role::Primary(host) => Some(host),
            _ => None,
        }
    }

    pub(super) fn step_primary(&mut self, at: usize, input: Input) {
        let Some(host) = self.primary(at) else { return };
        let outputs = host.core.step(input);
        for output in outputs {
            self.perform_primary(at, output);
        }
    }

    pub(super) fn perform_primary(&mut self, at: usize, output: Output) {
        if !matches!(output, Output::StartTimer(_) | Output::StopTimer(_)) {
            self.note(|| format!("{at}: {output:?}"));
        }
        let output = match output {
            Output::Send(message) => return self.send(at, (&message, &[])),
            Output::StartTimer(timer) => return self.start_timer(at, timer),
            Output::StopTimer(timer) => return self.stop_timer(at, timer),
            Output::CloseLinks => return self.close(at),
            output => output,
        };
        let Some(host) = self.primary(at) else { return };
        match output {
            Output::Capture { epoch, holds, stays } => self.job(at, Job::Capture { epoch, holds, stays }, (300, 3_000)),
            Output::Hold => host.gate = Some(host.guest.last.position),
            Output::SendCheckpoint { epoch } => self.send_checkpoint(at, epoch),
            Output::Release { epoch } => {
                let position = host.positions.iter().find(|(of, _)| *of == epoch).map(|(_, position)| *position);
                let upto = Some(position.expect("the epoch was captured"));
                self.job(at, Job::Release(upto), (10, 500));
            }
            Output::ReleaseAll => self.job(at, Job::Release(None), (10, 500)),
            Output::DropOutputs => host.held.clear(),
            Output::Forget { .. } => host.captured = None,
            Output::Restore { .. } => {
                if let Some((_, delta)) = host.captured.take() {
                    host.guest.dirty |= delta.pages;
                }
            }
            Output::Enrol => self.ask(at, Operation::Enrol),
            Output::Solo => self.ask(at, Operation::Solo),
            Output::StopGuest => self.job(at, Job::StopGuest, (100, 1_000)),
            Output::ResumeGuest => host.runs = true,
            Output::ReleaseDisk => self.job(at, Job::ReleaseDisk, (500, 2_000)),
            Output::TakeDisk => self.job(at, Job::TakeDiskAgain, (50, 2_000)),
            Output::HandOver if host.runs => self.fails(format!("{at} gives a guest away that runs")),
            Output::Finish(outcome) => self.primary_ends(at, &outcome),
            _ => {}
        }
    }

    fn send_checkpoint(&mut self, at: usize, epoch: u64) {
        let Some(host) = self.primary(at) else { return };
        let (_, delta) = host.captured.as_ref().expect("it was captured");
        let attachment = serde_json::to_vec(delta).expect("plain data");
        let (marker, pages, disk_record, disk_applied) = (0, delta.pages.count_ones().into(), 0, epoch - 1);
        let message = ToSecondary::Checkpoint { epoch, marker, pages, disk_record, disk_applied };
        self.send(at, (&message, &attachment));
    }

    pub(super) fn captures(&mut self, at: usize, epoch: u64, holds: bool, stays: bool) {
        let fails = std::mem::take(&mut self.planned.capture_fails);
        let Some(host) = self.primary(at) else { return };
        if fails {
            let failure = Failure { device: "a device".to_owned(), reason: "does not save".to_owned() };
            return self.step_primary(at, Input::Captured { epoch, result: Err(failure) });
        }
        let pages = std::mem::take(&mut host.guest.dirty);
        let which = (0..PAGES).filter(|page| pages & 1 << page != 0);
        let values = which.map(|page| host.guest.pages[page]).collect();
        let last = host.guest.last;
        if holds {
            host.gate = Some(last.position);
        }
        let delta = Delta { pages, values, last, held: host.held.iter().copied().collect() };
        host.captured = Some((epoch, delta));
        host.positions.push_back((epoch, last.position));
        if host.positions.len() > 8 {
            host.positions.pop_front();
        }
        host.runs &= !stays;
        let (link, truth) = (host.link, host.guest.pages);
        self.truths.insert((link, epoch), (truth, last));
        self.truths.retain(|(of, then), _| *of != link || then + 4 > epoch);
        self.captures += 1;
        self.step_primary(at, Input::Captured { epoch, result: Ok(()) });
    }

    /// What was released leaves. A process whose protection has ended has no gate any more.
    pub(super) fn releases(&mut self, at: usize, upto: Option<u64>) {
        if let Some(host) = self.primary(at) {
            host.gate = match (host.gate, upto) {
                (Some(gate), Some(upto)) => Some(gate.max(upto)),
                _ => None,
            };
        }
        self.lets_out(at);
        let ends = matches!(self.primary(at).map(|host| host.core.outcome()), Some(Some(Outcome::Unprotected(_))));
        if ends && upto.is_none() {
            self.goes_on_unprotected(at);
        }
    }

    fn lets_out(&mut self, at: usize) {
        let Some(host) = self.primary(at) else { return };
        let gate = host.gate.unwrap_or(u64::MAX);
        let mut out: Vec<Emission> = Vec::new();
        while host.held.front().is_some_and(|output| output.position <= gate) {
            out.extend(host.held.pop_front());
        }
        out.into_iter().for_each(|output| self.emits(at, output));
    }

    /// The guest of `at` executes for a while.
    pub(super) fn guest_works(&mut self, at: usize) {
        let mut rng = self.rng.clone();
        match &mut self.processes[at].role {
            Role::Runner(guest) if guest.runs => {
                let output = guest.works(&mut rng);
                output.into_iter().for_each(|output| self.emits(at, output));
            }
            Role::Primary(host) if host.runs => {
                let output = host.guest.works(&mut rng);
                host.held.extend(output);
                self.lets_out(at);
            }
            Role::Primary(_) | Role::Runner(_) => {}
            Role::Secondary(_) | Role::Gone => return,
        }
        self.rng = rng;
        let again = self.rng.within(400, 1_600);
        self.at(again, Event::Guest { at });
    }

    /// The disk's lock is free unless a secondary tries to take over at this moment.
    pub(super) fn takes_disk_again(&mut self, at: usize) {
        let fails = self.rng.percent(20);
        self.step_primary(at, Input::DiskTaken(super::secondary_host::result(fails)));
        // A process whose protection has ended waits for its disk, too.
        if let Some(host) = self.primary(at) {
            let runs = host.runs;
            self.note(|| format!("{at}: runs: {runs}"));
        }
    }

    fn primary_ends(&mut self, at: usize, outcome: &Outcome) {
        self.processes[at].timers.clear();
        match outcome {
            // What is held leaves first.
            Outcome::Unprotected(_) => {}
            Outcome::Deposed(_) => {
                self.deposed += 1;
                self.processes[at].role = Role::Gone;
            }
            Outcome::Moved => self.processes[at].role = Role::Gone,
        }
    }

    fn goes_on_unprotected(&mut self, at: usize) {
        let role = std::mem::replace(&mut self.processes[at].role, Role::Gone);
        let Role::Primary(host) = role else { unreachable!("it was a primary") };
        self.unprotected += 1;
        let guest = Guest { runs: host.runs, ..host.guest };
        self.processes[at].role = Role::Runner(Box::new(guest));
        self.protects_soon(at);
    }

    pub(super) fn primary_receives(&mut self, at: usize, bytes: &[u8]) {
        let Some(link) = self.primary(at).map(|host| host.link) else { return };
        let received = self.links[link].receive::<ToPrimary>(0, bytes);
        let (message, _) = received.expect("links of a simulation do not corrupt");
        self.step_primary(at, Input::Message(message));
    }

    pub(super) fn primary_timer(&mut self, at: usize, timer: Timer) {
        self.step_primary(at, Input::Timer(timer));
    }
}
