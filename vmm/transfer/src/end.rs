//! What a process waits for before it ends: its incoming migration, and the words that are owed.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use ferry_migration::destination::Outcome;
use ferry_record::ANSWER_DEADLINE;

use crate::error::MigrationError;
use crate::migrations::{Current, FAREWELL, Migrations};
use crate::threads::INTERRUPT_AGAIN;

/// Longest that a process which is about to end waits for an incoming migration to end: a guest
/// that was claimed and has not run is given back, for which the record is asked.
const GIVE_BACK: Duration = Duration::from_secs(5);

impl Migrations {
    /// Blocks until an incoming migration has ended; without one, until there is one. `failed`
    /// learns why it failed, naming the device if one did, before another one can begin.
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

    /// The guest has shut down or the process is about to end: an outgoing migration is given up,
    /// and the source of an incoming one learns that it is needed no more, or gets its guest back.
    pub fn guest_gone(&self, reason: &str) {
        let until = Instant::now() + FAREWELL;
        if let Some(outgoing) = &self.current().outgoing {
            outgoing.guest_gone(reason);
        }
        let incoming = self.current().incoming.clone();
        if let Some(incoming) = &incoming {
            incoming.ends(reason);
        }
        // Locked only for each look: clients go on asking meanwhile.
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
