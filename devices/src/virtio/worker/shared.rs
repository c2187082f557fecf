//! What a queue's worker and its transport share: the worker's loop, and the waits for it.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use virtio_queue::DescriptorChain;
use vmm_sys_util::eventfd::EventFd;

use crate::GuestMemory;
use crate::log_limit::LogLimit;
use crate::virtio::device::{Chain, Done, VirtioDevice};
use crate::virtio::ring::{Ring, SyncStep};
use crate::virtio::signals::{Signals, signal};

/// Results are handed to the driver when this many bytes were moved, or the batch is done.
const COMPLETE_BYTES: u64 = 256 * 1024;

/// Pause before the next attempt to take a lock that another thread holds.
const LOCK_RETRY: Duration = Duration::from_millis(1);

/// How often an interruptible wait checks for an interrupt.
const LOOK: Duration = Duration::from_millis(10);

/// What the worker and the transport share.
pub(in crate::virtio) struct Shared<D> {
    pub(super) memory: Arc<GuestMemory>,
    pub(super) device: Arc<D>,
    /// The index of the queue among the device's.
    pub(super) queue: usize,
    pub(super) signals: Arc<Signals>,
    /// From the driver: there are requests.
    pub(super) kick: EventFd,
    /// From the transport: look at the ring.
    pub(super) wake: EventFd,
    pub(super) ring: Mutex<Ring>,
    /// Between `resume` and `quiesce`, and while the worker lives. Outside the ring for the same
    /// reason as `exit`.
    pub(super) runs: AtomicBool,
    /// The worker should end. Outside the ring, whose lock a stuck worker may hold.
    pub(super) exit: AtomicBool,
    /// Incremented by every interrupt of the threads that wait for a pause.
    pub(super) interrupts: AtomicU64,
    /// Notified when the ring has changed in a way that a thread may wait for.
    pub(super) changed: Condvar,
    pub(super) warnings: LogLimit,
}

/// The deadline of a thread that waits for the worker: one for all of its waits together.
#[derive(Clone, Copy, Debug)]
pub(in crate::virtio) struct Patience {
    within: Duration,
    deadline: Instant,
    /// The count of [`Shared::interrupt`] when the wait began, if an interrupt may end it.
    interrupts: Option<u64>,
}

impl Patience {
    /// Until `within` has passed.
    pub(in crate::virtio) fn of(within: Duration) -> Self {
        Patience { within, deadline: Instant::now() + within, interrupts: None }
    }
}

enum Progress {
    /// There may be more to do.
    More,
    /// Nothing to do until signalled; kicks count only when running.
    Idle { running: bool },
    /// The device is gone.
    Exit,
}

impl<D> Shared<D> {
    pub(in crate::virtio) fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the worker look at the ring.
    pub(super) fn wake(&self) {
        signal(&self.wake);
    }

    /// Ends the waits that may be interrupted and have begun; later ones are not affected.
    pub(in crate::virtio) fn interrupt(&self) {
        self.interrupts.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until the worker has ended, and returns whether it has.
    pub(super) fn wait_gone(&self, deadline: Instant) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.ring.try_lock() {
                Ok(ring) if ring.gone => return true,
                Ok(ring) => drop(self.changed.wait_timeout(ring, left)),
                Err(TryLockError::Poisoned(ring)) => return ring.into_inner().gone,
                Err(TryLockError::WouldBlock) => thread::sleep(LOCK_RETRY),
            }
            if left.is_zero() {
                return false;
            }
        }
    }
}

