//! The handle by which the operator controls a fault device, also while it hangs.
//!
//! QMP (`x-ferry-fault-set`) changes rules through it; the migration runtime ends a hang through it
//! when a deadline passes. The device consults it in each step; so does the machine, before each
//! step of its other devices and before each call that saves or loads state, and each thread that
//! reaches a [`Place`] or a [`Moment`]. Without a rule that costs one load of a flag.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::action::{Errno, FaultAction};
use super::point::{FaultPoint, FaultStep, Moment, Place};
use super::spec::{Direction, FaultSpec};
use crate::device::DeviceId;

/// Rules that one device may have at a time.
pub const MAX_RULES: usize = 64;

/// Rules, counters and the way out of a hang, shared between the operator and the device.
#[derive(Debug)]
pub struct FaultControl {
    /// There are rules. A thread that is in a step while this changes may miss the change.
    armed: AtomicBool,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner {
    direction: Direction,
    rules: Vec<Rule>,
    fired: [u64; 3],
    /// Goes up with every interrupt, so that each ends the steps that wait at that moment and no
    /// later ones.
    interrupts: u64,
    /// Goes up whenever rules are cleared.
    clears: u64,
    waiting: usize,
}

#[derive(Debug)]
struct Rule {
    spec: FaultSpec,
    left: Option<u32>,
}

/// A rule makes a step or a call fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injected {
    /// At once.
    Failed,
    /// With this error of the system.
    Errno(Errno),
    /// After a hang or a delay that was interrupted.
    Interrupted,
}

/// More rules than [`MAX_RULES`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the fault device has {MAX_RULES} rules already: clear them first")]
pub struct TooManyRules;

impl FaultControl {
    /// Without rules, in a process of the given direction.
    #[must_use]
    pub fn new(direction: Direction) -> Self {
        let inner = Inner { direction, rules: Vec::new(), fired: [0; 3], interrupts: 0, clears: 0, waiting: 0 };
        FaultControl { armed: AtomicBool::new(false), inner: Mutex::new(inner), changed: Condvar::new() }
    }

    /// Adds a rule. When several apply to a step, the oldest that has times left decides.
    ///
    /// # Errors
    ///
    /// There are [`MAX_RULES`] rules.
    pub fn set(&self, spec: FaultSpec) -> Result<(), TooManyRules> {
        let mut inner = self.lock();
        if inner.rules.len() >= MAX_RULES {
            return Err(TooManyRules);
        }
        tracing::warn!(rule = %spec, "a fault will be injected");
        inner.rules.push(Rule { left: spec.times, spec });
        self.armed.store(true, Relaxed);
        Ok(())
    }

    /// Removes all rules; a step that hangs or is delayed goes on at once and succeeds.
    pub fn clear(&self) {
        let mut inner = self.lock();
        inner.rules.clear();
        self.armed.store(false, Relaxed);
        inner.clears += 1;
        self.changed.notify_all();
    }

    /// Ends the waits of steps that hang or are delayed now, with [`Injected::Interrupted`]. Later
    /// steps are not affected.
    pub fn interrupt(&self) {
        self.lock().interrupts += 1;
        self.changed.notify_all();
    }

    /// Sets the direction of this process's migrations: a destination becomes a source once it runs
    /// the guest.
    pub fn set_direction(&self, direction: Direction) {
        self.lock().direction = direction;
    }

    /// The rules in force, oldest first.
    #[must_use]
    pub fn rules(&self) -> Vec<FaultSpec> {
        self.lock().rules.iter().map(|rule| rule.spec.clone()).collect()
    }

    /// How many times a rule has applied to this step.
    #[must_use]
    pub fn fired(&self, step: FaultStep) -> u64 {
        self.lock().fired[step as usize]
    }

