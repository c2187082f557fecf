//! Clients' commands to a migration that is under way, and the answers.

use std::sync::mpsc::Sender;

use ferry_migration::source::{Input, Output, Owner};

use super::{Driver, explain};
use crate::source::events::{Answer, Command};
use crate::timers::Durations;

/// A query a moment ago may not have shown that an uncertainty has ended in a paused postcopy.
const NEEDS_PAGES: &str = "the postcopy is paused, and the destination may need pages that only this process has: reconnect it, or, if it \
                           has ended or says that it is completed, drop them ('drop-pages': true, or --drop-pages)";
/// A reason that an operator cannot see from outside.
const MEMORY_TAKEN: &str = "the destination has taken the guest's memory and may have run it, so what this side knows of the guest is too old to \
                            run with it. If the destination is gone, so is the guest: end this with owner destination";

impl Driver {
    pub(super) fn command(&mut self, command: Command, answer: &Sender<Answer>) {
        let mut given = None;
        let input = match command {
            Command::Cancel => Input::Cancel,
            Command::StartPostcopy => Input::StartPostcopy,
            Command::Pause => Input::Pause,
            Command::Resolve { resolution, drop_pages: false }
                if resolution.owner == Owner::Destination && self.core.is_paused() =>
            {
                // The client may have gone.
                let _ = answer.send(Err(NEEDS_PAGES));
                return;
            }
            Command::Resolve { resolution, .. } if resolution.owner == Owner::Source && self.memory_was_taken() => {
                // As above.
                let _ = answer.send(Err(MEMORY_TAKEN));
                return;
            }
            Command::Resolve { resolution, .. } => Input::Resolve(resolution),
            Command::Recover(to, parameters) => {
                self.links.recover_to = Some(to);
                given = Some(parameters);
                Input::Recover
            }
        };
        ferry_observe::trace::input(&input);
        let (asked, trouble) = (input.clone(), explain::trouble(&input, self.core.lost_after_permit()));
        let outputs = self.core.step(input);
        let refused = outputs.iter().find_map(|o| if let Output::Refuse(why) = o { Some(*why) } else { None });
        let waits = matches!(asked, Input::Resolve(_)) && refused.is_none() && self.core.is_resolving();
        if let (Input::Resolve(resolution), None) = (&asked, refused) {
            if waits {
                self.record.resolving = Some((resolution.owner, answer.clone()));
            } else {
                self.record.resolved = Some(resolution.owner);
            }
        }
        if refused.is_some() {
            self.links.recover_to = None;
        } else if let Some(Ok(parameters)) = given.map(|given| self.settings.with(&given)) {
            self.settings.replace(parameters);
        }
        if matches!(asked, Input::Recover) && refused.is_none() {
            // The heartbeat was agreed in the greeting.
            let Durations { setup, load, .. } = Durations::new(&self.settings.parameters());
            (self.timers.durations.setup, self.timers.durations.load) = (setup, load);
        }
        self.explain(&outputs, &trouble);
        self.take_leave(&outputs, trouble);
        // A client that sends a query after the answer finds the status that the command led to.
        if let Some(Output::Status(status)) = outputs.iter().find(|output| matches!(output, Output::Status(_))) {
            self.show(*status);
        }
        if !waits {
            // The client may have gone.
            let _ = answer.send(refused.map_or(Ok(()), Err));
        }
        self.perform(outputs);
    }

    /// Answers the operator whose decision had to wait for the record.
    pub(super) fn answer_resolve(&mut self, result: Result<(), &'static str>) {
        let Some((owner, answer)) = self.record.resolving.take() else { return };
        if result.is_ok() {
            self.record.resolved = Some(owner);
        }
        // The client may have gone.
        let _ = answer.send(result);
    }
}
