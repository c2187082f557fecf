//! The destination's calls to the ownership record.

use std::sync::Arc;
use std::time::Instant;

use ferry_migration::destination::{Claim, GiveBack, Input};
use ferry_migration::greeting::Announced;
use ferry_migration::{Handshake, Timer};
use ferry_record::{OwnRecord, OwnershipError, RecordError};

use super::Driver;
use super::state::Question;
use crate::custody::let_guest_go;
use crate::destination::events::Event;

/// What an operator can do if this side does not use the source's record.
const ADVICE: &str = "this migration goes without it, or fails if its source insists on it; give both sides the same one \
                      with --ownership file:PATH";

/// Whether this side's record is the source's. Where it is not, the log says why.
fn shows(own: &OwnRecord, nonce: u64) -> Input {
    let shown = own.shows(nonce);
    match &shown {
        Ok(true) => {}
        Ok(false) => tracing::warn!("the ownership record {} is not the source's: {ADVICE}", own.place()),
        Err(error) => not_read(error),
    }
    Input::Checked(Ok(shown.unwrap_or(false)))
}

fn not_read(error: &dyn std::error::Error) {
    let error = ferry_observe::causes(error);
    tracing::warn!(
        error,
        "whether this side's ownership record is the source's is not known: this migration goes without it, or fails if \
         its source insists on it"
    );
}

impl Driver {
    /// Checks whether this side's record is the source's.
    pub(super) fn look_for(&mut self, announced: Announced) {
        let Some(own) = self.record.own.clone() else {
            tracing::warn!("the source has an ownership record, and this process none: {ADVICE}");
            return self.input(Input::Checked(Ok(false)));
        };
        self.record.announced = Some(announced.handover);
        let asked = own.clone();
        self.ask_record(Question::Show(announced.nonce), &asked, move || shows(&own, announced.nonce));
    }

    /// Takes the presence from the greeting on, with every handshake: the source keeps its own
    /// until the migration has completed, so no boot comes between.
    pub(super) fn show_presence(&self) {
        let Some(own) = self.record.own.clone() else { return };
        // Read here: the thread may run only after the migration has failed.
        let (stay, asked) = (own.stay(), own.clone());
        let show = move || match own.show_presence(false, stay) {
            // The guest arrives without a record, which is made when it is here.
            Ok(()) | Err(OwnershipError::Missing { .. }) => {}
            Err(error) => tracing::warn!(%error, "a boot of this guest is not kept away while it arrives"),
        };
        if let Err(error) = asked.ask_apart(self.machine.faults(), "ferry-dst-record", show) {
            tracing::warn!(%error, "a boot of this guest is not kept away while it arrives");
        }
    }

    /// Called when the guest has not arrived.
    pub(super) fn end_presence(&self) {
        let_guest_go(&self.machine, self.record.own.as_deref(), "ferry-dst-disk");
    }

    /// The record is the source's: it decides about this hand-over.
    pub(super) fn found(&mut self, answer: &Input) {
        if let (Input::Checked(Ok(true)), Some(own), Some(handover)) =
            (answer, &self.record.own, self.record.announced.take())
        {
            self.record.handover = Some(Arc::new(own.incoming(handover)));
        }
    }

    /// Claims the guest in the record. Without a record the handshake is never `owned`, and the
    /// state machine requests no claim.
    pub(super) fn claim(&mut self) {
        let Some(record) = self.record.handover.clone() else { return };
        let own = record.own().clone();
        self.ask_record(Question::Claim, &own, move || Input::Claimed(record.claim()));
    }

    /// Gives the guest back in the record.
    pub(super) fn give_back(&mut self) {
        let Some(record) = self.record.handover.clone() else { return };
        let own = record.own().clone();
        self.ask_record(Question::GiveBack, &own, move || Input::GaveBack(record.give_back()));
    }

    /// Asks on a thread of its own: storage may be slow, or hang.
    fn ask_record(&mut self, question: Question, own: &OwnRecord, answer: impl FnOnce() -> Input + Send + 'static) {
        let (events, told, faults) = (self.events.clone(), self.events.clone(), self.machine.faults().clone());
        self.record.call.ask(question, |serial| {
            let ask = move || {
                // A driver that has ended does not need the answer.
                let _ = events.send(Event::Record(serial, answer()));
            };
            own.ask_apart(&faults, "ferry-dst-record", ask).inspect_err(|_| {
                let input = match question {
                    Question::Show(_) => Input::Checked(Ok(false)),
                    Question::Claim => Input::Claimed(Claim::Unreachable),
                    Question::GiveBack => Input::GaveBack(GiveBack::Unreachable),
                };
                // The driver holds its own channel open.
                let _ = told.send(Event::Record(serial, input));
            })
        });
    }

    /// A call to storage has not been answered in time.
    pub(super) fn storage_is_late(&mut self) {
        if self.record.disk_look.is_some_and(|until| until <= Instant::now()) {
            self.disk_is_late();
        }
        self.record_is_late();
    }

    /// The time for the greeting is over: this side has not finished, or the source has sent none.
    pub(super) fn setup_is_over(&mut self) {
        match (&self.record.own, self.record.call.awaits()) {
            _ if self.record.disk_look.is_some() => self.disk_is_late(),
            (Some(own), Some(Question::Show(_))) => {
                let error = RecordError::Late { place: own.place() };
                not_read(&error);
                self.input(Input::Checked(Err(format!("the destination: {error}"))));
            }
            _ => self.input(Input::Timer(Timer::Setup)),
        }
    }

    fn record_is_late(&mut self) {
        match self.record.call.overdue() {
            // As if there were no record.
            Some(Question::Show(_)) => {
                if let Some(own) = &self.record.own {
                    not_read(&RecordError::Late { place: own.place() });
                }
                self.input(Input::Checked(Ok(false)));
            }
            Some(Question::Claim) => self.input(Input::Claimed(Claim::Unreachable)),
            Some(Question::GiveBack) => self.input(Input::GaveBack(GiveBack::Unreachable)),
            None => {}
        }
    }

    pub(super) fn settle_record(&self) {
        if let Some(record) = &self.record.handover {
            record.settle();
        }
    }

    /// Makes this process's record name it as owner of a guest that arrived without the record, for
    /// the next migration, unless another process has a part in it.
    pub(super) fn guest_started(&self) {
        if let Some(own) = self.record.own.as_ref().filter(|_| self.core.handshake() != Handshake::Owned) {
            own.assert_ownership(self.migration_id.unwrap_or_default(), self.machine.came_through());
        }
    }
}
