//! The record of a process's guest: which record, who this process is, and which generation it
//! holds.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ferry_devices::one_call::OneCall;
use ferry_migration::guards::Guards;
use ferry_migration::ownership::custody::{self, Arrival, Boot, Refusal};
use ferry_migration::ownership::{Change, Handover, Name, OwnerId, Record, Swap};

use crate::{Ownership, OwnershipError, Stay};

use super::background::Background;
use super::call::ANSWER_DEADLINE;
use super::call::THREAD;
use super::ended::Ended;
use super::error::{RecordError, Twice};
use super::info::{MayRunTwice, OwnershipInfo};

/// Pause before a change that must be made is tried again.
const INSIST_AGAIN: Duration = Duration::from_millis(500);

/// Calls to the record that may be repeated, one of each kind at a time.
#[derive(Debug, Default)]
pub(super) struct Calls {
    info: OneCall,
    pub(super) allows: OneCall,
    pub(super) claim: OneCall,
}

/// The record of a process's guest.
#[derive(Debug)]
pub struct OwnRecord {
    pub(super) backend: Arc<dyn Ownership>,
    pub(super) me: OwnerId,
    pub(super) vm: Name,
    /// The guest runs without a record where it cannot be made.
    pub(super) optional: bool,
    pub(super) generation: AtomicU64,
    /// The migration that the record names, while it is under way with this process as its source.
    pub(super) announced: Mutex<Option<u128>>,
    /// A guest has arrived, and the record does not name this process yet.
    arrivals: Arc<Background>,
    /// Changes that go on in the background.
    background: Arc<Background>,
    /// Calls that may be repeated while the storage hangs.
    pub(super) calls: Calls,
    /// Cloned into each thread that calls the record for a migration.
    pub(super) asking: Arc<()>,
    pub(super) ended: Mutex<Ended>,
    /// Why the guest may run twice, by the record as it was then.
    pub(super) may_run_twice: Mutex<Option<MayRunTwice>>,
    /// Held from a read of the record to the change that follows from it: the end of one hand-over
    /// must not be written over the beginning of the next.
    changing: Mutex<()>,
}

impl OwnRecord {
    /// The record at `backend` for the guest named `vm`, as this new process will use it.
    ///
    /// # Errors
    /// When the name does not fit, or the kernel provides no random number.
    pub fn new(backend: Arc<dyn Ownership>, vm: &str) -> Result<Self, RecordError> {
        let me = crate::new_owner().map_err(RecordError::Random)?;
        Ok(OwnRecord {
            backend,
            me,
            vm: Name::try_from(vm)?,
            optional: false,
            generation: AtomicU64::new(0),
            announced: Mutex::default(),
            arrivals: Arc::default(),
            background: Arc::default(),
            calls: Calls::default(),
            asking: Arc::default(),
            ended: Mutex::default(),
            may_run_twice: Mutex::default(),
            changing: Mutex::default(),
        })
    }

    /// Whether this process may boot the guest, by the record as it is now. Nothing is changed:
    /// the disk's lock comes next, then [`OwnRecord::take_at_boot`].
    ///
    /// # Errors
    /// When the record does not answer, or is damaged; or, unless `even_in_handover`, when it says
    /// that a hand-over is under way: another process may still hold the guest's memory, which
    /// would then be lost.
    pub fn look_at_boot(&self, even_in_handover: bool) -> Result<Boot, RecordError> {
        let there = self.backend.read()?;
        custody::boot(there.as_ref(), &self.vm, &self.me, even_in_handover, Guards::all())
            .map_err(|refusal| self.refused(refusal))
    }

    /// Makes this process the owner of a guest that it boots afresh. The disk's lock is held: if
    /// the record has not changed since [`OwnRecord::look_at_boot`], no process runs the guest that
    /// it names.
    ///
    /// # Errors
    /// When the record does not answer, or has changed since then: a migration has begun, or
    /// another process boots the guest.
    pub fn take_at_boot(&self, boot: &Boot) -> Result<(), RecordError> {
        let stay = self.stay();
        let (record, won) = match boot {
            Boot::Create(record) => match self.create(record)? {
                Some(won) => (record, won),
                None => return Ok(()),
            },
            Boot::Swap(Change { expected, record }) => {
                self.show_presence(true, stay)?;
                (record, self.backend.swap(expected, record)?)
            }
        };
        match won {
            Swap::Won => {
                if matches!(boot, Boot::Create(_)) {
                    // Before, there was no record to show it at.
                    self.show_presence(true, stay)?;
                }
                self.generation.store(record.generation, SeqCst);
                Ok(())
            }
            Swap::Lost(record) if !record.settled => Err(self.in_handover(&record)),
            Swap::Lost(record) => Err(self.not_ours(&record)),
        }
    }

