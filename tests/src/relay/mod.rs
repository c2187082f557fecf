//! A relay between a source and a destination that spoils a migration at a chosen moment.
//!
//! It stands on loopback and forwards every connection to its target. It knows Ferry's frames, so
//! "when the permit is about to arrive" is a place in the stream and no race: a [`Plan`] names a
//! frame and what happens to it. Without a plan, or besides it, a test cuts, resets, stalls and
//! heals links by hand, and says what becomes of a frame that is held. What has passed is in the
//! frame log ([`Relay::frames`]). New connections are taken after a cut as before it, so that a
//! broken postcopy can be recovered through the same relay, with a new plan ([`Relay::set_plan`])
//! for the new connections.

mod direction;
mod log;
mod package;
mod plan;
mod pump;
mod state;
#[cfg(test)]
mod tests;
mod unit;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::SystemTime;

pub use self::log::Frame;
pub use self::package::Spoiled;
pub use self::plan::{Fault, Plan, TRICKLED};
use self::state::{Ending, Shared, Word};
pub use self::unit::{Lane, Link, Side, Spot};
use crate::wait::{SOON, wait_until};

/// The relay. Ends with its connections and threads when it is dropped, also while it holds a
/// frame.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
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
        let shared = Arc::new(Shared::new(target, plan));
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

    /// When the plan was carried out, if it has been.
    #[must_use]
    pub fn fired(&self) -> Option<SystemTime> {
        self.shared.lock().fired
    }

    /// Waits until the plan has been carried out, and says when that was: before the frame passes,
    /// unless the fault comes behind it or in it.
    ///
    /// # Panics
    /// When that does not happen in time.
    #[must_use]
    pub fn fired_at(&self) -> SystemTime {
        let plan = self.shared.lock().plan.as_ref().map(|plan| (plan.at, plan.fault.fate()));
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

    /// Lets what is held pass, and what follows it. Nothing happens when nothing is held (any
    /// more): wait for the fault first.
    pub fn release(&self) {
        self.shared.change(|state| state.say(Word::Release));
    }

    /// Discards the frame that is held, or the half of it that has not arrived, and lets what
    /// follows pass.
    pub fn drop_held(&self) {
        self.shared.change(|state| state.say(Word::Drop));
    }

    /// What has come to the relay so far, in this order.
    #[must_use]
    pub fn frames(&self) -> Vec<Frame> {
        self.shared.lock().log.frames()
    }

    /// The bytes of the newest frame of this spot, as they came, whatever became of it. Of pages
    /// and requests, only the first four of a connection are there.
    ///
    /// # Panics
    /// When no such frame has come.
    #[must_use]
    pub fn recorded(&self, spot: Spot) -> Vec<u8> {
        self.shared.lock().log.recorded(spot).unwrap_or_else(|| panic!("the relay has seen no {spot:?}"))
    }

    /// Closes all connections.
    pub fn cut_all(&self) {
        self.shared.end_all(Ending::Cut);
    }

    /// Waits until a connection that is this link is open: after a recovery, the page links come
    /// behind the control link.
    ///
    /// # Panics
    /// When none comes.
    pub fn wait_open(&self, link: Link) {
        wait_until(&format!("an open {link:?} link"), SOON, || self.shared.lock().is_open(link).then_some(()));
    }

    /// Closes the connections that are this link.
    ///
    /// # Panics
    /// When there never was one.
    pub fn cut_link(&self, link: Link) {
        self.end_link(Ending::Cut, link);
    }

    /// Resets all connections (RST).
    pub fn reset_all(&self) {
        self.shared.end_all(Ending::Reset);
    }

    /// Resets the connections that are this link (RST).
    ///
    /// # Panics
    /// When there never was one.
    pub fn reset_link(&self, link: Link) {
        self.end_link(Ending::Reset, link);
    }

    fn end_link(&self, how: Ending, link: Link) {
        let ended = self.shared.end(how, |connection| connection.link.get() == Some(&link));
        // One that has ended by itself is what was wanted.
        let was_there = || self.frames().iter().any(|frame| frame.link == link);
        assert!(ended > 0 || was_there(), "the relay has had no {link:?} link to end");
    }

    /// Forwards nothing any more, in no direction; nothing is closed.
    pub fn stall_all(&self) {
        self.stall(None, None);
    }

    /// Forwards nothing any more of what this side sends; nothing is closed.
    pub fn stall_from(&self, side: Side) {
        self.stall(Some(side), None);
    }

    /// Forwards nothing any more of what this side sends (`None`: both) on this link (`None`:
    /// all); nothing is closed. It adds to what is stalled already, and is true of new connections
    /// too.
    pub fn stall(&self, side: Option<Side>, link: Option<Link>) {
        self.shared.stall(side, link);
    }

    /// As [`Relay::stall`], of one link: of several bulk links the others go on.
    pub fn stall_lane(&self, side: Side, lane: Lane) {
        self.shared.stall_lane(side, lane);
    }

    /// Forwards again what was stalled.
    pub fn heal(&self) {
        self.shared.change(state::State::heal);
    }

    /// Takes no new connections, or takes them again.
    pub fn refuse(&self, refusing: bool) {
        self.shared.lock().refusing = refusing;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.change(|state| {
            state.ending = true;
            state.end(Ending::Cut, |_| true);
        });
        // Wakes the thread that accepts; when that fails it has ended.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.accepting.take() {
            // A pump that panicked has said so.
            let _ = thread.join();
        }
    }
}
