//! The ownership record as one process and one hand-over use it.
//!
//! [`OwnRecord`] is the process's: which record, who this process is, and which generation it holds. [`HandoverRecord`] is one
//! migration's, on either side: it asks for the changes of the switchover and answers in the state machines' words. Every call
//! may take as long as the storage does, so the drivers make them on threads of their own.

mod call;

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ferry_migration::destination::{Claim, GiveBack};
use ferry_migration::ownership::{
    Change, Expected, Handover, Name, NameError, OwnerId, Record, RuleError, Standing, Swap,
};
use ferry_migration::source::TakeBack;
use serde::{Deserialize, Serialize};

pub use self::call::{ANSWER_DEADLINE, Call};
use crate::ownership::{Ownership, OwnershipError};

/// How often a record that did not answer is asked again by whoever insists.
const INSIST_AGAIN: Duration = Duration::from_millis(500);

/// Why a record could not be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The record did not answer, or holds what is no record.
    #[error(transparent)]
    Ownership(#[from] OwnershipError),
    /// The kernel gave no random number for this process's identity.
    #[error("no random number can be had: {0}")]
    Random(std::io::Error),
    /// Some process may still hold the guest's memory.
    #[error(
        "the ownership record {place} says that a hand-over is under way, and names {owner} in generation {generation}: end \
         every other process of this guest, then start it with --ownership …,take"
    )]
    InHandover {
        /// Where the record is.
        place: String,
        /// Who owns the guest.
        owner: String,
        /// Since which generation.
        generation: u64,
    },
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

impl RecordError {
    /// Whether another try may succeed: the storage comes back, or the change follows what somebody else has written meanwhile.
    fn may_pass(&self) -> bool {
        match self {
            RecordError::Ownership(error) => error.is_unreachable(),
            RecordError::NotOurs { .. } => true,
            _ => false,
        }
    }
}

/// What a record says, for an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OwnershipInfo {
    /// Where the record is.
    pub place: String,
    /// Why the rest is not known; nothing was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The guest's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// Counts the changes of owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Who owns the guest: `HOST:PID` of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The owner is the process that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owned_here: Option<bool>,
    /// No hand-over is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settled: Option<bool>,
}

impl OwnershipInfo {
    /// What the record at `backend` says; `me` is who asks.
    #[must_use]
    pub fn read(backend: &dyn Ownership, me: Option<&OwnerId>) -> Self {
        let read = backend.read();
        let error = match &read {
            Ok(Some(_)) => None,
            Ok(None) => Some("there is no record yet".to_owned()),
            Err(error) => Some(super::causes(error)),
        };
        let record = read.ok().flatten();
        let of = record.as_ref();
        OwnershipInfo {
            place: backend.place(),
            error,
            vm: of.map(|record| record.vm.to_string()),
            generation: of.map(|record| record.generation),
            owner: of.map(|record| record.owner.to_string()),
            owned_here: of.and_then(|record| Some(record.owner == *me?)),
            settled: of.map(|record| record.settled),
        }
    }
}

/// The record of a process's guest.
#[derive(Debug)]
pub struct OwnRecord {
    backend: Arc<dyn Ownership>,
    me: OwnerId,
    vm: Name,
    generation: AtomicU64,
    /// Held from a look at the record to the change that follows from it: the end of one hand-over must not be written over the
    /// beginning of the next.
    changing: Mutex<()>,
}

impl OwnRecord {
    /// The record at `backend` for the guest named `vm`, as this new process will use it.
    ///
    /// # Errors
    /// When the name does not fit, or the kernel gives no random number.
    pub fn new(backend: Arc<dyn Ownership>, vm: &str) -> Result<Self, RecordError> {
        let me = crate::ownership::new_owner().map_err(RecordError::Random)?;
        Ok(OwnRecord {
            backend,
            me,
            vm: Name::try_from(vm)?,
            generation: AtomicU64::new(0),
            changing: Mutex::default(),
        })
    }

    /// Makes this process the owner of a guest that it boots afresh. The disk's lock is held: nobody runs the guest that the
    /// record names now.
    ///
    /// # Errors
    /// When the record does not answer, or is damaged; or, unless `even_in_handover`, when it says that a hand-over is under
    /// way: some process may still hold the guest's memory, and would lose it here.
    pub fn take_at_boot(&self, even_in_handover: bool) -> Result<(), RecordError> {
        match self.backend.read()? {
            Some(there) if !there.settled && !even_in_handover => Err(RecordError::InHandover {
                place: self.place(),
                owner: there.owner.to_string(),
                generation: there.generation,
            }),
            there => self.take_from(there),
        }
    }

    fn take_from(&self, there: Option<Record>) -> Result<(), RecordError> {
        let (generation, won) = match there {
            None => (1, self.backend.create(&self.settled(1))?),
            Some(there) => {
                let expected = Expected { generation: there.generation, owner: there.owner.clone() };
                let generation =
                    there.generation.checked_add(1).ok_or(RuleError::Exhausted { generation: u64::MAX })?;
                (generation, self.backend.swap(&expected, &self.settled(generation))?)
            }
        };
        match won {
            Swap::Won => {
                self.generation.store(generation, SeqCst);
                Ok(())
            }
            Swap::Lost(record) => Err(self.not_ours(&record)),
        }
    }

