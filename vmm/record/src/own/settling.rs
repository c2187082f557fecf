//! Settles the record after hand-overs: on one thread for all of them, even while storage hangs.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, MutexGuard, PoisonError};

use ferry_migration::ownership::{Handover, Record, Swap};

use super::ended::Ended;
use super::error::RecordError;
use super::process::OwnRecord;

/// Most hand-overs that the record may still name after their end. At this number no other is
/// announced.
const MOST: usize = 64;

/// A thread that settles the record, until this is dropped.
struct Work {
    own: Arc<OwnRecord>,
    serial: u64,
}

impl OwnRecord {
    /// Settles the record if it names `handover`. Retries in the background until that is written,
    /// or the record belongs to another process or to another hand-over. A record that the operator
    /// must repair first is tried again at the end of the next hand-over, or of the process.
    pub(super) fn settle(self: &Arc<Self>, handover: &Handover) {
        self.ended().list.push(handover.clone());
        self.tell_ended();
    }

    /// After a swap whose answer was lost, the record may name this process in a newer generation
    /// than the one noted.
    fn learn_generation(&self, record: &Record) {
        if record.owner == self.me {
            self.generation.fetch_max(record.generation, SeqCst);
        }
    }

    /// Starts the thread, unless it is at work or there is nothing to settle.
    pub(super) fn tell_ended(self: &Arc<Self>) {
        let work = {
            let mut ended = self.ended();
            if ended.worker != 0 || ended.list.is_empty() {
                return;
            }
            ended.serial += 1;
            ended.worker = ended.serial;
            Work { own: self.clone(), serial: ended.serial }
        };
        // If no thread starts, the list waits for the next hand-over or the process's end.
        let _first_try = self.insist("say that the hand-over has ended", move |own| {
            let result = own.settle_ended(&work);
            if result.as_ref().is_err_and(|error| !error.may_pass()) {
                // The operator may repair the record: it is tried again at the next end of a
                // hand-over.
                own.ended().leave(work.serial);
            }
            result
        });
    }

    fn settle_ended(&self, work: &Work) -> Result<(), RecordError> {
        loop {
            let ended = self.ended().list.clone();
            if let Some(record) = self.backend.read()? {
                self.learn_generation(&record);
                if ended.iter().any(|handover| self.is_unsettled(&record, handover)) {
                    let change = record.settle();
                    if matches!(self.backend.swap(&change.expected, &change.record)?, Swap::Lost(_)) {
                        continue;
                    }
                }
            }
            let mut left = self.ended();
            left.list.retain(|handover| !ended.contains(handover));
            if left.list.is_empty() {
                left.leave(work.serial);
                return Ok(());
            }
        }
    }

    /// Whether the ends of [`MOST`] hand-overs are still to be written.
    pub(super) fn is_behind(self: &Arc<Self>) -> bool {
        let is_behind = self.ended().list.len() >= MOST;
        if is_behind {
            self.tell_ended();
        }
        is_behind
    }

    fn ended(&self) -> MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.own.ended().leave(self.serial);
    }
}
