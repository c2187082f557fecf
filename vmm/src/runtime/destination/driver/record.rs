//! What the destination asks of the ownership record, and what it tells it.

use ferry_migration::Handshake;
use ferry_migration::destination::{Claim, GiveBack, Input};

use super::Driver;
use crate::runtime::destination::Event;

/// What the record can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Name this side.
    Claim,
    /// Name the source again.
    GiveBack,
}

impl Driver {
    /// Asks on a thread of its own: storage may take its time, or hang.
    pub(super) fn ask_record(&mut self, question: Question) {
        let Some(record) = self.record.clone() else {
            // Without a record the handshake is never `owned`, and the state machine asks nothing.
            return;
        };
        let events = self.events.clone();
        self.record_call.ask(question, |serial| {
            let ask = move || {
                let input = match question {
                    Question::Claim => Input::Claimed(record.claim()),
                    Question::GiveBack => Input::GaveBack(record.give_back()),
                };
                // A driver that has ended knows the answer by other ways.
                let _ = events.send(Event::Record(serial, input));
            };
            std::thread::Builder::new().name("ferry-dst-record".into()).spawn(ask).map(drop)
        });
    }

    pub(super) fn record_is_late(&mut self) {
        match self.record_call.overdue() {
            Some(Question::Claim) => self.input(Input::Claimed(Claim::Unreachable)),
            Some(Question::GiveBack) => self.input(Input::GaveBack(GiveBack::Unreachable)),
            None => {}
        }
    }

    pub(super) fn settle_record(&self) {
        if let Some(record) = &self.record {
            record.settle();
        }
    }

    /// A guest that runs here without having come by this process's record gets it now, for its next migration.
    pub(super) fn guest_started(&self) {
        if let Some(own) = self.own_record.as_ref().filter(|_| self.core.handshake() != Handshake::Owned) {
            own.assert_ownership();
        }
    }
}
