//! The thread that serves a disk's requests, and how others start, stop and watch it.
//!
//! ```text
//!          acquire                 a kick, or acquire itself
//!  parked ─────────▶ running, idle ◀────────────────────────▶ serving a batch
//!    ▲                                                           │
//!    └───────────────────────────────────────────────────────────┘
//!       quiesce: finish the request at hand, give the rest of the batch back, make the image durable
//! ```
//!
//! Parked, the worker leaves kicks in their eventfd. Everyone who waits for it has a deadline.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use virtio_queue::DescriptorChain;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::config::ID_BYTES;
use super::image::Image;
use super::request::{Backend, Done, serve};
use super::ring::{Ring, SyncStep};
use crate::GuestMemory;
use crate::throttle::Throttle;
use crate::virtio::signals::{Signals, signal};

/// Results are handed to the driver when this many bytes were moved, or the batch is done.
const COMPLETE_BYTES: u64 = 256 * 1024;

/// How long to leave a lock alone that another thread holds.
const LOCK_RETRY: Duration = Duration::from_millis(1);

/// How often a wait that may be interrupted looks whether it was.
const LOOK: Duration = Duration::from_millis(10);

/// How long the end of a device waits for its worker.
const EXIT_DEADLINE: Duration = Duration::from_secs(2);

/// What the worker and the device share.
pub(super) struct Shared {
    pub(super) memory: Arc<GuestMemory>,
    pub(super) image: Arc<Image>,
    pub(super) id: [u8; ID_BYTES],
    pub(super) signals: Signals,
    /// From the driver: there are requests.
    pub(super) kick: EventFd,
    /// From the device: look at the ring.
    wake: EventFd,
    ring: Mutex<Ring>,
    /// Between `resume` and `quiesce`, and while the worker lives. Outside the ring for the same
    /// reason as `exit`.
    pub(super) runs: AtomicBool,
    /// The worker should end. Outside the ring, whose lock a stuck worker may hold.
    exit: AtomicBool,
    /// Goes up with every interrupt of those that wait for a pause.
    interrupts: AtomicU64,
    /// The ring changed in a way that a thread may wait for.
    changed: Condvar,
    warnings: Throttle,
}

/// The thread; dropping it ends it.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a worker, parked.
    pub(super) fn start(memory: Arc<GuestMemory>, image: Image, id: [u8; ID_BYTES]) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            memory,
            image: Arc::new(image),
            id,
            signals: Signals::default(),
            kick: EventFd::new(EFD_NONBLOCK)?,
            wake: EventFd::new(EFD_NONBLOCK)?,
            ring: Mutex::default(),
            runs: AtomicBool::new(false),
            exit: AtomicBool::new(false),
            interrupts: AtomicU64::new(0),
            changed: Condvar::new(),
            warnings: Throttle::default(),
        });
        let own = Arc::clone(&shared);
        let thread = thread::Builder::new().name("virtio-blk".to_owned()).spawn(move || own.run())?;
        Ok(Worker { shared, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.exit.store(true, Ordering::SeqCst);
        self.shared.wake();
        let patience = Patience::of(EXIT_DEADLINE);
        let gone = self
            .shared
            .lock_within(patience)
            .and_then(|ring| self.shared.wait(ring, patience, |ring| ring.gone).map(drop));
        match self.thread.take() {
            Some(thread) if gone.is_ok() => drop(thread.join()),
            // It is stuck in a file operation, holds its own reference to all it touches, and ends
            // with that operation.
            _ => tracing::warn!(image = %self.shared.image.path().display(), "left a disk worker to its stuck request"),
        }
    }
}

/// How long a thread waits for the worker, from its beginning to the end of all that it waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    within: Duration,
    deadline: Instant,
    /// Of [`Shared::interrupt`] when it began, if that may end it.
    interrupts: Option<u64>,
}

impl Patience {
    /// Until `within` has passed.
    pub(super) fn of(within: Duration) -> Self {
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

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Shared::lock`], for threads that have to answer in time: the worker may be stuck with
    /// the lock, on a page of guest memory that a migration has yet to bring.
    ///
    /// # Errors
    ///
    /// `TimedOut` or `Interrupted` when `patience` ends first.
    pub(super) fn lock_within(&self, patience: Patience) -> io::Result<MutexGuard<'_, Ring>> {
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

    /// What is left of `patience`.
    fn left(&self, patience: Patience) -> io::Result<Duration> {
        let path = self.image.path().display();
        if patience.interrupts.is_some_and(|at_first| at_first != self.interrupts.load(Ordering::SeqCst)) {
            let text = format!("disk image {path}: the wait for its requests was given up with the migration");
            return Err(io::Error::new(ErrorKind::Interrupted, text));
        }
        let left = patience.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let within = patience.within;
            let text = format!(
                "disk image {path}: a request did not end within {within:?}; check the storage behind it, and the link that \
                 brings guest memory"
            );
            return Err(io::Error::new(ErrorKind::TimedOut, text));
        }
        Ok(left)
    }

    /// A wait that [`Shared::interrupt`] ends.
    pub(super) fn patience_until_interrupted(&self, within: Duration) -> Patience {
        Patience { interrupts: Some(self.interrupts.load(Ordering::SeqCst)), ..Patience::of(within) }
    }

    /// Ends the waits that may be interrupted and have begun; later ones are not affected.
    pub(super) fn interrupt(&self) {
        self.interrupts.fetch_add(1, Ordering::SeqCst);
    }

    /// Makes the worker look at the ring.
    pub(super) fn wake(&self) {
        signal(&self.wake);
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
                let path = self.image.path().display();
                let text = format!("the worker of disk image {path} has died: restart the guest");
                return Err(io::Error::new(ErrorKind::BrokenPipe, text));
            }
            let left = self.left(patience)?;
            let at_once = if patience.interrupts.is_some() { left.min(LOOK) } else { left };
            ring = self.changed.wait_timeout(ring, at_once).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(ring)
    }

    fn run(&self) {
        let _farewell = Farewell(self);
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
                let write_through = ring.write_through;
                drop(ring);
                self.serve_batch(chains, write_through);
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
            let result = self.image.sync_if_written();
            let mut ring = self.lock();
            if matches!(ring.sync, SyncStep::Wanted) {
                ring.sync = SyncStep::Done(result);
            }
            self.changed.notify_all();
        }
    }

    fn serve_batch(&self, chains: Vec<DescriptorChain<&GuestMemory>>, write_through: bool) {
        let backend = Backend { memory: &self.memory, image: &self.image, id: &self.id, write_through };
        let mut done = Vec::with_capacity(chains.len());
        let mut cost = 0;
        for chain in chains {
            let request = serve(chain, &backend);
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

    /// Hands results to the driver; tells whether to go on with the batch. Otherwise, the rest of
    /// it was given back.
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

    /// The rings make no sense: only the driver can help (§2.1.2).
    fn give_up(&self, ring: &mut Ring, error: &virtio_queue::Error) {
        self.warn(&format!("its rings make no sense ({error}); the disk needs a reset"));
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
            tracing::warn!(image = %self.image.path().display(), held_back, "a disk request was refused: {text}");
        }
    }
}

/// Tells everyone when the worker is gone, even if it panicked.
struct Farewell<'a>(&'a Shared);

impl Drop for Farewell<'_> {
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
