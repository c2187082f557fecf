//! The source's part in a hand-over of the memory as a whole: the descriptor goes with `Hello`, no
//! page is ever sent, and memory that was handed over is unmapped here.
//!
//! The state machine is not involved: it requests rounds, and receives the answer that the first
//! has left no pages.

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
    /// The announcement in the greeting.
    pub(super) fn passed_memory(&self) -> Option<PassedMemory> {
        self.pages.as_a_whole.then(|| PassedMemory { bytes: self.machine.memory().pages() * PAGE_SIZE })
    }

    /// The descriptor that is sent with a message.
    pub(super) fn descriptor_for(&mut self, message: &ToDestination) -> Option<Arc<File>> {
        if !self.pages.as_a_whole || !matches!(message, ToDestination::Hello { .. }) {
            return None;
        }
        // If the host does not report the mark, the memory counts as taken.
        self.pages.passed_mark = self.machine.memory().mark().ok();
        self.machine.memory().memfd()
    }

    /// Whether the destination has taken the memory; true in doubt.
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

    /// The page worker's answers when there is nothing to send: one round that leaves no pages, and
    /// no last pages.
    pub(super) fn no_pages(&self, asked: &Output) {
        let answer = match asked {
            Output::SendLastPages { .. } => Input::LastPagesSent { marker: 0 },
            _ => Input::RoundDone(Decision::Switch),
        };
        // The driver holds its own channel open.
        let _ = self.events.send(Event::OfLink(self.links.epoch, LinkEvent::PagesDone(answer.into())));
    }
}
