//! A relay between a source and a destination that spoils a migration at a chosen moment.
//!
//! It stands on loopback and forwards every connection to its target. It knows Ferry's frames, so "when the permit is about to
//! arrive" is a place in the stream and no race: a [`Plan`] names a frame and what happens to it. Without a plan, or besides
//! it, a test cuts, stalls and heals the link by hand.

mod package;
mod pump;
#[cfg(test)]
mod tests;
mod unit;

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

pub use self::package::Spoiled;
pub use self::unit::Spot;
use self::unit::Unit;
use crate::wait::{SOON, wait_until};

/// What happens to the frame that was chosen, and from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// All connections are closed; the frame does not arrive.
    Cut,
    /// The frame arrives, then all connections are closed.
    CutAfter,
    /// Nothing is forwarded any more, in no direction, and nothing is closed; the frame does not arrive.
    Stall,
    /// As `Stall`, but the frame itself still arrives.
    StallAfter,
    /// A bit of this byte of the frame is flipped.
    Corrupt(usize),
    /// These bytes of the frame are replaced, from this place on.
    Replace(usize, &'static [u8]),
    /// The frame arrives twice.
    Repeat,
    /// The frame does not arrive; later ones do.
    Lose,
    /// Of a package: the state of the section of this number, from 0, becomes nonsense, behind checksums that fit
    /// ([`Relay::spoiled`]).
    Spoil(usize),
    /// Nothing: the test only wants to know when the frame passes ([`Relay::wait_fired`]).
    Note,
}

/// Which frame, and what happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The frame.
    pub at: Spot,
    /// What happens.
    pub fault: Fault,
}

/// The relay. Ends with its connections when it is dropped.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    plan: Option<Plan>,
    fired: Option<SystemTime>,
    spoiled: Option<Spoiled>,
    stalled: bool,
    ending: bool,
    connections: Vec<TcpStream>,
}

impl Relay {
    /// A relay to `target` (`tcp:HOST:PORT`) that carries out `plan`.
    ///
    /// # Panics
    /// When the target is no such address, or loopback gives no port.
    #[must_use]
    pub fn new(target: &str, plan: Option<Plan>) -> Self {
        let target = target.strip_prefix("tcp:").and_then(|t| t.parse().ok()).expect("the target is tcp:ADDRESS:PORT");
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let state = Mutex::new(State { plan, ..State::default() });
        let shared = Arc::new(Shared { target, state, changed: Condvar::new() });
        let accepting = std::thread::spawn({
            let shared = shared.clone();
            move || pump::accept_all(&listener, &shared)
        });
        Relay { shared, address, accepting: Some(accepting) }
    }

    /// Where to migrate to.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("tcp:{}", self.address)
    }

    /// Waits until the plan has been carried out.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn wait_fired(&self) {
        let _at = self.fired_at();
    }

    /// Waits until the plan has been carried out, and says when that was.
    ///
    /// # Panics
    /// When that does not happen in time.
    #[must_use]
    pub fn fired_at(&self) -> SystemTime {
        let plan = self.shared.lock().plan;
        wait_until(&format!("the relay to carry out {plan:?}"), SOON, || self.shared.lock().fired)
    }

    /// What [`Fault::Spoil`] has spoiled.
    ///
    /// # Panics
    /// When it has spoiled nothing.
    #[must_use]
    pub fn spoiled(&self) -> Spoiled {
        self.shared.lock().spoiled.clone().expect("a package has passed, with a section of that number")
    }

    /// Closes all connections.
    pub fn cut(&self) {
        self.shared.lock().cut();
    }

    /// Forwards nothing any more.
    pub fn stall(&self) {
        self.shared.lock().stalled = true;
    }

    /// Forwards again what was held back.
    pub fn heal(&self) {
        self.shared.lock().stalled = false;
        self.shared.changed.notify_all();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.ending = true;
            state.cut();
        }
        self.shared.changed.notify_all();
        // Wakes the thread that accepts; when that fails it has ended.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.accepting.take() {
            // A pump that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the relay is stalled; false when it ends.
    fn pass<'a>(&self, mut state: MutexGuard<'a, State>) -> (MutexGuard<'a, State>, bool) {
        while state.stalled && !state.ending {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let goes_on = !state.ending;
        (state, goes_on)
    }

    /// What is to be written for a frame that was read; `None` ends the connection. Blocks while the relay is stalled.
    fn judge(&self, mut unit: Unit) -> Option<Vec<u8>> {
        let mut state = self.lock();
        let plan = state.plan.filter(|plan| state.fired.is_none() && plan.at == unit.spot);
        let Some(plan) = plan else {
            return self.pass(state).1.then_some(unit.bytes);
        };
        state.fired = Some(SystemTime::now());
        match plan.fault {
            Fault::Cut => {
                state.cut();
                return None;
            }
            Fault::Stall => state.stalled = true,
            Fault::Corrupt(at) => unit.bytes[at] ^= 1,
            Fault::Replace(at, with) => unit.bytes[at..at + with.len()].copy_from_slice(with),
            Fault::Spoil(section) => state.spoiled = package::spoil(&mut unit.bytes, section),
            Fault::Repeat => unit.bytes.extend_from_within(..),
            Fault::Lose => unit.bytes.clear(),
            Fault::Note => {}
            Fault::CutAfter | Fault::StallAfter => return Some(unit.bytes),
        }
        self.pass(state).1.then_some(unit.bytes)
    }

    /// What happens once the frame at `spot` has been forwarded.
    fn after(&self, spot: Spot) {
        let mut state = self.lock();
        match state.plan.filter(|plan| plan.at == spot && state.fired.is_some()).map(|plan| plan.fault) {
            Some(Fault::CutAfter) => state.cut(),
            Some(Fault::StallAfter) => state.stalled = true,
            _ => {}
        }
    }
}

impl State {
    fn cut(&mut self) {
        for connection in self.connections.drain(..) {
            // A peer that has gone already is what is wanted.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}
