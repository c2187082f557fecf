//! The record during one migration, on either side: the changes of the switchover, with results in
//! the state machines' types.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use ferry_migration::destination::{Claim, GiveBack};
use ferry_migration::ownership::{Change, Handover, Record, Standing, Swap, custody};
use ferry_migration::source::TakeBack;

use crate::{OwnershipError, Stay};

use super::call::THREAD;
use super::error::RecordError;
use super::process::OwnRecord;

/// Longest time that the resume of a guest waits for a read of the record: before the permit no
/// other process can own the guest, except by an operator's command.
const LOOK: Duration = Duration::from_millis(100);

/// The record during one migration.
#[derive(Debug)]
pub struct HandoverRecord {
    pub(super) own: Arc<OwnRecord>,
    pub(super) handover: Handover,
    pub(super) nonce: u64,
    /// The stay of the guest at this process when the hand-over began.
    pub(super) stay: Stay,
    /// The record may name this hand-over.
    pub(super) in_record: AtomicBool,
    /// The guest is here for good: an announcement that is still to be written must not be written.
    pub(super) is_over: Arc<AtomicBool>,
    /// The operator knows that the destination's claim was never used.
    pub(super) never_ran: AtomicBool,
    /// The migration has ended, here or elsewhere.
    pub(super) has_ended: AtomicBool,
}

impl OwnRecord {
    /// A hand-over of which this process is the source.
    ///
    /// # Errors
    /// When the generation cannot grow any more.
    pub fn outgoing(self: &Arc<Self>, migration_id: u128) -> Result<HandoverRecord, RecordError> {
        let handover = Handover::new(self.vm.clone(), migration_id, self.generation(), self.me.clone())?;
        // A nonce of 0 is no nonce.
        let nonce = migration_id as u64 | 1;
        Ok(HandoverRecord {
            own: self.clone(),
            handover,
            nonce,
            stay: self.stay(),
            in_record: AtomicBool::new(false),
            is_over: Arc::default(),
            never_ran: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
        })
    }

    /// A hand-over of which this process is the destination.
    #[must_use]
    pub fn incoming(self: &Arc<Self>, handover: Handover) -> HandoverRecord {
        HandoverRecord {
            own: self.clone(),
            handover,
            nonce: 0,
            stay: self.stay(),
            in_record: AtomicBool::new(true),
            is_over: Arc::default(),
            never_ran: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
        }
    }
}

impl HandoverRecord {
    /// The record of this process's guest.
    #[must_use]
    pub fn own(&self) -> &Arc<OwnRecord> {
        &self.own
    }

    /// The hand-over, for the greeting.
    #[must_use]
    pub fn handover(&self) -> &Handover {
        &self.handover
    }

    /// The number that the destination must read back.
    #[must_use]
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    /// Source: writes the nonce.
    ///
    /// # Errors
    /// When the record does not answer or names another process.
    pub fn announce(&self) -> Result<(), RecordError> {
        let announced = self.own.while_nobody_changes_it(|| {
            if self.own.is_behind() {
                return Err(RecordError::Behind { place: self.own.place() });
            }
            // In this order: an end that comes now either finds `in_record` set or has set
            // `is_over`.
            self.in_record.store(true, SeqCst);
            if self.is_over.load(SeqCst) || !self.begins() {
                return Err(RecordError::Over);
            }
            match self.swap(&self.handover.announce(self.nonce))? {
                Swap::Won => Ok(()),
                Swap::Lost(record) => Err(self.own.not_ours(&record)),
            }
        });
        announced.inspect_err(|error| self.in_record.store(error.maybe_applied(), SeqCst))
    }

    /// Notes that the record is about to name this migration, unless that has ended.
    fn begins(&self) -> bool {
        let mut announced = self.own.announced();
        let begins = !self.has_ended.load(SeqCst);
        if begins {
            *announced = Some(self.handover.migration_id());
        }
        begins
    }

    /// Source: the migration has ended, even if the record still names it.
    pub fn end(&self) {
        let mut announced = self.own.announced();
        self.has_ended.store(true, SeqCst);
        announced.take_if(|id| *id == self.handover.migration_id());
    }

    /// Source: makes the record name this side again.
    #[must_use]
    pub fn take_back(&self) -> TakeBack {
        let change = self.handover.take_back();
        match self.swap(&change) {
            Ok(Swap::Won) => {
                self.settle_late();
                self.took_back(&change.record)
            }
            Ok(Swap::Lost(record)) => match self.handover.standing(&self.own.me, Some(&record)) {
                // The destination has given it back.
                Standing::Mine => self.took_back(&record),
                _ if self.handover.is_claimed(&record) => TakeBack::Claimed,
                _ if record.migration_id == self.handover.migration_id() => TakeBack::Lost,
                _ => TakeBack::Taken,
            },
            Err(error) => {
                tracing::warn!(%error, "the ownership record was not reached");
                if error.maybe_applied() {
                    self.settle_late();
                }
                TakeBack::Unreachable
            }
        }
    }

