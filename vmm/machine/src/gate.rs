//! The gate between the vCPU threads and the guest: open, they run it; closed, they are out of it.
//!
//! ```text
//!             enter (open)                  KVM_RUN gives EINTR, gate closed
//!   waiting ───────────────▶ inside ──────────────────────────────────────▶ waiting
//!                              │ ▲
//!                              └─┘ any other exit
//! ```
//!
//! Closing sets `immediate_exit` and sends a signal to every thread inside. The flag stays until
//! the thread has seen it, so a kick that comes between two runs is not lost; the signal gets a
//! thread out of the guest. With the flag set, `KVM_RUN` first finishes a port or MMIO access that
//! is pending and then returns EINTR: a thread that waits has nothing pending.
//!
//! A throttled guest rests at times: the threads come out and wait here as if the gate were closed,
//! so closing the gate meanwhile involves no wait.

use std::sync::{Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use crate::kvm::RunArea;

/// How long vCPUs may take to get out of the guest, or into it.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

/// The gate of a machine.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    /// For the threads: the gate was opened, or the machine ends.
    opened: Condvar,
    /// For the machine: a thread went in or out.
    moved: Condvar,
}

#[derive(Debug)]
struct State {
    open: bool,
    /// Threads stay out for the moment, though the gate may be open.
    resting: bool,
    ending: bool,
    /// When the first thread went in after the gate was last opened.
    first_in: Option<Instant>,
    vcpus: Vec<VcpuSlot>,
}

#[derive(Debug)]
struct VcpuSlot {
    area: RunArea,
    /// Set while the thread is inside.
    inside: Option<libc::pthread_t>,
    gone: bool,
}

impl Gate {
    /// A closed gate for the vCPUs with these run areas. A thread that enters keeps its vCPU alive
    /// until it leaves.
    pub(super) fn new(areas: Vec<RunArea>) -> Self {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(|| {
            // The signal only interrupts; an error is impossible for a number of this range.
            let registered = register_signal_handler(kick_signal(), ignore);
            debug_assert!(registered.is_ok(), "{registered:?}");
        });
        let vcpus = areas.into_iter().map(|area| VcpuSlot { area, inside: None, gone: false }).collect();
        let state = Mutex::new(State { open: false, resting: false, ending: false, first_in: None, vcpus });
        Gate { state, opened: Condvar::new(), moved: Condvar::new() }
    }

    /// Blocks a vCPU's thread until it may run; on `false` the thread must end.
    pub(super) fn enter(&self, vcpu: usize) -> bool {
        let mut state = self.lock();
        while !state.lets_in() && !state.ending {
            state = self.opened.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.ending {
            return false;
        }
        // SAFETY: `pthread_self` has no preconditions.
        let thread = unsafe { libc::pthread_self() };
        let passenger = &mut state.vcpus[vcpu];
        passenger.inside = Some(thread);
        // SAFETY: the calling thread keeps its vCPU alive.
        unsafe { passenger.area.set_immediate_exit(false) };
        state.first_in.get_or_insert_with(Instant::now);
        self.moved.notify_all();
        true
    }

    /// Whether a thread inside that was interrupted must leave. If not, it runs on.
    pub(super) fn must_leave(&self, vcpu: usize) -> bool {
        let state = self.lock();
        let runs_on = state.lets_in();
        if runs_on {
            // SAFETY: the calling thread keeps its vCPU alive.
            unsafe { state.vcpus[vcpu].area.set_immediate_exit(false) };
        }
        !runs_on
    }

    /// A thread has left the guest.
    pub(super) fn leave(&self, vcpu: usize) {
        self.lock().vcpus[vcpu].inside = None;
        self.moved.notify_all();
    }

    /// A thread has ended and will never enter again.
    pub(super) fn gone(&self, vcpu: usize) {
        let mut state = self.lock();
        state.vcpus[vcpu].inside = None;
        state.vcpus[vcpu].gone = true;
        self.moved.notify_all();
    }

    /// Lets the threads in.
    pub(super) fn open(&self) {
        let mut state = self.lock();
        if !state.open {
            (state.open, state.first_in) = (true, None);
        }
        drop(state);
        self.opened.notify_all();
    }

    /// When the first thread went in after the gate was last opened, if one has.
    pub(super) fn first_in(&self) -> Option<Instant> {
        self.lock().first_in
    }

    /// Gets all threads out, in parallel; does not wait for them.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.open = false;
        state.kick();
        self.moved.notify_all();
    }

    /// Begins or ends a rest; waits for no vCPU thread.
    pub(super) fn rest(&self, resting: bool) {
        let mut state = self.lock();
        if state.resting == resting {
            return;
        }
        state.resting = resting;
        if resting {
            state.kick();
        }
        self.opened.notify_all();
        self.moved.notify_all();
    }

    /// Whether threads rest.
    #[cfg(test)]
    pub(super) fn is_resting(&self) -> bool {
        self.lock().resting
    }

    /// Closes the gate for good: threads end as soon as they are out.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        (state.open, state.ending) = (false, true);
        state.kick();
        self.opened.notify_all();
        self.moved.notify_all();
    }

    /// Waits until no thread is inside.
    ///
    /// # Errors
    /// The vCPUs that are still inside when `within` has passed.
    pub(super) fn wait_empty(&self, within: Duration) -> Result<(), Vec<usize>> {
        self.wait(within, |state, vcpu| state.vcpus[vcpu].inside.is_none())
    }

    /// Waits until every thread that has not ended has gone in, or the gate is closed again: a
    /// guest that ends or resets at once is out before the caller has seen it inside. Threads that
    /// rest go in by themselves when the rest ends.
    ///
    /// # Errors
    /// The vCPUs that are not inside when the deadline has passed.
    pub(super) fn wait_full(&self) -> Result<(), Vec<usize>> {
        self.wait(DEADLINE, |state, vcpu| {
            let passenger = &state.vcpus[vcpu];
            !state.lets_in() || passenger.inside.is_some() || passenger.gone
        })
    }

    /// Waits until every thread has ended.
    ///
    /// # Errors
    /// The vCPUs whose threads have not ended when `within` has passed.
    pub(super) fn wait_gone(&self, within: Duration) -> Result<(), Vec<usize>> {
        self.wait(within, |state, vcpu| state.vcpus[vcpu].gone)
    }

    fn wait(&self, within: Duration, done: impl Fn(&State, usize) -> bool) -> Result<(), Vec<usize>> {
        let deadline = Instant::now() + within;
        let mut state = self.lock();
        loop {
            let missing: Vec<_> = (0..state.vcpus.len()).filter(|vcpu| !done(&state, *vcpu)).collect();
            if missing.is_empty() {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(missing);
            }
            state = self.moved.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn lets_in(&self) -> bool {
        self.open && !self.resting
    }

    fn kick(&mut self) {
        for passenger in &self.vcpus {
            if let Some(thread) = passenger.inside {
                // SAFETY: a thread inside keeps its vCPU alive until it leaves, for which it needs
                // the lock held here.
                unsafe { passenger.area.set_immediate_exit(true) };
                // SAFETY: for the same reason the thread still exists.
                unsafe { libc::pthread_kill(thread, kick_signal()) };
            }
        }
    }
}

fn kick_signal() -> libc::c_int {
    SIGRTMIN()
}

extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
