//! What a secondary's driver does, on the facts.

use ferry_migration::message::Failure;
use ferry_migration::protection::secondary::{Input, Output};
use ferry_migration::protection::{ToPrimary, ToSecondary};

use super::event::Log;
use super::facts::Delta;
use super::record::Operation;
use super::{Contents, Side, World, written};

impl World {
    pub(super) fn step_secondary(&mut self, input: Input, log: &mut Log) {
        let outputs = self.secondary.step(input);
        self.perform_secondary(outputs, log);
    }

    pub(super) fn perform_secondary(&mut self, outputs: Vec<Output>, log: &mut Log) {
        for output in outputs {
            if !matches!(output, Output::StartTimer(_) | Output::StopTimer(_)) {
                log.note(|| Some(format!("secondary: {output:?}")));
            }
            self.perform_at_secondary(output);
        }
    }

    fn perform_at_secondary(&mut self, output: Output) {
        let here = &mut self.at_secondary;
        match output {
            // Not explored: work that hangs, an operator's word.
            Output::Phase(_) | Output::Refuse(_) | Output::InterruptWork | Output::ClaimLater => {}
            Output::Send(ToPrimary::Heartbeat) => {}
            Output::Send(message) => self.link.send_to_primary(message),
            Output::Verify { epoch } => here.verifies = Some(epoch as u8),
            Output::Commit { drops_journal, .. } => here.journal_from = here.journal_from.max(drops_journal as u8),
            Output::Apply { epoch } => {
                let nothing = Delta { epoch: epoch as u8, pages: [false; 2] };
                here.applying = Some((here.staged.take().unwrap_or(nothing), 0));
            }
            Output::Reload { epoch } => {
                here.staged = None;
                here.reloads = Some(epoch as u8);
            }
            Output::ReadRecord => here.reads = true,
            Output::TakeDisk => here.takes_disk = true,
            Output::Try { epoch } => here.tries = Some(epoch as u8),
            Output::UndoTrial => {
                (here.entered, here.has_disk) = (None, false);
                here.memory = here.before_trial.take().unwrap_or(here.memory);
            }
            Output::Claim => here.asks = Some(Operation::TakeOver),
            Output::GoLive => self.goes_live(),
            Output::Discard => (here.entered, here.has_disk) = (None, false),
            Output::StartTimer(timer) => here.timers.insert(timer),
            Output::StopTimer(timer) => {
                here.timers.remove(timer);
            }
            Output::CloseLinks => self.link.close(Side::Secondary),
            Output::Finish(_) => here.timers = crate::explorer::set::Set::new(),
        }
    }

    pub(super) fn deliver_to_secondary(&mut self, log: &mut Log) {
        let message = self.link.to_secondary.pop_front().expect("a message is on its way");
        if let ToSecondary::Checkpoint { epoch, .. } = message {
            self.at_secondary.announced = Some(epoch as u8);
        }
        self.step_secondary(Input::Message(message), log);
    }

    pub(super) fn whole(&mut self, log: &mut Log) {
        let delta = self.link.delta.take().expect("a checkpoint is on its way");
        (self.at_secondary.staged, self.at_secondary.announced) = (Some(delta), None);
        self.step_secondary(Input::Whole { epoch: delta.epoch.into() }, log);
    }

    pub(super) fn verifies(&mut self, well: bool, log: &mut Log) {
        let epoch = self.at_secondary.verifies.take().expect("a verification is under way");
        self.at_secondary.devices = if well { epoch } else { 0 };
        self.step_secondary(Input::Verified(result(well)), log);
    }

    pub(super) fn applies(&mut self, log: &mut Log) {
        let here = &mut self.at_secondary;
        let (delta, page) = here.applying.take().expect("a checkpoint is being applied");
        if delta.pages[page as usize] {
            here.memory.write(page.into(), delta.epoch);
        }
        if page == 0 {
            here.applying = Some((delta, 1));
        } else {
            self.step_secondary(Input::Applied, log);
        }
    }

    pub(super) fn reloads(&mut self, well: bool, log: &mut Log) {
        let here = &mut self.at_secondary;
        let epoch = here.reloads.take().expect("a state is being loaded again");
        here.devices = if well { epoch } else { 0 };
        here.lost_its_state |= !well;
        self.step_secondary(Input::Reloaded(result(well)), log);
    }

    pub(super) fn takes_disk(&mut self, log: &mut Log) {
        self.at_secondary.takes_disk = false;
        let free = self.disk_is_free();
        if free {
            self.at_secondary.has_disk = true;
            self.replay_journal();
        }
        self.step_secondary(Input::DiskTaken(result(free)), log);
    }

    /// The disk writes of committed epochs, again and in order.
    fn replay_journal(&mut self) {
        for epoch in self.at_secondary.journal_from + 1..=self.secondary.committed() as u8 {
            for (sector, is_written) in written(epoch).into_iter().enumerate() {
                if is_written {
                    self.image.write(sector, epoch);
                }
            }
        }
    }

    pub(super) fn tries(&mut self, well: bool, log: &mut Log) {
        let epoch = self.at_secondary.tries.take().expect("a trial is under way");
        self.at_secondary.devices = if well { epoch } else { 0 };
        self.at_secondary.entered = well.then_some(epoch);
        if !well {
            // It had entered the guest, which has written to memory.
            self.at_secondary.before_trial = Some(self.at_secondary.memory);
            self.at_secondary.memory.write(0, 77);
        }
        if well && !self.at_secondary.has_disk {
            self.replay_journal();
        }
        self.step_secondary(Input::Tried(result(well)), log);
    }

    /// The guest is seen outside, and writes to the disk.
    fn goes_live(&mut self) {
        let here = &mut self.at_secondary;
        if here.live.is_some() {
            return;
        }
        let from = here.entered.unwrap_or_default();
        let memory_is_whole = here.applying.is_none() && here.memory == Contents::of(from);
        let disk_is_whole = !self.shared_disk || self.image == Contents::of(from);
        here.was_whole = memory_is_whole && here.devices == from && disk_is_whole;
        here.live = Some(from);
        self.image = Contents::LIVE;
    }
}

fn result(well: bool) -> Result<(), Failure> {
    match well {
        true => Ok(()),
        false => Err(Failure { device: "a device".to_owned(), reason: "told to fail".to_owned() }),
    }
}
