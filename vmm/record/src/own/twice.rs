//! The warning to clients about a guest that may run twice, for as long as that holds.

use std::sync::PoisonError;

use super::error::RecordError;
use super::info::{MayRunTwice, OwnershipInfo};
use super::process::OwnRecord;

impl OwnRecord {
    /// Keeps the finding of an attempt to take the record.
    pub(super) fn note_twice(&self, result: &Result<(), RecordError>) {
        let Err(error @ RecordError::Twice { owner, generation, .. }) = result else { return };
        let (stay, why) = (self.stay(), error.to_string());
        let found = MayRunTwice { stay, owner: owner.clone(), generation: *generation, why };
        *self.may_run_twice.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    }

    /// Why the guest may run twice, unless it has gone, or the record names another owner by now.
    /// A record that does not answer changes nothing about it.
    pub(super) fn may_run_twice(&self, info: &OwnershipInfo) -> Option<String> {
        let found = self.may_run_twice.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |found: &&MayRunTwice| {
            let named = |owner: &String| *owner == found.owner && info.generation == Some(found.generation);
            found.stay == self.stay() && info.owner.as_ref().is_none_or(named)
        };
        found.as_ref().filter(holds).map(|found| found.why.clone())
    }
}
