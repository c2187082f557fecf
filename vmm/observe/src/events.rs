//! Events of a Ferry process for its clients, and the subscriptions to them.
//!
//! The machine and the migration runtime publish; the QMP server subscribes. Publishing never
//! blocks: a subscriber that is [`BACKLOG`] events behind loses further events until it has read
//! some, with a warning in the log.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ferry_migration::Status;

/// Events that may wait for one subscriber.
pub const BACKLOG: usize = 1024;

/// An event, as QMP shows it (QEMU `qapi/run-state.json`, `qapi/migration.json`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The vCPUs were stopped.
    Stop,
    /// The vCPUs run again.
    Resume,
    /// The guest is gone; `guest`: at its own request.
    Shutdown {
        /// Whether the guest requested it.
        guest: bool,
        /// QEMU's `ShutdownCause`, for example `guest-shutdown` or `host-qmp-quit`.
        reason: &'static str,
    },
    /// The machine was reset; `guest`: at the guest's request.
    Reset {
        /// Whether the guest requested it.
        guest: bool,
        /// QEMU's `ShutdownCause`, for example `guest-reset` or `host-qmp-system-reset`.
        reason: &'static str,
    },
    /// The migration's status changed.
    Migration(Status),
    /// A precopy round begins; counts from 1.
    MigrationPass(u64),
}

impl Event {
    /// The event's name in a trace. Statuses and rounds are noted elsewhere, with their numbers.
    fn traced(&self) -> Option<String> {
        match self {
            Event::Stop => Some("STOP".to_owned()),
            Event::Resume => Some("RESUME".to_owned()),
            Event::Shutdown { reason, .. } => Some(format!("SHUTDOWN ({reason})")),
            Event::Reset { reason, .. } => Some(format!("RESET ({reason})")),
            Event::Migration(_) | Event::MigrationPass(_) => None,
        }
    }
}

/// An event and when it happened.
#[derive(Clone, Debug)]
pub struct Stamped {
    /// What happened.
    pub event: Event,
    /// When.
    pub at: SystemTime,
}

/// The publisher of a process.
#[derive(Debug, Default)]
pub struct Events {
    subscribers: Mutex<Vec<Arc<Backlog>>>,
    published: AtomicU64,
}

impl Events {
    /// Sends an event to every subscriber.
    pub fn publish(&self, event: Event) {
        tracing::debug!(?event, "event");
        crate::trace::event(|| event.traced());
        let stamped = Stamped { event, at: SystemTime::now() };
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        // The other reference is the subscriber's.
        subscribers.retain(|subscriber| Arc::strong_count(subscriber) > 1);
        subscribers.iter().for_each(|subscriber| subscriber.push(&stamped));
        self.published.fetch_add(1, Relaxed);
    }

    /// How many events have been published.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.published.load(Relaxed)
    }

    /// Receives every event published from now on.
    pub fn subscribe(&self) -> Subscription {
        self.subscribe_counted().0
    }

    /// As [`Events::subscribe`], with the number of events published before.
    pub fn subscribe_counted(&self) -> (Subscription, u64) {
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.published();
        let backlog = Arc::new(Backlog::default());
        subscribers.push(backlog.clone());
        (Subscription { backlog, before }, before)
    }

    /// Ends every subscription: a subscriber still receives earlier events, then the end.
    pub fn close(&self) {
        let subscribers = std::mem::take(&mut *self.subscribers.lock().unwrap_or_else(PoisonError::into_inner));
        subscribers.iter().for_each(|subscriber| subscriber.close());
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.close();
    }
}

/// The events that wait for one subscriber.
#[derive(Debug, Default)]
struct Backlog {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<Stamped>,
    /// Events that were taken out of the queue.
    read: u64,
    /// Events that did not fit into it.
    lost: u64,
    /// The last loss has been logged, and no event has fitted since.
    losing: bool,
    closed: bool,
}

impl Backlog {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, stamped: &Stamped) {
        let mut waiting = self.lock();
        if waiting.queue.len() == BACKLOG {
            waiting.lost += 1;
            if !std::mem::replace(&mut waiting.losing, true) {
                tracing::warn!(
                    "{BACKLOG} events wait to be sent to QMP clients: events that come now are lost to them"
                );
            }
            return;
        }
        waiting.losing = false;
        waiting.queue.push_back(stamped.clone());
        drop(waiting);
        self.changed.notify_all();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

/// A subscriber's end of the queue.
#[derive(Debug)]
pub struct Subscription {
    backlog: Arc<Backlog>,
    /// Events that were published before it began.
    before: u64,
}

impl Subscription {
    /// The next event; none at the end.
    #[must_use]
    pub fn next(&self) -> Option<Stamped> {
        let empty = |waiting: &mut Waiting| waiting.queue.is_empty() && !waiting.closed;
        let waiting = self.backlog.changed.wait_while(self.backlog.lock(), empty);
        waiting.unwrap_or_else(PoisonError::into_inner).take()
    }

    /// As [`Subscription::next`]; none also when no event comes in time.
    #[must_use]
    pub fn next_within(&self, timeout: Duration) -> Option<Stamped> {
        let deadline = Instant::now() + timeout;
        let mut waiting = self.backlog.lock();
        while waiting.queue.is_empty() && !waiting.closed {
            let left = deadline.checked_duration_since(Instant::now())?;
            waiting = self.backlog.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        waiting.take()
    }

    /// How many of all published events this subscriber has read; all, lost ones included, when
    /// none waits.
    #[must_use]
    pub fn taken(&self) -> u64 {
        let waiting = self.backlog.lock();
        let lost = if waiting.queue.is_empty() { waiting.lost } else { 0 };
        self.before + waiting.read + lost
    }
}

impl Waiting {
    fn take(&mut self) -> Option<Stamped> {
        let stamped = self.queue.pop_front()?;
        self.read += 1;
        Some(stamped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn a_subscriber_that_falls_behind_loses_events_and_hears_later_ones() {
        let events = Events::default();
        events.publish(Event::Stop);
        let (subscription, before) = events.subscribe_counted();
        assert_eq!((before, subscription.taken()), (1, 1));
        for round in 0..BACKLOG as u64 + 10 {
            events.publish(Event::MigrationPass(round));
        }
        for round in 0..BACKLOG as u64 {
            assert_eq!(subscription.next_within(SOON).unwrap().event, Event::MigrationPass(round));
        }
        assert_eq!(subscription.taken(), events.published(), "no reply waits for what was lost");
        events.publish(Event::Resume);
        assert_eq!(subscription.next_within(SOON).unwrap().event, Event::Resume);
        assert_eq!(subscription.taken(), events.published());
    }

    #[test]
    fn a_subscription_ends_after_what_was_published() {
        let events = Events::default();
        let subscription = events.subscribe();
        events.publish(Event::Stop);
        events.close();
        assert_eq!(subscription.next().unwrap().event, Event::Stop);
        assert!(subscription.next().is_none() && subscription.next_within(SOON).is_none());
    }
}