    /// Source: settles the record if the guest has come back in another way while the call waited.
    fn settle_late(&self) {
        if self.is_over.load(SeqCst) {
            self.own.settle(&self.handover);
        }
    }

    /// Either side, before its guest runs at the end of a switchover, with the disk held: whether
    /// the record, if it answers at once, allows this side to run the guest. An operator may have
    /// booted it elsewhere meanwhile.
    ///
    /// # Errors
    /// The record names a process that has no part in this migration.
    pub fn allows(&self) -> Result<(), String> {
        let own = self.own.clone();
        let Ok(Ok(there)) = self.own.calls.allows.ask(THREAD, LOOK, move || own.backend.read()) else { return Ok(()) };
        match (self.handover.standing(&self.own.me, there.as_ref()), there) {
            // `seize` overwrites it as soon as the record can be written.
            (Standing::Theirs, Some(there)) if self.never_ran.load(SeqCst) && self.handover.is_claimed(&there) => {
                Ok(())
            }
            (Standing::Theirs, Some(there)) => Err(self.own.taken(&there).to_string()),
            _ => Ok(()),
        }
    }

    /// Destination: makes the record name this side.
    #[must_use]
    pub fn claim(&self) -> Claim {
        let change = self.handover.commit(&self.own.me);
        // Presence comes first: the source, which shows its own, may end once this side has the
        // guest.
        match self.own.show_presence(false, self.stay).and_then(|()| self.swap(&change)) {
            Ok(Swap::Won) => {
                self.own.generation.store(change.record.generation, SeqCst);
                Claim::Won
            }
            Ok(Swap::Lost(_)) => {
                self.own.guest_has_gone();
                Claim::Lost
            }
            Err(error) => {
                tracing::warn!(%error, "the ownership record was not reached");
                Claim::Unreachable
            }
        }
    }

    /// Destination: makes the record name the source again.
    #[must_use]
    pub fn give_back(&self) -> GiveBack {
        match self.swap(&self.handover.give_back(&self.own.me)) {
            // Lost: the record names another process already, which is the purpose.
            Ok(_) => {
                self.own.guest_has_gone();
                GiveBack::Done
            }
            Err(error) => {
                tracing::warn!(%error, "the ownership record was not reached");
                GiveBack::Unreachable
            }
        }
    }

    /// Either side, when the guest is here for good: settles the record. Retries in the background
    /// until that is written, or the record belongs to another process or to another hand-over.
    pub fn settle(&self) {
        self.is_over.store(true, SeqCst);
        if self.in_record.load(SeqCst) {
            self.own.settle(&self.handover);
        }
    }

    /// Source, whose operator knows that the destination has never run the guest: makes the record
    /// name this side, even over the destination's claim. Retries in the background while the
    /// record is unreachable. The receiver gets the result of the first attempt.
    #[must_use]
    pub fn seize(&self) -> Receiver<Result<(), String>> {
        self.never_ran.store(true, SeqCst);
        let (handover, is_over) = (self.handover.clone(), self.is_over.clone());
        self.own.insist("name this process", move |own| {
            let there = own.backend.read()?;
            let standing = handover.standing(&own.me, there.as_ref());
            let Some(there) = there else { return Err(OwnershipError::Missing { at: own.place() }.into()) };
            let named = if standing == Standing::Open || handover.is_claimed(&there) {
                let change = custody::seize(&there, &own.me)?;
                match own.backend.swap(&change.expected, &change.record)? {
                    Swap::Won => change.record,
                    Swap::Lost(record) => return Err(own.not_ours(&record)),
                }
            } else if standing == Standing::Mine {
                there
            } else {
                return Err(own.taken(&there));
            };
            own.generation.store(named.generation, SeqCst);
            // The end of the hand-over, which is written concurrently, had nothing to settle in
            // that case.
            if is_over.load(SeqCst) && own.is_unsettled(&named, &handover) {
                let change = named.settle();
                own.backend.swap(&change.expected, &change.record)?;
            }
            Ok(())
        })
    }

    fn took_back(&self, record: &Record) -> TakeBack {
        self.own.generation.store(record.generation, SeqCst);
        TakeBack::Won
    }

    fn swap(&self, change: &Change) -> Result<Swap, OwnershipError> {
        self.own.backend.swap(&change.expected, &change.record)
    }
}