    /// Makes the record name this process, which owns the guest whatever the record says: it arrived without the record, or
    /// the operator has said so. Goes on in the background until the record has it; what is returned is signalled, or closed, after
    /// the first try.
    pub fn assert_ownership(self: &Arc<Self>) -> Receiver<()> {
        self.insist("name this process", |own| match own.backend.read()? {
            Some(there) if there.owner == own.me && there.settled => {
                own.generation.store(there.generation, SeqCst);
                Ok(())
            }
            // Also if it is this process's but in a hand-over: the next generation fences who was to take it over.
            there => own.take_from(there),
        })
    }

    /// Repeats `change` on a thread of its own until it succeeds; a record that is no record is left alone. What is returned is
    /// signalled, or closed, after the first try.
    fn insist(
        self: &Arc<Self>,
        what: &'static str,
        change: impl Fn(&Self) -> Result<(), RecordError> + Send + 'static,
    ) -> Receiver<()> {
        let (tried, first_try) = channel();
        let own = self.clone();
        let run = move || {
            let mut told = false;
            loop {
                let result = own.while_nobody_changes_it(|| change(&own));
                crate::trace::record(what, &result);
                // Who asked may not care.
                let _ = tried.send(());
                let Err(error) = result else { return };
                let error_text = super::causes(&error);
                if !error.may_pass() {
                    return tracing::warn!(error = error_text, "the ownership record does not {what}");
                }
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(error = error_text, "the ownership record does not {what} yet; this is tried again");
                }
                std::thread::sleep(INSIST_AGAIN);
            }
        };
        // It ends with the record's answer or with the process: storage that hangs must not keep a migration from ending.
        if let Err(error) = std::thread::Builder::new().name("ferry-record".into()).spawn(run) {
            tracing::warn!(%error, "no thread to make the ownership record {what}");
        }
        first_try
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

    /// What the record says now, for an operator. Storage that hangs counts as unreachable after a while.
    #[must_use]
    pub fn info(self: &Arc<Self>) -> OwnershipInfo {
        let (answer, answered) = channel();
        let own = self.clone();
        let ask = move || {
            // Whoever asked may have given up.
            let _ = answer.send(OwnershipInfo::read(&*own.backend, Some(&own.me)));
        };
        let asked = std::thread::Builder::new().name("ferry-record".into()).spawn(ask);
        let info = asked.ok().and_then(|_| answered.recv_timeout(ANSWER_DEADLINE).ok());
        info.unwrap_or_else(|| OwnershipInfo {
            place: self.place(),
            error: Some(format!("no answer within {} s; its storage hangs", ANSWER_DEADLINE.as_secs())),
            vm: None,
            generation: None,
            owner: None,
            owned_here: None,
            settled: None,
        })
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

    fn is_unsettled(&self, record: &Record, handover: &Handover) -> bool {
        record.owner == self.me && !record.settled && record.migration_id == handover.migration_id()
    }

    fn while_nobody_changes_it<T>(&self, change: impl FnOnce() -> T) -> T {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        change()
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
    /// The process's part of it.
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
    /// When the record does not answer or names somebody else.
    pub fn announce(&self) -> Result<(), RecordError> {
        match self.own.while_nobody_changes_it(|| self.swap(&self.handover.announce(self.nonce)))? {
            Swap::Won => Ok(()),
            Swap::Lost(record) => Err(self.own.not_ours(&record)),
        }
    }

    /// Source: makes the record name this side again.
    #[must_use]
    pub fn take_back(&self) -> TakeBack {
        let change = self.handover.take_back();
        match self.swap(&change) {
            Ok(Swap::Won) => self.took_back(&change.record),
            Ok(Swap::Lost(record)) => match self.handover.standing(&self.own.me, Some(&record)) {
                // The destination has given it back.
                Standing::Mine => self.took_back(&record),
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

    /// Either side, when the guest is here for good: makes the record say that no hand-over is under way any more. Goes on in
    /// the background until the record has it, or belongs to somebody else or to another hand-over.
    pub fn settle(&self) {
        let handover = self.handover.clone();
        let _first_try = self.own.insist("say that the hand-over has ended", move |own| {
            match own.backend.read()? {
                Some(record) if own.is_unsettled(&record, &handover) => {
                    let change = record.settle();
                    own.backend.swap(&change.expected, &change.record)?;
                }
                _ => {}
            }
            Ok(())
        });
    }

    fn took_back(&self, record: &Record) -> TakeBack {
        self.own.generation.store(record.generation, SeqCst);
        TakeBack::Won
    }

    fn swap(&self, change: &Change) -> Result<Swap, OwnershipError> {
        self.own.backend.swap(&change.expected, &change.record)
    }
}
