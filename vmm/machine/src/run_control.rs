//! Starts and stops the vCPUs by the one rule: they run if and only if the operator has requested
//! it and no hold is in place.
//!
//! vCPU threads report here that the guest ends or resets; clients receive events. The thread that
//! has the [`OperationLock`] does the long operations; the status itself is only locked for a
//! moment, so that queries are answered at all times.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ferry_observe::events::{Event, Events};

use super::error::{ExitReason, GuestFailure, MachineError};
use super::gate::{DEADLINE, Gate};
use super::operation::OperationLock;
use super::status::{ResetCause, Status};
use super::throttle::Throttle;

/// This many triple faults within [`TRIPLE_FAULT_WINDOW`] count as a loop.
const TRIPLE_FAULTS: usize = 3;
const TRIPLE_FAULT_WINDOW: Duration = Duration::from_secs(1);
/// How long vCPUs may take to get out of the guest before they count as waiting for a page, if one
/// may be missing.
const PAGE_PATIENCE: Duration = Duration::from_millis(200);

/// The control of a machine.
#[derive(Debug)]
pub(super) struct RunControl {
    pub(super) gate: Gate,
    pub(super) operation: OperationLock,
    pub(super) throttle: Throttle,
    pub(super) events: Arc<Events>,
    /// The guest has written to its serial port since it was booted.
    pub(super) has_spoken: Arc<AtomicBool>,
    status: Mutex<Status>,
    changed: Condvar,
    triple_faults: Mutex<VecDeque<Instant>>,
}

impl RunControl {
    pub(super) fn new(gate: Gate, events: Arc<Events>, has_spoken: Arc<AtomicBool>, status: Status) -> Self {
        RunControl {
            gate,
            operation: OperationLock::default(),
            throttle: Throttle::default(),
            events,
            has_spoken,
            status: Mutex::new(status),
            changed: Condvar::new(),
            triple_faults: Mutex::default(),
        }
    }

    /// The status, to be locked only for a moment.
    pub(super) fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `done` is true of the status.
    pub(super) fn wait_until(&self, done: impl Fn(&Status) -> bool) -> MutexGuard<'_, Status> {
        self.changed.wait_while(self.status(), |status| !done(status)).unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the threads that wait for a change of the status.
    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Marks the guest as running and lets the vCPUs in; returns when they are inside. The caller
    /// holds the operation lock, and the devices have their resources.
    pub(super) fn start(&self) -> Result<(), MachineError> {
        let mut status = self.status();
        if !status.should_run() || status.running {
            return Ok(());
        }
        (status.running, status.ever_ran) = (true, true);
        // From here on a guest instruction may have run: a vCPU that is late does not undo that.
        if let Err(error) = self.let_in(status, Some(Event::Resume)) {
            tracing::error!(%error, "the guest runs, and waits for its last vCPU");
        }
        Ok(())
    }

    /// Lets the vCPUs of a running guest in again after a snapshot or a reset. The caller has the
    /// operation lock.
    pub(super) fn go_on(&self) -> Result<(), MachineError> {
        self.let_in(self.status(), None)
    }

    /// The gate opens before the event is published: a thread that the event wakes may take the
    /// core from a vCPU. The status stays locked until then, so that events caused by the vCPUs
    /// come after this one.
    fn let_in(&self, mut status: MutexGuard<'_, Status>, event: Option<Event>) -> Result<(), MachineError> {
        let may_enter = self.open_gate(&mut status);
        event.into_iter().for_each(|event| self.events.publish(event));
        drop(status);
        let entered = self.gate.wait_full();
        self.notify();
        match entered {
            // The guest may have ended, or requested a reset, before the last vCPU was in.
            Err(vcpus) if may_enter && self.status().may_enter() => Err(stuck(&vcpus, DEADLINE)),
            _ => Ok(()),
        }
    }

    /// Marks the guest as stopped and gets the vCPUs out; returns when they are out, or wait for a
    /// page and leave as soon as they have it. The caller holds the operation lock. On error the
    /// guest runs as before.
    pub(super) fn stop(&self) -> Result<(), MachineError> {
        if !self.status().running {
            return Ok(());
        }
        self.gate.close();
        match self.wait_halted() {
            // The gate stays closed: a vCPU that waits for a page executes nothing, and leaves when
            // it comes.
            Err(error) if self.status().memory_arrives => tracing::debug!(%error, "stopped"),
            halted => halted.inspect_err(|_| self.reopen())?,
        }
        // A guest that failed meanwhile was announced as stopped already.
        if std::mem::take(&mut self.status().running) {
            self.events.publish(Event::Stop);
        }
        Ok(())
    }

    /// Gets the vCPUs out without an event; returns when they are out. On error they are let in
    /// again.
    pub(super) fn halt(&self) -> Result<(), MachineError> {
        self.gate.close();
        self.wait_halted().inspect_err(|_| self.reopen())
    }

    fn reopen(&self) {
        self.open_gate(&mut self.status());
    }

    /// Opens the gate, if vCPUs may enter; returns whether they may.
    fn open_gate(&self, status: &mut Status) -> bool {
        let may_enter = status.may_enter();
        if may_enter {
            status.entries += 1;
            self.gate.open();
        }
        may_enter
    }

    /// Waits until vCPUs are out after the gate was closed.
    pub(super) fn wait_halted(&self) -> Result<(), MachineError> {
        let within = if self.status().memory_arrives { PAGE_PATIENCE } else { DEADLINE };
        self.gate.wait_empty(within).map_err(|vcpus| stuck(&vcpus, within))
    }

    /// Ends the guest. The first reason counts.
    pub(super) fn end(&self, reason: ExitReason) {
        let mut status = self.status();
        if status.ended.is_some() {
            return;
        }
        let was_running = std::mem::take(&mut status.running);
        status.ended = Some(reason.clone());
        self.gate.close();
        drop(status);
        match reason {
            ExitReason::Shutdown => self.events.publish(Event::Shutdown { guest: true, reason: "guest-shutdown" }),
            ExitReason::Quit(reason) => self.events.publish(Event::Shutdown { guest: false, reason }),
            ExitReason::Failed(failure) => {
                // The caller of `wait_exit` informs the operator.
                tracing::debug!("{failure}");
                if was_running {
                    self.events.publish(Event::Stop);
                }
            }
        }
        self.notify();
    }

    /// Requests a reset, for the guest or the operator: the vCPUs come out, and the reset thread
    /// does the rest.
    pub(super) fn request_reset(&self, cause: ResetCause) {
        let mut status = self.status();
        if status.ended.is_some() || status.reset.is_some() {
            return;
        }
        status.reset = Some(cause);
        self.gate.close();
        drop(status);
        self.notify();
    }

    /// A vCPU triple-faulted: the machine resets, as a PC does, unless that makes no progress.
    pub(super) fn triple_fault(&self, vcpu: u32) {
        let mut faults = self.triple_faults.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        faults.push_back(now);
        while faults.front().is_some_and(|first| now - *first > TRIPLE_FAULT_WINDOW) {
            faults.pop_front();
        }
        let why = match (self.has_spoken.load(Ordering::Relaxed), faults.len() >= TRIPLE_FAULTS) {
            (false, _) => "before the guest's first serial output",
            (true, true) => "three times within a second",
            (true, false) => return self.request_reset(ResetCause::Guest),
        };
        self.end(ExitReason::Failed(GuestFailure::TripleFaults { vcpu, why }));
    }
}

fn stuck(vcpus: &[usize], within: Duration) -> MachineError {
    let vcpus = vcpus.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    MachineError::Stuck { vcpus, within }
}
