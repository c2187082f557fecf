//! The source's part in a hand-over of the memory as a whole: the descriptor goes with `Hello`, no
//! page is ever sent, and what was handed over is out of this process's reach.
//!
//! The state machine knows nothing of it. It asks for rounds, and hears that the first has left
//! nothing over.

use std::fs::File;
use std::sync::Arc;

use ferry_migration::PassedMemory;
use ferry_migration::convergence::Decision;
use ferry_migration::message::{ToDestination, ToSource};
use ferry_migration::pages::PAGE_SIZE;
use ferry_migration::source::{Input, Output};

use super::Driver;
use crate::source::events::{Event, LinkEvent};

impl Driver {
    /// What the greeting announces.
    pub(super) fn passed_memory(&self) -> Option<PassedMemory> {
        self.pages.as_a_whole.then(|| PassedMemory { bytes: self.machine.memory().pages() * PAGE_SIZE })
    }

    /// What goes with a message beside its bytes.
    pub(super) fn descriptor_for(&mut self, message: &ToDestination) -> Option<Arc<File>> {
        if !self.pages.as_a_whole || !matches!(message, ToDestination::Hello { .. }) {
            return None;
        }
        // A host that does not tell leaves it in doubt for good.
        self.pages.passed_mark = self.machine.memory().mark().ok();
        self.machine.memory().memfd()
    }

    /// Whether the destination has got as far as taking the memory. In doubt it has.
    pub(super) fn memory_was_taken(&self) -> bool {
        let now = self.machine.memory().mark().ok();
        self.pages.as_a_whole && (now.is_none() || now != self.pages.passed_mark)
    }

    /// Why the migration cannot go on after this `HelloAck`, if so: the destination waits for
    /// pages that will not come, or has memory that was not handed over.
    pub(super) fn memory_is_not_taken(&self, attachment: &[u8]) -> Option<Input> {
        match self.passed_memory() {
            Some(passed) if passed.is_taken_by(attachment) => None,
            Some(_) => {
                let reason = "it does not know of memory that is handed over as a whole; start a newer ferry there, or set \
                              x-ferry-local to false";
                Some(Input::Message(ToSource::Refused { reason: reason.to_owned() }))
            }
            None if attachment.is_empty() => None,
            None => Some(Input::LinkLost("HelloAck takes memory that was not handed over".to_owned())),
        }
    }

    /// The page worker's answers when there is nothing to send: one round that leaves nothing
    /// over, and no last pages.
    pub(super) fn no_pages(&self, asked: &Output) {
        let answer = match asked {
            Output::SendLastPages { .. } => Input::LastPagesSent { marker: 0 },
            _ => Input::RoundDone(Decision::Switch),
        };
        // The driver holds its own channel open.
        let _ = self.events.send(Event::OfLink(self.links.epoch, LinkEvent::PagesDone(answer.into())));
    }
}
