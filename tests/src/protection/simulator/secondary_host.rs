//! A secondary's driver in the simulation.

use ferry_migration::message::Failure;
use ferry_migration::ownership::Partnership;
use ferry_migration::protection::secondary::{Input, Outcome, Output};
use ferry_migration::protection::{Plan, Rules, Secondary, Timer, ToSecondary};

use super::guest::{Guest, PAGES};
use super::process::{Delta, Role, SecondaryHost};
use super::sim::{Event, Job, Operation, Sim};

impl SecondaryHost {
    pub(super) fn new(
        pages: [u64; PAGES],
        link: usize,
        partnership: Partnership,
        (plan, rules): (Plan, Rules),
    ) -> Self {
        let core = Secondary::with_rules(plan, rules);
        SecondaryHost { core, link, partnership, pages, staged: None, applying: None, committed: None }
    }
}

impl Sim {
    pub(super) fn secondary(&mut self, at: usize) -> Option<&mut SecondaryHost> {
        match &mut self.processes[at].role {
            Role::Secondary(host) => Some(host),
            _ => None,
        }
    }

    pub(super) fn step_secondary(&mut self, at: usize, input: Input) {
        let Some(host) = self.secondary(at) else { return };
        let outputs = host.core.step(input);
        for output in outputs {
            self.perform_secondary(at, output);
        }
    }

    pub(super) fn perform_secondary(&mut self, at: usize, output: Output) {
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
        let Some(host) = self.secondary(at) else { return };
        match output {
            Output::Verify { .. } => self.job(at, Job::Verify, (300, 3_000)),
            Output::Commit { .. } => {
                host.committed = host.staged.take();
                host.applying = host.committed.clone();
            }
            Output::Apply { .. } => self.job(at, Job::Apply, (100, 4_000)),
            Output::Reload { .. } => {
                host.staged = None;
                self.job(at, Job::Reload, (200, 1_000));
            }
            Output::ReadRecord => self.ask(at, Operation::Read),
            Output::TakeDisk => self.job(at, Job::TakeDisk, (50, 500)),
            Output::Try { .. } => self.job(at, Job::Try, (500, 4_000)),
            Output::Claim => self.ask(at, Operation::TakeOver),
            Output::GoLive => self.goes_live(at),
            Output::Finish(outcome) => {
                self.processes[at].timers.clear();
                if outcome != Outcome::TookOver {
                    self.processes[at].role = Role::Gone;
                }
            }
            _ => {}
        }
    }

    pub(super) fn secondary_receives(&mut self, at: usize, bytes: &[u8]) {
        let Some(link) = self.secondary(at).map(|host| host.link) else { return };
        let received = self.links[link].receive::<ToSecondary>(1, bytes);
        let (message, attachment) = received.expect("links of a simulation do not corrupt");
        let announced = match &message {
            ToSecondary::Checkpoint { epoch, .. } => Some(*epoch),
            _ => None,
        };
        self.step_secondary(at, Input::Message(message));
        if let Some(epoch) = announced {
            let delta: Delta = serde_json::from_slice(&attachment).expect("as it was sent");
            self.job(at, Job::Whole(epoch, delta), (50, 2_000));
        }
    }

    pub(super) fn whole(&mut self, at: usize, epoch: u64, delta: Delta) {
        let Some(host) = self.secondary(at) else { return };
        // What is on its way over a closed link does not arrive.
        let link = host.link;
        if self.links[link].open[1] && !self.links[link].is_silent {
            self.secondary(at).expect("as above").staged = Some(delta);
            self.step_secondary(at, Input::Whole { epoch });
        }
    }

    pub(super) fn applied(&mut self, at: usize) {
        let Some(host) = self.secondary(at) else { return };
        // Without its rule, one is applied before its commit, and then once more.
        let Some(delta) = host.applying.take() else { return self.step_secondary(at, Input::Applied) };
        delta.apply(&mut host.pages);
        let (key, pages) = ((host.link, host.core.committed()), host.pages);
        if let Some((truth, last)) = self.truths.get(&key)
            && (*truth != pages || *last != delta.last)
        {
            self.fails(format!("checkpoint {} is not what was captured", key.1));
        }
        self.commits += 1;
        self.step_secondary(at, Input::Applied);
    }

    /// The guest goes on here: what the primary may have held is repeated.
    fn goes_live(&mut self, at: usize) {
        let Some(host) = self.secondary(at) else { return };
        let state = host.committed.clone().expect("there is a commit");
        if host.applying.is_some() {
            return self.fails("the guest goes on from a checkpoint that is not applied".to_owned());
        }
        let guest = Guest { last: state.last, pages: host.pages, dirty: u64::MAX, runs: true };
        state.held.iter().for_each(|output| self.emits(at, *output));
        self.takeovers += 1;
        self.processes[at].role = Role::Runner(Box::new(guest));
        self.at(0, Event::Guest { at });
        self.protects_soon(at);
    }

    pub(super) fn secondary_timer(&mut self, at: usize, timer: Timer) {
        self.step_secondary(at, Input::Timer(timer));
    }
}

/// A result of a job that a fault may have been planned for.
pub(super) fn result(fails: bool) -> Result<(), Failure> {
    match fails {
        true => Err(Failure { device: "a device".to_owned(), reason: "told to fail".to_owned() }),
        false => Ok(()),
    }
}