    /// The present stay of the guest at this process. Background work takes the stay in which it
    /// began, and changes nothing in a later one.
    #[must_use]
    pub fn stay(&self) -> Stay {
        self.backend.stay()
    }

    /// Shows at the record that this process has the guest, if `stay` has not ended.
    pub fn show_presence(&self, alone: bool, stay: Stay) -> Result<(), OwnershipError> {
        self.backend.show_presence(alone, stay)
    }

    /// The guest belongs to another process now, or has not arrived: ends its stay. May wait for
    /// storage.
    pub fn guest_has_gone(&self) {
        drop(self.backend.end_presence());
    }

    /// The guest's owner by the record, for the message of a boot that finds its disk locked.
    #[must_use]
    pub fn owner_there(&self) -> Option<String> {
        let record = self.backend.read().ok()??;
        Some(format!("{} in generation {}", record.owner, record.generation))
    }

    pub(super) fn refused(&self, refusal: Refusal) -> RecordError {
        match refusal {
            Refusal::InHandover(record) => self.in_handover(&record),
            Refusal::Protected(record) => self.protected(&record),
            Refusal::NamesAnother(record) => self.taken(&record),
            Refusal::Rule(error) => RecordError::Rule(error),
        }
    }

    /// Makes the record name this process, which has a guest that arrived without a claim, unless
    /// it names another process for a good reason ([`custody::arrived`]). `through` are the
    /// hand-overs by which the guest has arrived. Retries in the background until the record is
    /// written or the guest has gone.
    pub fn assert_ownership(self: &Arc<Self>, migration_id: u128, through: Vec<Handover>) {
        let (stay, open) = (self.stay(), self.arrivals.begin());
        let _first_try = self.insist("name this process", move |own| {
            let _open = &open;
            own.take_at_arrival(migration_id, &through, stay)
        });
    }

    /// Whether the record names this process, or belongs to another for good; waits up to `within`
    /// for that. Otherwise the guest has arrived, and the record will name this process later, as
    /// settled: no migration may be under way then.
    pub fn is_named_or_without(&self, within: Duration) -> bool {
        custody::may_migrate(!self.arrivals.wait_none(within), Guards::all())
    }

    fn take_at_arrival(&self, migration_id: u128, through: &[Handover], stay: Stay) -> Result<(), RecordError> {
        // Storage may be slow, and the guest may have left meanwhile.
        let has_gone = || self.stay() != stay;
        let there = self.backend.read()?;
        let me = (&self.vm, &self.me);
        let (record, won) = match custody::arrived(there.as_ref(), me, migration_id, through, Guards::all()) {
            _ if has_gone() => return Ok(()),
            Err(Refusal::InHandover(there) | Refusal::NamesAnother(there)) => {
                return Err(self.twice(&there, Twice::InHandover));
            }
            Err(Refusal::Protected(there)) => return Err(self.twice(&there, Twice::Protected)),
            Err(Refusal::Rule(source)) => return Err(OwnershipError::Rule { at: self.place(), source }.into()),
            Ok(Arrival::Named(generation)) => {
                self.generation.store(generation, SeqCst);
                return Ok(self.show_presence(false, stay)?);
            }
            Ok(Arrival::Create(record)) => match self.create(&record)? {
                Some(won) => (record, won),
                None => return Ok(()),
            },
            Ok(Arrival::Swap { change, alone }) => {
                self.show_presence(alone, stay).map_err(|error| match there {
                    Some(there) if error.is_present() && alone => self.twice(&there, Twice::IsPresent),
                    _ => error.into(),
                })?;
                if has_gone() {
                    return Ok(());
                }
                let won = self.backend.swap(&change.expected, &change.record)?;
                (change.record, won)
            }
        };
        match won {
            Swap::Won => {
                self.generation.store(record.generation, SeqCst);
                Ok(self.show_presence(false, stay)?)
            }
            // It has changed since it was read.
            Swap::Lost(record) => Err(self.not_ours(&record)),
        }
    }

