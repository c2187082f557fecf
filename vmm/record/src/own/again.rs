//! Claims the ownership record before a guest runs again whose disk this process has released.
//!
//! That is the guest of a failed switchover whose disk was locked by another process when this one
//! tried to take it back: since then that process, or a third one, may have run it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use ferry_devices::one_call::NoAnswer;
use ferry_migration::guards::Guards;
use ferry_migration::ownership::custody::{self, Again};
use ferry_migration::ownership::{Record, Swap};

use crate::OwnershipError;

use super::call::{ANSWER_DEADLINE, THREAD};
use super::error::RecordError;
use super::process::OwnRecord;

/// Settles the record; to be called when the guest is here.
pub type Settle = Box<dyn FnOnce() + Send>;

impl OwnRecord {
    /// Makes the record name this process; the caller holds the disk of its guest. The caller calls
    /// the result when the guest is here: until then the record says that a migration is under way.
    ///
    /// # Errors
    /// Why the guest may not run here.
    pub fn claim(self: &Arc<Self>, again: Again) -> Result<Settle, RecordError> {
        // A guest that never had a record: it arrived without one, and booted where none could be
        // made.
        if self.generation() == 0 {
            return Ok(Box::new(|| ()));
        }
        let (own, is_late) = (self.clone(), Arc::new(AtomicBool::new(false)));
        let given_up = is_late.clone();
        let asked = self.calls.claim.ask(THREAD, ANSWER_DEADLINE, move || own.claim_again(again, &given_up));
        let claimed = asked.unwrap_or_else(|why| match why {
            NoAnswer::Late | NoAnswer::StillHangs => {
                is_late.store(true, SeqCst);
                Err(RecordError::Late { place: self.place() })
            }
            NoAnswer::Thread(error) => Err(RecordError::Thread(error)),
        })?;
        let own = self.clone();
        Ok(Box::new(move || own.settle_claim(claimed)))
    }

    /// Makes the record name this process in a new generation, unsettled, unless `given_up`: the
    /// caller has stopped waiting.
    pub(super) fn claim_again(&self, again: Again, given_up: &AtomicBool) -> Result<Record, RecordError> {
        let migration_id = crate::random().map_err(RecordError::Random)?;
        self.while_nobody_changes_it(|| {
            if !custody::may_claim(self.announced().is_some(), again, Guards::all()) {
                return Err(RecordError::Announced);
            }
            let Some(there) = self.backend.read()? else {
                return Err(OwnershipError::Missing { at: self.place() }.into());
            };
            if given_up.load(SeqCst) {
                return Err(RecordError::Late { place: self.place() });
            }
            let change = custody::run_again(&there, &self.me, migration_id, Guards::all())
                .map_err(|refusal| self.refused(refusal))?;
            match self.backend.swap(&change.expected, &change.record)? {
                Swap::Won => {
                    self.generation.store(change.record.generation, SeqCst);
                    Ok(change.record)
                }
                Swap::Lost(record) => Err(self.taken(&record)),
            }
        })
    }

    /// Settles the record, unless a migration has begun since this claim. This process holds the
    /// guest's disk.
    fn settle_claim(self: &Arc<Self>, claimed: Record) {
        let _first_try = self.insist("say that the guest is here", move |own| {
            match own.backend.read()? {
                Some(there) if there == claimed => {
                    let change = there.settle();
                    own.backend.swap(&change.expected, &change.record)?;
                }
                _ => {}
            }
            Ok(())
        });
    }
}