impl<D: VirtioDevice> Shared<D> {
    /// As [`Shared::lock`], with a deadline: the worker may hold the lock while it waits for a page
    /// of guest memory that a migration has yet to deliver.
    ///
    /// # Errors
    ///
    /// `TimedOut` or `Interrupted` when `patience` ends first.
    pub(in crate::virtio) fn lock_within(&self, patience: Patience) -> io::Result<MutexGuard<'_, Ring>> {
        loop {
            match self.ring.try_lock() {
                Ok(ring) => return Ok(ring),
                Err(TryLockError::Poisoned(ring)) => return Ok(ring.into_inner()),
                Err(TryLockError::WouldBlock) => {
                    self.left(patience)?;
                    thread::sleep(LOCK_RETRY);
                }
            }
        }
    }

    /// The time left of `patience`.
    fn left(&self, patience: Patience) -> io::Result<Duration> {
        if patience.interrupts.is_some_and(|at_first| at_first != self.interrupts.load(Ordering::SeqCst)) {
            let text = format!("{}: the wait for its requests was given up with the migration", self.device.label());
            return Err(io::Error::new(ErrorKind::Interrupted, text));
        }
        let left = patience.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let within = patience.within;
            let text = format!(
                "{}: a request did not end within {within:?}; check what is behind it, and the link that brings guest \
                 memory",
                self.device.label()
            );
            return Err(io::Error::new(ErrorKind::TimedOut, text));
        }
        Ok(left)
    }

    /// A wait that [`Shared::interrupt`] ends.
    pub(super) fn patience_until_interrupted(&self, within: Duration) -> Patience {
        Patience { interrupts: Some(self.interrupts.load(Ordering::SeqCst)), ..Patience::of(within) }
    }

    /// Waits until `ready`.
    ///
    /// # Errors
    ///
    /// `TimedOut` or `Interrupted` when `patience` ends first; `BrokenPipe` when the worker has
    /// died.
    pub(super) fn wait<'a>(
        &'a self,
        mut ring: MutexGuard<'a, Ring>,
        patience: Patience,
        ready: impl Fn(&Ring) -> bool,
    ) -> io::Result<MutexGuard<'a, Ring>> {
        while !ready(&ring) {
            if ring.gone {
                let text = format!("the worker of {} has died: restart the guest", self.device.label());
                return Err(io::Error::new(ErrorKind::BrokenPipe, text));
            }
            let left = self.left(patience)?;
            let at_once = if patience.interrupts.is_some() { left.min(LOOK) } else { left };
            ring = self.changed.wait_timeout(ring, at_once).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(ring)
    }

    pub(super) fn run(&self) {
        let _end = WorkerEnd(self);
        loop {
            match self.step() {
                Progress::More => {}
                Progress::Idle { running } => self.sleep(running),
                Progress::Exit => return,
            }
        }
    }

    fn step(&self) -> Progress {
        if self.exit.load(Ordering::SeqCst) {
            return Progress::Exit;
        }
        let mut ring = self.lock();
        if !ring.run {
            self.sync_if_wanted(ring);
            return Progress::Idle { running: false };
        }
        match ring.pop(&self.memory) {
            Ok(chains) if chains.is_empty() => Progress::Idle { running: true },
            Ok(chains) => {
                let features = ring.features;
                drop(ring);
                self.serve_batch(chains, features);
                Progress::More
            }
            Err(error) => {
                self.give_up(&mut ring, &error);
                Progress::Idle { running: true }
            }
        }
    }

    fn sync_if_wanted(&self, ring: MutexGuard<'_, Ring>) {
        if matches!(ring.sync, SyncStep::Wanted) {
            drop(ring);
            let result = self.device.flush();
            let mut ring = self.lock();
            if matches!(ring.sync, SyncStep::Wanted) {
                ring.sync = SyncStep::Done(result);
            }
            self.changed.notify_all();
        }
    }

    fn serve_batch(&self, chains: Vec<DescriptorChain<&GuestMemory>>, features: u64) {
        let mut done = Vec::with_capacity(chains.len());
        let mut cost = 0;
        for descriptors in chains {
            let request = self.device.serve(self.queue, Chain { descriptors, memory: &self.memory, features });
            if let Some(error) = &request.error {
                self.warn(error);
            }
            cost += request.cost;
            done.push(request);
            if cost >= COMPLETE_BYTES {
                if !self.complete(&mut done) {
                    return;
                }
                cost = 0;
            }
        }
        self.complete(&mut done);
    }

    /// Hands results to the driver; returns whether to go on with the batch. If not, the rest of it
    /// was returned to the available ring.
    fn complete(&self, done: &mut Vec<Done>) -> bool {
        let mut ring = self.lock();
        match ring.complete(&self.memory, done) {
            // Under the lock, so that a saved state has the interrupt of every request that it
            // counts as completed.
            Ok(true) => self.signals.used_buffers(),
            Ok(false) => {}
            Err(error) => self.give_up(&mut ring, &error),
        }
        done.clear();
        let go_on = ring.run && ring.queue.is_some() && !self.exit.load(Ordering::SeqCst);
        if !go_on {
            ring.give_back();
        }
        if ring.popped == 0 {
            self.changed.notify_all();
        }
        go_on
    }

    /// The rings are invalid: only a reset by the driver helps (§2.1.2).
    fn give_up(&self, ring: &mut Ring, error: &virtio_queue::Error) {
        self.warn(&format!("its rings make no sense ({error}); the device needs a reset"));
        ring.queue = None;
        ring.popped = 0;
        self.signals.need_reset();
        self.changed.notify_all();
    }

    fn sleep(&self, running: bool) {
        // SAFETY: the eventfd is open for as long as `self` lives.
        let wake = unsafe { BorrowedFd::borrow_raw(self.wake.as_raw_fd()) };
        // SAFETY: as above.
        let kick = unsafe { BorrowedFd::borrow_raw(self.kick.as_raw_fd()) };
        let mut events = [PollFd::from_borrowed_fd(wake, PollFlags::IN), PollFd::from_borrowed_fd(kick, PollFlags::IN)];
        let watched = if running { &mut events[..] } else { &mut events[..1] };
        // An interrupted poll looks at the ring once more than needed.
        let _ = poll(watched, None);
        let _ = self.wake.read();
        if running {
            let _ = self.kick.read();
        }
    }

    fn warn(&self, text: &str) {
        if let Some(held_back) = self.warnings.pass() {
            tracing::warn!(device = self.device.label(), held_back, "a request was refused: {text}");
        }
    }
}

/// Notifies waiting threads when the worker ends, even if it panicked.
struct WorkerEnd<'a, D>(&'a Shared<D>);

impl<D> Drop for WorkerEnd<'_, D> {
    fn drop(&mut self) {
        let mut ring = self.0.lock();
        ring.gone = true;
        self.0.runs.store(false, Ordering::SeqCst);
        drop(ring);
        self.0.changed.notify_all();
        if thread::panicking() {
            self.0.signals.need_reset();
        }
    }
}
