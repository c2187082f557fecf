//! Says that hand-overs have ended: on one thread for all of them, however long storage hangs.

use std::collections::VecDeque;
use std::sync::mpsc::TryRecvError;
use std::sync::{Arc, MutexGuard, PoisonError};

use ferry_migration::ownership::Handover;

use super::{OwnRecord, RecordError};

/// Most hand-overs that wait to be called over. Of those that the record may still come to tell
/// of, no more than the calls that can be under way ([`OwnRecord::ask_apart`]).
const MOST: usize = 32;

impl OwnRecord {
    /// Makes the record say that `handover` is under way no more, if it tells of it. Goes on in the
    /// background until the record has it, or belongs to another process or to another hand-over.
    pub(super) fn settle(self: &Arc<Self>, handover: &Handover) {
        {
            let mut ended = self.ended();
            let at_work = !ended.is_empty();
            ended.truncate(MOST - 1);
            ended.push_front(handover.clone());
            if at_work {
                return;
            }
        }
        let first_try = self.insist("say that the hand-over has ended", |own| {
            own.settle_ended().inspect_err(|error| {
                if !error.may_pass() {
                    own.ended().clear();
                }
            })
        });
        // Without a thread, the next one that ends starts one.
        if matches!(first_try.try_recv(), Err(TryRecvError::Disconnected)) {
            self.ended().clear();
        }
    }

    /// Ends with an empty list, so that the next hand-over starts a thread again.
    fn settle_ended(&self) -> Result<(), RecordError> {
        loop {
            let ended = self.ended().clone();
            match self.backend.read()? {
                Some(record) if ended.iter().any(|handover| self.is_unsettled(&record, handover)) => {
                    let change = record.settle();
                    self.backend.swap(&change.expected, &change.record)?;
                }
                _ => {}
            }
            let mut left = self.ended();
            left.retain(|handover| !ended.contains(handover));
            if left.is_empty() {
                return Ok(());
            }
        }
    }

    fn ended(&self) -> MutexGuard<'_, VecDeque<Handover>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
