//! The source's calls to the ownership record.

use std::sync::mpsc::Receiver;

use ferry_migration::Handshake;
use ferry_migration::source::{Input, Owner, TakeBack};

use super::Driver;
use super::state::Question;
use crate::custody::let_guest_go;
use crate::source::events::Event;

/// Why the handshake does not use the record that there is.
const NOT_SHARED: &str = "the destination does not see, or cannot read, the ownership record of this guest: the destination's log says which; \
     give both sides the same one with --ownership";

impl Driver {
    /// Asks on a thread of its own: storage may be slow, or hang.
    pub(super) fn ask_record(&mut self, question: Question) {
        let Some(record) = self.record.handover.clone() else {
            // Without a record the handshake is never `owned`, and the state machine has no
            // question.
            return;
        };
        let (events, told, faults) = (self.events.clone(), self.events.clone(), self.machine.faults().clone());
        let own = record.own().clone();
        self.record.call.ask(question, |serial| {
            let ask = move || {
                let input = match question {
                    Question::Announce => Input::NonceWritten(record.announce().map_err(|e| ferry_observe::causes(&e))),
                    Question::TakeBack => Input::TookBack(record.take_back()),
                };
                // A driver that has ended does not need the answer.
                let _ = events.send(Event::Record(serial, input));
            };
            own.ask_apart(&faults, "ferry-src-record", ask).inspect_err(|error| {
                let reason = format!("the ownership record cannot be asked: {error}");
                let input = match question {
                    Question::Announce => Input::NonceWritten(Err(reason)),
                    Question::TakeBack => Input::TookBack(TakeBack::Unreachable),
                };
                // The driver holds its own channel open.
                let _ = told.send(Event::Record(serial, input));
            })
        });
    }

    /// Shows the handshake in force. A record that the destination does not see decides nothing; it
    /// still shows a migration under way.
    pub(super) fn handshake(&self, handshake: Handshake) {
        self.progress.set_handshake(handshake);
        let Some(own) = self.record.own.as_ref().filter(|_| self.record.expects_owned && handshake != Handshake::Owned)
        else {
            return;
        };
        self.progress.set_handshake_why(match &self.record.handover {
            Some(_) => NOT_SHARED.to_owned(),
            None => format!(
                "the ownership record {} does not name this process: it has the guest without it; \
                 x-ferry-query-ownership shows what it holds",
                own.place()
            ),
        });
    }

    /// If the operator has given the guest to this side: makes the record name it, before the guest
    /// runs if storage answers. The result is signalled after the first try; an error means that
    /// another process has the guest.
    pub(super) fn name_the_source(&self) -> Option<Receiver<Result<(), String>>> {
        let record = self.record.handover.as_ref().filter(|_| self.record.resolved == Some(Owner::Source))?;
        Some(record.seize())
    }

    /// Settles the record, since the guest is here and its disk is held; also if storage answers
    /// only later.
    pub(super) fn settle_record(&self) {
        // If an earlier migration has left the guest without its disk, this one may end before the
        // disk is acquired.
        if let Some(record) = self.record.handover.as_ref().filter(|_| self.machine.may_settle()) {
            record.settle();
        }
    }

    /// Called when the guest belongs to another process for good.
    pub(super) fn guest_has_gone(&self) {
        let_guest_go(&self.machine, self.record.own.as_deref(), "ferry-src-proof");
    }
}
