//! What a primary's driver does, on the facts.

use ferry_migration::message::Failure;
use ferry_migration::protection::primary::{Input, Output, Phase};
use ferry_migration::protection::{Rule, ToSecondary};

use super::event::Log;
use super::facts::{Delta, Upto};
use super::record::Operation;
use super::{Contents, Side, World, written};

impl World {
    pub(super) fn step_primary(&mut self, input: Input, log: &mut Log) {
        let outputs = self.primary.step(input);
        self.perform_primary(outputs, log);
    }

    pub(super) fn perform_primary(&mut self, outputs: Vec<Output>, log: &mut Log) {
        for output in outputs {
            if !matches!(output, Output::StartTimer(_) | Output::StopTimer(_)) {
                log.note(|| Some(format!("primary: {output:?}")));
            }
            self.perform_at_primary(output);
        }
    }

    fn perform_at_primary(&mut self, output: Output) {
        let here = &mut self.at_primary;
        match output {
            Output::Phase(phase) => here.protected = phase == Phase::Protected,
            Output::Capture { holds, stays, .. } => here.capture = Some((holds, stays)),
            Output::Hold => here.gate = Upto::Epoch(here.epoch),
            Output::SendCheckpoint { epoch } => {
                let (marker, pages, disk_record) = (0, 0, 0);
                let disk_applied = here.written.into();
                self.link.send_to_secondary(ToSecondary::Checkpoint {
                    epoch,
                    marker,
                    pages,
                    disk_record,
                    disk_applied,
                });
                self.link.send_delta(here.captured.expect("it was captured"));
            }
            // Signs of life are not modelled one by one.
            Output::Send(ToSecondary::Heartbeat) => {}
            Output::Send(message) => self.link.send_to_secondary(message),
            Output::Release { epoch } => here.release = here.release.max(Some(Upto::Epoch(epoch as u8))),
            Output::ReleaseAll => here.release = Some(Upto::All),
            Output::DropOutputs => {
                if self.rules.has(Rule::DeposedIsSilent) {
                    here.release = None;
                }
            }
            Output::Forget { .. } => here.captured = None,
            Output::Restore { .. } => {
                if let Some(Delta { pages, .. }) = here.captured.take() {
                    (0..2).for_each(|page| here.dirty[page] |= pages[page]);
                }
            }
            Output::Enrol => here.asks = Some(Operation::Enrol),
            Output::Solo => {
                // What was asked before may still happen.
                let before = here.asks.replace(Operation::Solo);
                remember(&mut here.straggler, before);
            }
            // Not explored: an operator's word, a record that is settled late, work that hangs.
            Output::SoloLater | Output::Settle | Output::InterruptCapture => {}
            Output::ReleaseDisk => here.releases_disk = true,
            Output::TakeDisk => here.takes_disk = true,
            Output::StartTimer(timer) => here.timers.insert(timer),
            Output::StopTimer(timer) => {
                here.timers.remove(timer);
            }
            Output::CloseLinks => self.link.close(Side::Primary),
            Output::StopGuest => here.stopping = true,
            Output::ResumeGuest => {
                here.stopping = false;
                if !here.runs && !here.ended {
                    here.runs = true;
                    self.begins_epoch();
                }
            }
            Output::HandOver => (here.handed_over, here.has_disk) = (true, false),
            Output::Refuse(_) | Output::FailoverFailed(_) => {}
            Output::Finish(_) => here.timers = crate::explorer::set::Set::new(),
        }
    }

    /// The guest writes to memory and disk, and puts something out.
    fn begins_epoch(&mut self) {
        let here = &mut self.at_primary;
        let pages = written(here.epoch);
        (0..2).for_each(|page| here.dirty[page] |= pages[page]);
        if here.gate == Upto::All {
            here.shown = here.epoch;
            here.written = here.epoch;
            self.image = Contents::of(here.epoch);
        }
    }

    pub(super) fn captures(&mut self, well: bool, log: &mut Log) {
        let here = &mut self.at_primary;
        let (holds, stays) = here.capture.take().expect("a capture is under way");
        let epoch = here.epoch;
        if !well {
            let failure = Failure { device: "a device".to_owned(), reason: "does not save".to_owned() };
            return self.step_primary(Input::Captured { epoch: epoch.into(), result: Err(failure) }, log);
        }
        here.captured = Some(Delta { epoch, pages: std::mem::take(&mut here.dirty) });
        if holds {
            here.gate = Upto::Epoch(epoch);
        }
        here.epoch += 1;
        if stays || !here.runs {
            here.runs = false;
        } else {
            self.begins_epoch();
        }
        self.step_primary(Input::Captured { epoch: epoch.into(), result: Ok(()) }, log);
    }

    pub(super) fn releases_disk(&mut self, log: &mut Log) {
        (self.at_primary.releases_disk, self.at_primary.has_disk) = (false, false);
        self.step_primary(Input::DiskReleased(Ok(())), log);
    }

    pub(super) fn takes_disk_again(&mut self, log: &mut Log) {
        self.at_primary.takes_disk = false;
        let free = self.disk_is_free();
        self.at_primary.has_disk |= free;
        let failure = Failure { device: "the disk".to_owned(), reason: "another process has it".to_owned() };
        self.step_primary(Input::DiskTaken(if free { Ok(()) } else { Err(failure) }), log);
    }

    /// What was released leaves: the disk writes first.
    pub(super) fn releases(&mut self, log: &mut Log) {
        let here = &mut self.at_primary;
        let upto = here.release.take().expect("something was released");
        // An epoch that has not begun has put out nothing.
        let begun = if here.runs || here.ended { here.epoch } else { here.epoch - 1 };
        let epoch = match upto {
            Upto::Epoch(epoch) => epoch.min(begun),
            Upto::All => begun,
        };
        here.gate = here.gate.max(upto);
        if epoch > here.shown {
            here.shown = epoch;
        }
        if epoch > here.written || upto == Upto::All {
            here.written = epoch;
            self.image = Contents::of(epoch);
        }
        log.note(|| Some(format!("primary: lets out {upto:?}")));
    }
}

/// Notes a change that was given up. A third one at a time is left out.
pub(super) fn remember(stragglers: &mut [Option<Operation>; 2], change: Option<Operation>) {
    if let (Some(change), Some(free)) = (change, stragglers.iter_mut().find(|straggler| straggler.is_none())) {
        *free = Some(change);
    }
}
