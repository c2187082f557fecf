//! What happens in a Ferry process that a client may want to hear about, and who hears it.
//!
//! The machine and the migration runtime publish; every QMP connection subscribes. Publishing never blocks: a subscriber
//! that does not read fast enough to keep up with [`BACKLOG`] events is dropped.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::SystemTime;

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
    /// The guest is gone; `guest` tells whether it asked for it.
    Shutdown {
        /// Whether the guest asked for it.
        guest: bool,
        /// QEMU's `ShutdownCause`, for example `guest-shutdown` or `host-qmp-quit`.
        reason: &'static str,
    },
    /// The machine was reset; `guest` tells whether the guest asked for it.
    Reset {
        /// Whether the guest asked for it.
        guest: bool,
        /// QEMU's `ShutdownCause`, for example `guest-reset` or `host-qmp-system-reset`.
        reason: &'static str,
    },
    /// The migration's status changed.
    Migration(Status),
    /// A precopy round begins; counts from 1.
    MigrationPass(u64),
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
    subscribers: Mutex<Vec<SyncSender<Stamped>>>,
    published: AtomicU64,
}

impl Events {
    /// Tells every subscriber.
    pub fn publish(&self, event: Event) {
        tracing::debug!(?event, "event");
        crate::trace::event(&event);
        let stamped = Stamped { event, at: SystemTime::now() };
        let mut subscribers = self.subscribers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        subscribers.retain(|subscriber| subscriber.try_send(stamped.clone()).is_ok());
        self.published.fetch_add(1, Relaxed);
    }

    /// How many events have been published.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.published.load(Relaxed)
    }

    /// Hears everything published from now on.
    pub fn subscribe(&self) -> Receiver<Stamped> {
        self.subscribe_counted().0
    }

    /// The same, with how many were published before.
    pub fn subscribe_counted(&self) -> (Receiver<Stamped>, u64) {
        let (sender, receiver) = sync_channel(BACKLOG);
        let mut subscribers = self.subscribers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        subscribers.push(sender);
        (receiver, self.published())
    }

    /// Ends every subscription: a subscriber still reads what was published before, then finds the end.
    pub fn close(&self) {
        self.subscribers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
    }
}
