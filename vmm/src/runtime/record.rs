//! The ownership record as one process and one hand-over use it.
//!
//! [`OwnRecord`] is the process's: which record, who this process is, and which generation it holds. [`HandoverRecord`] is one
//! migration's, on either side: it asks for the changes of the switchover and answers in the state machines' words. Every call
//! may take as long as the storage does, so the drivers make them on threads of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use ferry_migration::destination::{Claim, GiveBack};
use ferry_migration::ownership::{Change, Handover, Name, NameError, OwnerId, Record, RuleError, Standing, Swap};
use ferry_migration::source::TakeBack;

use crate::ownership::{Ownership, OwnershipError};

/// Why a record could not be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The record did not answer, or holds what is no record.
    #[error(transparent)]
    Ownership(#[from] OwnershipError),
    /// The kernel gave no random number for this process's identity.
    #[error("no random number can be had: {0}")]
    Random(std::io::Error),
    /// Somebody else owns the guest.
    #[error("the ownership record {place} names {owner} in generation {generation}, not this process")]
    NotOurs {
        /// Where the record is.
        place: String,
        /// Who owns the guest.
        owner: String,
        /// Since which generation.
        generation: u64,
    },
    /// The guest's name cannot stand in a record.
    #[error("the guest's name cannot stand in an ownership record: {0}")]
    Name(#[from] NameError),
    /// The record's generation cannot grow.
    #[error(transparent)]
    Rule(#[from] RuleError),
}

/// The record of a process's guest.
#[derive(Debug)]
pub struct OwnRecord {
    backend: Arc<dyn Ownership>,
    me: OwnerId,
    vm: Name,
    generation: AtomicU64,
}

impl OwnRecord {
    /// The record at `backend` for the guest named `vm`, as this new process will use it.
    ///
    /// # Errors
    /// When the name does not fit, or the kernel gives no random number.
    pub fn new(backend: Arc<dyn Ownership>, vm: &str) -> Result<Self, RecordError> {
        let me = crate::ownership::new_owner().map_err(RecordError::Random)?;
        Ok(OwnRecord { backend, me, vm: Name::try_from(vm)?, generation: AtomicU64::new(0) })
    }

    /// Makes this process the owner of a guest that it boots afresh. The disk's lock is held: nobody runs the guest that the
    /// record names now, and who holds its stale memory loses the record here.
    ///
    /// # Errors
    /// When the record does not answer, or is damaged.
    pub fn take_at_boot(&self) -> Result<(), RecordError> {
        let won = match self.backend.read()? {
            None => {
                let first = self.settled(1);
                self.backend.create(&first)?
            }
            Some(there) => {
                let change = Change {
                    expected: ferry_migration::ownership::Expected {
                        generation: there.generation,
                        owner: there.owner.clone(),
                    },
                    record: self.settled(there.generation + 1),
                };
                self.backend.swap(&change.expected, &change.record)?
            }
        };
        match won {
            Swap::Won => {
                let there = self.backend.read()?;
                self.generation.store(there.map_or(1, |record| record.generation), SeqCst);
                Ok(())
            }
            Swap::Lost(record) => Err(self.not_ours(&record)),
        }
    }

    /// Which generation this process holds; 0 when it holds none.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    /// Where the record is, for people.
    #[must_use]
    pub fn place(&self) -> String {
        self.backend.place()
    }

    /// What the record says now.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn read(&self) -> Result<Option<Record>, OwnershipError> {
        self.backend.read()
    }

    /// Whether the record can be read and holds `nonce`: the source's view and this one are the same.
    #[must_use]
    pub fn shows(&self, nonce: u64) -> bool {
        matches!(self.backend.read(), Ok(Some(record)) if record.nonce == nonce && nonce != 0)
    }

    /// A hand-over of which this process is the source.
    ///
    /// # Errors
    /// When the generation cannot grow any more.
    pub fn outgoing(self: &Arc<Self>, migration_id: u128) -> Result<HandoverRecord, RecordError> {
        let handover = Handover::new(self.vm.clone(), migration_id, self.generation(), self.me.clone())?;
        // A nonce of 0 is no nonce.
        let nonce = migration_id as u64 | 1;
        Ok(HandoverRecord { own: self.clone(), handover, nonce })
    }

    /// A hand-over of which this process is the destination.
    #[must_use]
    pub fn incoming(self: &Arc<Self>, handover: Handover) -> HandoverRecord {
        HandoverRecord { own: self.clone(), handover, nonce: 0 }
    }

    fn settled(&self, generation: u64) -> Record {
        Record { vm: self.vm.clone(), generation, owner: self.me.clone(), migration_id: 0, settled: true, nonce: 0 }
    }

    fn not_ours(&self, record: &Record) -> RecordError {
        RecordError::NotOurs { place: self.place(), owner: record.owner.to_string(), generation: record.generation }
    }
}

/// The record during one migration.
#[derive(Debug)]
pub struct HandoverRecord {
    own: Arc<OwnRecord>,
    handover: Handover,
    nonce: u64,
}

impl HandoverRecord {
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
    /// When the record does not answer or names somebody else.
    pub fn announce(&self) -> Result<(), RecordError> {
        match self.swap(&self.handover.announce(self.nonce))? {
            Swap::Won => Ok(()),
            Swap::Lost(record) => Err(self.own.not_ours(&record)),
        }
    }

    /// Source: makes the record name this side again.
    #[must_use]
    pub fn take_back(&self) -> TakeBack {
        match self.swap(&self.handover.take_back()) {
            Ok(Swap::Won) => self.took_back(),
            Ok(Swap::Lost(record)) => match self.handover.standing(&self.own.me, Some(&record)) {
                // The destination has given it back.
                Standing::Mine => self.took_back(),
                _ if record.settled => TakeBack::Lost,
                _ => TakeBack::Claimed,
            },
            Err(error) => {
                tracing::warn!(%error, "the ownership record was not reached");
                TakeBack::Unreachable
            }
        }
    }

    /// Destination: makes the record name this side.
    #[must_use]
    pub fn claim(&self) -> Claim {
        let change = self.handover.commit(&self.own.me);
        match self.swap(&change) {
            Ok(Swap::Won) => {
                self.own.generation.store(change.record.generation, SeqCst);
                Claim::Won
            }
            Ok(Swap::Lost(_)) => Claim::Lost,
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
            // Lost: it names somebody else already, which is what giving back is for.
            Ok(_) => GiveBack::Done,
            Err(error) => {
                tracing::warn!(%error, "the ownership record was not reached");
                GiveBack::Unreachable
            }
        }
    }

    /// Either side, when the migration has ended with the guest here: nothing is under way any more. For people only; a record
    /// that does not answer now stays as it is.
    pub fn settle(&self) {
        let settled = match self.own.backend.read() {
            Ok(Some(record)) if record.owner == self.own.me && !record.settled => {
                let change = record.settle();
                self.swap(&change).map(drop)
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = settled {
            tracing::warn!(%error, "the ownership record stays marked as in a hand-over");
        }
    }

    fn took_back(&self) -> TakeBack {
        // A record that does not answer now is read again at the next boot or announcement.
        if let Ok(Some(record)) = self.own.backend.read() {
            self.own.generation.store(record.generation, SeqCst);
        }
        TakeBack::Won
    }

    fn swap(&self, change: &Change) -> Result<Swap, OwnershipError> {
        self.own.backend.swap(&change.expected, &change.record)
    }
}
