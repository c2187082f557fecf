//! What the source asks of the ownership record, and what it tells it.

use std::sync::mpsc::Receiver;

use ferry_migration::Handshake;
use ferry_migration::source::{Input, Owner, TakeBack};

use super::Driver;
use super::state::Question;
use crate::custody::let_guest_go;
use crate::source::events::Event;

/// Why there is a record, and the handshake does without.
const NOT_SHARED: &str = "the destination does not see, or cannot read, the ownership record of this guest: the destination's log says which; \
     give both sides the same one with --ownership";

impl Driver {
    /// Asks on a thread of its own: storage may take its time, or hang.
    pub(super) fn ask_record(&mut self, question: Question) {
        let Some(record) = self.record.handover.clone() else {
            // Without a record the handshake is never `owned`, and the state machine asks nothing.
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
                // A driver that has ended knows the answer by other ways.
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

    /// The handshake in force. A record that the destination does not see decides nothing; it goes
    /// on to say that a migration is under way.
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

    /// Where the operator has given the guest to this side: makes the record say so, before the
    /// guest runs if its storage answers. What is returned is signalled after the first try; an
    /// error means that another process has the guest.
    pub(super) fn name_the_source(&self) -> Option<Receiver<Result<(), String>>> {
        let record = self.record.handover.as_ref().filter(|_| self.record.resolved == Some(Owner::Source))?;
        Some(record.seize())
    }

    /// The guest is here, and its disk is held: the record says so, also when its
    /// storage answers later.
    pub(super) fn settle_record(&self) {
        // A migration of a guest that an earlier one has left without its disk may end before it
        // comes to the disk.
        if let Some(record) = self.record.handover.as_ref().filter(|_| self.machine.may_settle()) {
            record.settle();
        }
    }

    /// The guest is another process's for good.
    pub(super) fn guest_has_gone(&self) {
        let_guest_go(&self.machine, self.record.own.as_deref(), "ferry-src-proof");
    }
}
