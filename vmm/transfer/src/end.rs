//! The end of a process: it waits for its migrations, and for writes to the record.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use ferry_migration::destination::Outcome;
use ferry_record::ANSWER_DEADLINE;

use crate::error::MigrationError;
use crate::migrations::{Current, FAREWELL, Migrations};
use crate::threads::INTERRUPT_AGAIN;

/// Longest that a process which is about to end waits for an incoming migration to end: a guest
/// that was claimed and has not run is given back by the record.
const GIVE_BACK: Duration = Duration::from_secs(5);

impl Migrations {
    /// Blocks until an incoming migration has ended; without one, until there is one. `failed`
    /// receives the reason if it failed, naming the device if one did, before another one can
    /// begin.
    pub fn follow_incoming(&self, failed: impl FnOnce(MigrationError)) {
        let waiting = |current: &mut Current| current.incoming.is_none();
        let current = self.changed.wait_while(self.current(), waiting).unwrap_or_else(PoisonError::into_inner);
        let incoming = current.incoming.clone();
        drop(current);
        let outcome = incoming.and_then(|incoming| incoming.join());
        if let Some(Outcome::Failed(reason)) = outcome {
            failed(MigrationError::Incoming(reason));
        }
        self.current().incoming = None;
        self.changed.notify_all();
    }

    /// Called when the guest has shut down or the process is about to end: gives up an outgoing
    /// migration, and notifies the source of an incoming one that it is no longer needed, or gives
    /// the guest back.
    pub fn guest_gone(&self, reason: &str) {
        let until = Instant::now() + FAREWELL;
        if let Some(outgoing) = &self.current().outgoing {
            outgoing.guest_gone(reason);
        }
        let incoming = self.current().incoming.clone();
        if let Some(incoming) = &incoming {
            incoming.ends(reason);
        }
        // Locked only for each look: clients can send commands meanwhile.
        while self.current().outgoing.as_ref().is_some_and(|o| !o.has_ended()) && Instant::now() < until {
            std::thread::park_timeout(INTERRUPT_AGAIN);
        }
        let until = Instant::now() + GIVE_BACK;
        while incoming.as_ref().is_some_and(|incoming| !incoming.has_ended()) && Instant::now() < until {
            std::thread::park_timeout(INTERRUPT_AGAIN);
        }
        if let Some(record) = &self.record {
            record.wait_written(ANSWER_DEADLINE);
        }
    }
}
