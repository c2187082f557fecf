//! The thread that serves the requests of one queue, and how others start, stop and watch it.
//!
//! ```text
//!          resume                  a kick, or resume itself
//!  parked ─────────▶ running, idle ◀────────────────────────▶ serving a batch
//!    ▲                                                           │
//!    └───────────────────────────────────────────────────────────┘
//!       quiesce: finish the request at hand, give the rest of the batch back, flush
//! ```
//!
//! A parked worker leaves kicks in their eventfd. Every wait for the worker has a deadline.

mod shared;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use virtio_queue::Queue;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub(super) use self::shared::{Patience, Shared};
use super::device::VirtioDevice;
use super::queue::QueuePosition;
use super::ring::{Ring, SyncStep};
use super::signals::Signals;
use crate::GuestMemory;
use crate::log_limit::LogLimit;

/// How long a device that is dropped waits for its worker.
const EXIT_DEADLINE: Duration = Duration::from_secs(2);

/// How long a reset, or a load, waits for a request at hand.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// How long a pause waits for requests and for the flush, together.
const QUIESCE_DEADLINE: Duration = Duration::from_secs(30);

/// The worker; dropping it ends its thread.
pub(super) struct Worker<D> {
    pub(super) shared: Arc<Shared<D>>,
    thread: Option<JoinHandle<()>>,
}

impl<D: VirtioDevice> Worker<D> {
    /// Starts a worker for one of the device's queues, parked.
    pub(super) fn spawn(
        device: &Arc<D>,
        queue: usize,
        memory: &Arc<GuestMemory>,
        signals: &Arc<Signals>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            memory: Arc::clone(memory),
            device: Arc::clone(device),
            queue,
            signals: Arc::clone(signals),
            kick: EventFd::new(EFD_NONBLOCK)?,
            wake: EventFd::new(EFD_NONBLOCK)?,
            ring: Mutex::default(),
            runs: AtomicBool::new(false),
            exit: AtomicBool::new(false),
            interrupts: AtomicU64::new(0),
            changed: Condvar::new(),
            warnings: LogLimit::default(),
        });
        let own = Arc::clone(&shared);
        let thread = thread::Builder::new().name(device.id().name.to_owned()).spawn(move || own.run())?;
        Ok(Worker { shared, thread: Some(thread) })
    }

    /// Signalled when the driver has put work into the queue.
    pub(super) fn kick(&self) -> &EventFd {
        &self.shared.kick
    }

    /// Starts on the queue that the driver set up, with the negotiated `features`; `None` if the
    /// driver did not set it up.
    ///
    /// # Errors
    ///
    /// Earlier work on the queue has not ended.
    pub(super) fn start(&self, features: u64, queue: Option<Queue>) -> io::Result<()> {
        let shared = &self.shared;
        let patience = Patience::of(STOP_DEADLINE);
        let mut ring = shared.wait(shared.lock_within(patience)?, patience, |ring| ring.popped == 0)?;
        (ring.queue, ring.features) = (queue, features);
        drop(ring);
        shared.wake();
        Ok(())
    }

    /// Stops the queue and waits for requests in flight; guest memory is not touched after that.
    ///
    /// # Errors
    ///
    /// Requests in flight did not end in time.
    pub(super) fn stop(&self) -> io::Result<()> {
        let shared = &self.shared;
        let patience = Patience::of(STOP_DEADLINE);
        let mut ring = shared.lock_within(patience)?;
        ring.queue = None;
        shared.wait(ring, patience, |ring| ring.popped == 0).map(drop)
    }

    /// The device's position in a started queue: the oldest request that it has not completed.
    pub(super) fn position(&self) -> Option<QueuePosition> {
        self.shared.lock().position()
    }

    /// Whether requests are served: between `resume` and `quiesce`.
    ///
    /// # Errors
    ///
    /// The worker does not release its lock in time.
    pub(super) fn is_running(&self) -> io::Result<bool> {
        Ok(self.shared.lock_within(Patience::of(STOP_DEADLINE))?.run)
    }

    /// Parks the worker after its current request; with `flush`, the worker then flushes the
    /// device.
    ///
    /// # Errors
    ///
    /// The wait timed out or was interrupted, or the flush failed.
    pub(super) fn quiesce(&self, flush: bool) -> io::Result<()> {
        let shared = &self.shared;
        let patience = shared.patience_until_interrupted(QUIESCE_DEADLINE);
        shared.runs.store(false, Ordering::SeqCst);
        let mut ring = shared.lock_within(patience)?;
        ring.run = false;
        ring.sync = if flush { SyncStep::Wanted } else { SyncStep::Done(Ok(())) };
        shared.wake();
        let finished = |ring: &Ring| ring.popped == 0 && matches!(ring.sync, SyncStep::Done(_));
        let mut ring = shared.wait(ring, patience, finished)?;
        match std::mem::take(&mut ring.sync) {
            SyncStep::Done(result) => result,
            SyncStep::None | SyncStep::Wanted => Ok(()),
        }
    }

    /// Serves requests from now on. Looks at the queue once, whether or not a kick is waiting: one
    /// may have been consumed before a migration.
    ///
    /// # Errors
    ///
    /// The worker has died, or does not release its lock in time.
    pub(super) fn resume(&self) -> io::Result<()> {
        let shared = &self.shared;
        if shared.runs.load(Ordering::SeqCst) {
            // The worker was not quiesced, and goes on, even if it waits for a page that is still
            // to arrive.
            return Ok(());
        }
        // After a pause that was given up, the worker may still be in a request or in a flush, and
        // goes on from there.
        let patience = Patience::of(STOP_DEADLINE);
        let mut ring = shared.wait(shared.lock_within(patience)?, patience, |ring| !ring.gone)?;
        ring.run = true;
        ring.sync = SyncStep::None;
        shared.runs.store(true, Ordering::SeqCst);
        drop(ring);
        shared.wake();
        Ok(())
    }
}

impl<D> Drop for Worker<D> {
    fn drop(&mut self) {
        self.shared.exit.store(true, Ordering::SeqCst);
        self.shared.wake();
        let gone = self.shared.wait_gone(Instant::now() + EXIT_DEADLINE);
        match self.thread.take() {
            Some(thread) if gone => drop(thread.join()),
            // It is stuck in a request, holds its own reference to all it touches, and ends with
            // that request.
            Some(thread) => {
                tracing::warn!(worker = thread.thread().name(), "left a device's worker to its stuck request");
            }
            None => {}
        }
    }
}
