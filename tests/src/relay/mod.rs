//! A relay between a source and a destination that spoils a migration at a chosen moment.
//!
//! It stands on loopback and forwards every connection to its target. It knows Ferry's frames, so "when the permit is about to
//! arrive" is a place in the stream and no race: a [`Plan`] names a frame and what happens to it. Without a plan, or besides
//! it, a test cuts, stalls and heals links by hand. New connections are taken after a cut as before it, so that a broken
//! postcopy can be recovered through the same relay, with a new plan ([`Relay::set_plan`]) for the new connections.

mod package;
mod pump;
#[cfg(test)]
mod tests;
mod unit;

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

pub use self::package::Spoiled;
use self::unit::Unit;
pub use self::unit::{Link, Side, Spot};
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
    /// The first connection that the plan is for.
    from: u64,
    /// Connections so far.
    accepted: u64,
    /// What each side sends is held back: the source's, the destination's.
    stalled: [bool; 2],
    refusing: bool,
    ending: bool,
    connections: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    link: Arc<OnceLock<Link>>,
    ends: [TcpStream; 2],
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

    /// Where it forwards to.
    #[must_use]
    pub fn target(&self) -> String {
        format!("tcp:{}", self.shared.target)
    }

    /// Replaces the plan; frames that have passed do not count.
    pub fn set_plan(&self, at: Spot, fault: Fault) {
        self.shared.lock().begin(Plan { at, fault }, 0);
    }

    /// Replaces the plan with one for connections that are still to come.
    pub fn plan_for_new_connections(&self, at: Spot, fault: Fault) {
        let mut state = self.shared.lock();
        let from = state.accepted;
        state.begin(Plan { at, fault }, from);
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
    pub fn cut_all(&self) {
        self.shared.lock().cut(|_| true);
    }

    /// Closes the connections that are this link.
    ///
    /// # Panics
    /// When there is none.
    pub fn cut_link(&self, link: Link) {
        let closed = self.shared.lock().cut(|found| found == Some(link));
        assert!(closed > 0, "the relay has no {link:?} link to cut");
    }

    /// Forwards nothing any more, in no direction; nothing is closed.
    pub fn stall_all(&self) {
        self.shared.lock().stalled = [true; 2];
    }

    /// Forwards nothing any more of what this side sends; nothing is closed.
    pub fn stall_from(&self, side: Side) {
        self.shared.lock().stalled[side as usize] = true;
    }

    /// Forwards again what was held back.
    pub fn heal(&self) {
        self.shared.lock().stalled = [false; 2];
        self.shared.changed.notify_all();
    }

    /// Takes no new connections, or takes them again.
    pub fn refuse(&self, refusing: bool) {
        self.shared.lock().refusing = refusing;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.ending = true;
            state.cut(|_| true);
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

    /// Waits while what `side` sends is held back; false when the relay ends.
    fn pass<'a>(&self, mut state: MutexGuard<'a, State>, side: Side) -> (MutexGuard<'a, State>, bool) {
        while state.stalled[side as usize] && !state.ending {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let goes_on = !state.ending;
        (state, goes_on)
    }

    /// What is to be written for a frame that `side` sent on a connection, and what happens behind it; `None` ends the
    /// connection. Blocks while it is held back.
    fn judge(&self, mut unit: Unit, side: Side, connection: u64) -> Option<(Vec<u8>, Option<Fault>)> {
        let mut state = self.lock();
        let plan = state.plan.filter(|plan| state.fired.is_none() && connection >= state.from && plan.at == unit.spot);
        let Some(plan) = plan else {
            return self.pass(state, side).1.then_some((unit.bytes, None));
        };
        state.fired = Some(SystemTime::now());
        match plan.fault {
            Fault::Cut => {
                state.cut(|_| true);
                return None;
            }
            Fault::Stall => state.stalled = [true; 2],
            Fault::Corrupt(at) => unit.bytes[at] ^= 1,
            Fault::Replace(at, with) => unit.bytes[at..at + with.len()].copy_from_slice(with),
            Fault::Spoil(section) => state.spoiled = package::spoil(&mut unit.bytes, section),
            Fault::Repeat => unit.bytes.extend_from_within(..),
            Fault::Lose => unit.bytes.clear(),
            Fault::Note => {}
            Fault::CutAfter | Fault::StallAfter => {
                // Nothing else passes from now on: an answer to the frame could be quicker than what comes behind it.
                state.stalled = [true; 2];
                return Some((unit.bytes, Some(plan.fault)));
            }
        }
        self.pass(state, side).1.then_some((unit.bytes, None))
    }

    /// What happens once the frame that was chosen has been forwarded.
    fn after(&self, fault: Fault) {
        if fault == Fault::CutAfter {
            let mut state = self.lock();
            state.cut(|_| true);
            state.stalled = [false; 2];
            self.changed.notify_all();
        }
    }
}

impl State {
    fn begin(&mut self, plan: Plan, from: u64) {
        (self.plan, self.fired, self.from) = (Some(plan), None, from);
    }

    /// Closes the connections whose link is wanted, and tells how many.
    fn cut(&mut self, wanted: impl Fn(Option<Link>) -> bool) -> usize {
        let all = self.connections.len();
        self.connections.retain(|connection| {
            let keep = !wanted(connection.link.get().copied());
            if !keep {
                for end in &connection.ends {
                    // A peer that has gone already is what is wanted.
                    let _ = end.shutdown(Shutdown::Both);
                }
            }
            keep
        });
        all - self.connections.len()
    }
}
