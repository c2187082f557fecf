//! A backend that fails on purpose: compiled into every build, inert until a plan is set.
//!
//! Tests and the fault matrix wrap the real backend in [`Faulty`] and plan one [`Fault`] at a time,
//! as the fault device does for devices: it strikes a number of calls, and later ones are
//! unaffected.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{Expected, Ownership, OwnershipError, Record, Sign, Stay, Swap};

/// Which calls a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strikes {
    /// [`Ownership::read`].
    Reads,
    /// [`Ownership::create`] and [`Ownership::swap`].
    Writes,
    /// All.
    Everything,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The call fails, nothing is applied, and the error says so.
    Unreachable,
    /// The call fails, nothing is applied, and the error leaves that open.
    RequestLost,
    /// The call is carried out, and its result is lost.
    ReplyLost,
    /// The call is carried out after this long, or as soon as the plan is changed.
    Slow(Duration),
    /// The next change of an existing record ends after so many bytes, as a crash in its middle
    /// would leave it.
    Torn(usize),
}

/// A fault, the calls that it strikes, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Which calls.
    pub strikes: Strikes,
    /// What happens to them.
    pub fault: Fault,
    /// How many of them; all if `None`.
    pub times: Option<u32>,
}

/// A backend whose writes can be torn.
pub trait Tear: Ownership {
    /// The next change of an existing record writes only its first `bytes` bytes, then fails as
    /// unreachable and maybe applied.
    fn tear_next_write(&self, bytes: usize);
}

/// `B`, with faults as planned.
#[derive(Debug)]
pub struct Faulty<B> {
    inner: B,
    plan: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    plan: Option<Plan>,
    /// Grows with every [`Faulty::set`].
    edition: u64,
    struck: u64,
}

impl<B: Tear> Faulty<B> {
    /// Without a plan: as `inner`.
    pub fn new(inner: B) -> Self {
        Faulty { inner, plan: Mutex::default(), changed: Condvar::new() }
    }

    /// Replaces the plan; with none, no call is struck. Ends the wait of a [`Fault::Slow`].
    pub fn set(&self, plan: Option<Plan>) {
        let mut state = self.state();
        state.plan = plan;
        state.edition += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// How many calls have been struck so far.
    pub fn struck(&self) -> u64 {
        self.state().struck
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the fault that strikes this call, if one does, and the edition of the plan that it
    /// came from.
    fn strike(&self, call: Strikes) -> Option<(Fault, u64)> {
        let mut state = self.state();
        let strikes = |plan: &Plan| plan.strikes == call || plan.strikes == Strikes::Everything;
        let plan = state.plan.as_mut().filter(|plan| strikes(plan) && plan.times != Some(0))?;
        let fault = plan.fault;
        plan.times = plan.times.map(|left| left - 1);
        state.struck += 1;
        Some((fault, state.edition))
    }

    fn call<T>(
        &self,
        call: Strikes,
        carry_out: impl FnOnce() -> Result<T, OwnershipError>,
    ) -> Result<T, OwnershipError> {
        let is_write = call == Strikes::Writes;
        let Some((fault, edition)) = self.strike(call) else { return carry_out() };
        match fault {
            Fault::Unreachable => Err(self.planned("unreachable", false)),
            Fault::RequestLost => Err(self.planned("the request was lost", is_write)),
            Fault::ReplyLost => carry_out().and_then(|_| Err(self.planned("the reply was lost", is_write))),
            Fault::Torn(bytes) => {
                self.inner.tear_next_write(bytes);
                carry_out()
            }
            Fault::Slow(delay) => {
                self.wait(delay, edition);
                carry_out()
            }
        }
    }

    fn wait(&self, delay: Duration, edition: u64) {
        let until = Instant::now() + delay;
        let mut state = self.state();
        while state.edition == edition {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn planned(&self, what: &'static str, maybe_applied: bool) -> OwnershipError {
        OwnershipError::Unreachable {
            at: self.inner.place(),
            doing: "a planned fault",
            maybe_applied,
            source: io::Error::other(what),
            advice: "end the fault, then try again",
        }
    }
}

impl<B: Tear> Ownership for Faulty<B> {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn read(&self) -> Result<Option<Record>, OwnershipError> {
        self.call(Strikes::Reads, || self.inner.read())
    }

    fn create(&self, record: &Record) -> Result<Swap, OwnershipError> {
        self.call(Strikes::Writes, || self.inner.create(record))
    }

    fn swap(&self, expected: &Expected, record: &Record) -> Result<Swap, OwnershipError> {
        self.call(Strikes::Writes, || self.inner.swap(expected, record))
    }

    fn stay(&self) -> Stay {
        self.inner.stay()
    }

    fn show_presence(&self, alone: bool, stay: Stay) -> Result<(), OwnershipError> {
        self.inner.show_presence(alone, stay)
    }

    fn end_presence(&self) -> Sign {
        self.inner.end_presence()
    }
}

#[cfg(test)]
#[path = "faulty_tests.rs"]
mod tests;
