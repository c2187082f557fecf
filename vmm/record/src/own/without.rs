//! A guest that runs without a record: it has none yet, and this process may not make one.

use ferry_migration::ownership::{Record, Swap};

use crate::OwnershipError;

use super::process::OwnRecord;

impl OwnRecord {
    /// Makes the record optional: a guest runs without one where there is none and this process may
    /// not make it.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Makes the record where there is none; `None` if the guest runs without one.
    pub(super) fn create(&self, record: &Record) -> Result<Option<Swap>, OwnershipError> {
        match self.backend.create(record) {
            Err(error) if self.optional && error.is_read_only() && !error.maybe_applied() => {
                tracing::warn!(%error, "there is no ownership record; migrations use the handshake setup");
                Ok(None)
            }
            won => won.map(Some),
        }
    }
}