    /// Repeats `change` on a thread of its own until it succeeds or fails for good (`may_pass`).
    /// The receiver gets the result of the first attempt: an error means that the record names
    /// another process for good.
    pub(super) fn insist(
        self: &Arc<Self>,
        what: &'static str,
        change: impl Fn(&Self) -> Result<(), RecordError> + Send + 'static,
    ) -> Receiver<Result<(), String>> {
        let (tried, first_try) = channel();
        let own = self.clone();
        let open = self.background.begin();
        let run = move || {
            let _open = open;
            let mut told = None;
            loop {
                let result = own.while_nobody_changes_it(|| change(&own));
                own.note_twice(&result);
                ferry_observe::trace::record(what, &result);
                // The caller may have dropped its end.
                let _ = tried.send(match &result {
                    Err(error @ RecordError::Taken { .. }) => Err(ferry_observe::causes(error)),
                    _ => Ok(()),
                });
                let Err(error) = result else {
                    if told.is_some() {
                        tracing::info!("the ownership record: to {what} has succeeded");
                    }
                    return;
                };
                let kind = Some((std::mem::discriminant(&error), error.may_pass()));
                if std::mem::replace(&mut told, kind) != kind {
                    tell(what, &error);
                }
                if !error.may_pass() {
                    return;
                }
                std::thread::sleep(INSIST_AGAIN);
            }
        };
        // The thread is not joined: storage that hangs must not delay the end of a migration.
        if let Err(error) = std::thread::Builder::new().name(THREAD.into()).spawn(run) {
            tracing::warn!(%error, "no thread to make the ownership record {what}");
        }
        first_try
    }

    /// Waits up to `within` until the background changes are written: a process that ends earlier
    /// would leave a record that names a hand-over.
    pub fn wait_written(self: &Arc<Self>, within: Duration) {
        self.tell_ended();
        self.background.wait_none(within);
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

    /// What the record says now, for an operator. Storage that hangs counts as unreachable after
    /// [`ANSWER_DEADLINE`].
    #[must_use]
    pub fn info(self: &Arc<Self>) -> OwnershipInfo {
        let own = self.clone();
        let read =
            self.calls.info.ask(THREAD, ANSWER_DEADLINE, move || OwnershipInfo::read(&*own.backend, Some(&own.me)));
        let mut info = read.unwrap_or_else(|why| OwnershipInfo::unanswered(self.place(), &why));
        info.may_run_twice = self.may_run_twice(&info);
        info
    }

    /// Whether the record holds `nonce`: if so, the source and this process see the same record.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn shows(&self, nonce: u64) -> Result<bool, OwnershipError> {
        let there = self.backend.read()?;
        Ok(there.is_some_and(|record| record.nonce == nonce && nonce != 0))
    }

    pub(super) fn is_unsettled(&self, record: &Record, handover: &Handover) -> bool {
        record.owner == self.me && !record.settled && record.migration_id == handover.migration_id()
    }

    pub(super) fn announced(&self) -> MutexGuard<'_, Option<u128>> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn while_nobody_changes_it<T>(&self, change: impl FnOnce() -> T) -> T {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        change()
    }

    fn twice(&self, record: &Record, why: Twice) -> RecordError {
        let (owner, generation) = (record.owner.to_string(), record.generation);
        RecordError::Twice { place: self.place(), owner, generation, why }
    }

    pub(super) fn in_handover(&self, record: &Record) -> RecordError {
        RecordError::InHandover { place: self.place(), owner: record.owner.to_string(), generation: record.generation }
    }

    fn protected(&self, record: &Record) -> RecordError {
        RecordError::Protected {
            place: self.place(),
            owner: record.owner.to_string(),
            partner: record.partner.as_ref().map_or_else(String::new, ToString::to_string),
            generation: record.generation,
        }
    }

    pub(super) fn taken(&self, record: &Record) -> RecordError {
        RecordError::Taken { place: self.place(), owner: record.owner.to_string(), generation: record.generation }
    }

    pub(super) fn not_ours(&self, record: &Record) -> RecordError {
        let (place, generation) = (self.place(), record.generation);
        if record.owner == self.me {
            return RecordError::Changed { place, generation };
        }
        RecordError::NotOurs { place, owner: record.owner.to_string(), generation }
    }
}

/// Logs why the record does not `what`: as an error if the guest may run twice.
fn tell(what: &'static str, error: &RecordError) {
    let again = if error.may_pass() { " yet; this is tried again" } else { "" };
    let text = ferry_observe::causes(error);
    match error {
        RecordError::Twice { .. } | RecordError::Ownership(OwnershipError::Rule { .. }) => {
            tracing::error!(error = text, "the ownership record does not {what}{again}");
        }
        _ => tracing::warn!(error = text, "the ownership record does not {what}{again}"),
    }
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