    /// Whether a step hangs or is delayed at this moment.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.lock().waiting > 0
    }

    /// Applies the rules for the fault device in `step`.
    pub(super) fn enter(&self, step: FaultStep) -> Result<(), Injected> {
        self.meet(
            None,
            |rule| rule.at == FaultPoint::Step(step) && rule.of.is_none(),
            |inner| {
                inner.fired[step as usize] += 1;
            },
        )
    }

    /// Applies the rules that name `device`, which is about to enter `step`.
    ///
    /// # Errors
    /// A rule makes the step fail.
    pub fn before_step(&self, step: FaultStep, device: &DeviceId) -> Result<(), Injected> {
        self.meet(None, |rule| rule.at == FaultPoint::Step(step) && names(rule, device), |_| ())
    }

    /// Applies the rules for a call to the kernel that the machine is about to make for `part`.
    ///
    /// # Errors
    /// A rule makes the call fail; it must not be made.
    pub fn before_call(&self, call: &str, part: &DeviceId) -> Result<(), Injected> {
        let is_here = |rule: &FaultSpec| {
            let at = matches!(&rule.at, FaultPoint::Call(name) if name == call);
            at && (rule.of.is_none() || names(rule, part))
        };
        self.meet(None, is_here, |_| ())
    }

    /// Applies the rules for an operation on the host that is about to start. A hang or a delay
    /// that is interrupted is no failure: it stands for a slow host.
    ///
    /// # Errors
    /// A rule makes the operation fail, with an error of the host; it must not be done.
    pub fn before(&self, place: Place) -> io::Result<()> {
        self.ask_host(|rule| rule.at == FaultPoint::Place(place))
    }

    /// As [`FaultControl::before`], for the worker thread of this name.
    ///
    /// # Errors
    /// As [`FaultControl::before`].
    pub fn before_thread(&self, name: &str) -> io::Result<()> {
        let is_it = |of: &str| of.strip_suffix("/0") == Some(name);
        self.ask_host(|rule| rule.at == FaultPoint::Place(Place::HostThread) && rule.of.as_deref().is_none_or(is_it))
    }

    fn ask_host(&self, is_here: impl Fn(&FaultSpec) -> bool) -> io::Result<()> {
        match self.meet(None, is_here, |_| ()) {
            Ok(()) | Err(Injected::Interrupted) => Ok(()),
            Err(Injected::Failed) => Err(io::Error::from_raw_os_error(libc::EIO)),
            Err(Injected::Errno(errno)) => Err(io::Error::from_raw_os_error(errno.number())),
        }
    }

    /// Applies the rules for this moment of a migration's driver, for the output or message `name`.
    /// `direction` names the driver's side.
    pub fn reach(&self, direction: Direction, moment: Moment, name: &str) {
        let is_here = |rule: &FaultSpec| matches!(&rule.at, FaultPoint::Moment(at, of) if *at == moment && of == name);
        // However a wait ends, the driver goes on: an output that was decided on is carried out.
        let _ = self.meet(Some(direction), is_here, |_| ());
    }

    /// The skew of the wall clock for this read, in milliseconds.
    #[must_use]
    pub fn clock_skew_ms(&self) -> i64 {
        if !self.armed.load(Relaxed) {
            return 0;
        }
        match self.lock().take_action(None, |rule| rule.at == FaultPoint::Place(Place::ClockRealtime)) {
            Some((_, FaultAction::Skew(ms))) => ms,
            _ => 0,
        }
    }

    /// `direction` overrides the process's own.
    fn meet(
        &self,
        direction: Option<Direction>,
        is_here: impl Fn(&FaultSpec) -> bool,
        count: impl FnOnce(&mut Inner),
    ) -> Result<(), Injected> {
        if !self.armed.load(Relaxed) {
            return Ok(());
        }
        let mut inner = self.lock();
        let Some((point, action)) = inner.take_action(direction, is_here) else { return Ok(()) };
        count(&mut inner);
        tracing::info!(%point, %action, "injecting a fault");
        match action {
            FaultAction::Fail => Err(Injected::Failed),
            FaultAction::Errno(errno) => Err(Injected::Errno(errno)),
            FaultAction::Hang => self.wait(inner, None),
            FaultAction::Delay(time) => self.wait(inner, Some(Instant::now() + time)),
            FaultAction::Kill => {
                drop(inner);
                stop_here(libc::SIGKILL)
            }
            FaultAction::Freeze => {
                drop(inner);
                stop_here(libc::SIGSTOP)
            }
            // Only `clock_skew_ms` applies a skew.
            FaultAction::Skew(_) => Ok(()),
        }
    }

    /// Waits until the deadline, a clear, or an interrupt; the last is an error.
    fn wait(&self, mut inner: MutexGuard<'_, Inner>, deadline: Option<Instant>) -> Result<(), Injected> {
        let (interrupts, clears) = (inner.interrupts, inner.clears);
        inner.waiting += 1;
        let result = loop {
            if inner.interrupts != interrupts {
                break Err(Injected::Interrupted);
            }
            if inner.clears != clears || deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                break Ok(());
            }
            inner = match deadline {
                None => self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        };
        inner.waiting -= 1;
        result
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the process, or stops it until `SIGCONT`: the signal is delivered to this thread before the
/// call returns.
fn stop_here(signal: i32) -> Result<(), Injected> {
    // SAFETY: neither signal can be caught, so no handler runs; raise(3) has no other
    // requirements.
    unsafe { libc::raise(signal) };
    Ok(())
}

/// Whether a rule names this part.
fn names(rule: &FaultSpec, part: &DeviceId) -> bool {
    rule.of.as_deref().is_some_and(|of| of == part.to_string())
}

impl Inner {
    /// The point and the action of the first rule that applies; its remaining count drops by one.
    fn take_action(
        &mut self,
        direction: Option<Direction>,
        is_here: impl Fn(&FaultSpec) -> bool,
    ) -> Option<(FaultPoint, FaultAction)> {
        let direction = direction.unwrap_or(self.direction);
        let rule = self.rules.iter_mut().find(|rule| {
            is_here(&rule.spec) && rule.left != Some(0) && rule.spec.direction.is_none_or(|wanted| wanted == direction)
        })?;
        rule.left = rule.left.map(|left| left - 1);
        Some((rule.spec.at.clone(), rule.spec.action))
    }
}
