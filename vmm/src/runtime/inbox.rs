//! What a driver waits for: events from its threads first, timers when there is none.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use ferry_migration::Timer;

use crate::runtime::timers::Timers;

/// How long a driver waits when no timer runs: it looks at nothing else, so only to wait again.
const IDLE: Duration = Duration::from_secs(3600);

/// How long the loss of a page link waits for the control link's word. Both end together when a peer gives up, and only the
/// control link says why; on a busy host the thread that reads it may have to wait for its turn.
const GRACE: Duration = Duration::from_millis(200);

/// What came.
#[derive(Debug)]
pub enum Next<E> {
    /// An event.
    Event(E),
    /// A timer ran out.
    Timer(Timer),
    /// A page link was lost a while ago, and the control link has said nothing.
    PagesLost(String),
    /// Nothing came until the time that was asked for.
    Nothing,
}

/// The loss of a page link, held back for a moment.
#[derive(Debug, Default)]
pub struct HeldLoss(Option<(Instant, String)>);

impl HeldLoss {
    /// Holds it back, unless one is already.
    pub fn hold(&mut self, reason: String) {
        self.0.get_or_insert_with(|| (Instant::now() + GRACE, reason));
    }

    fn take_due(&mut self) -> Option<String> {
        self.0.take_if(|(at, _)| *at <= Instant::now()).map(|(_, reason)| reason)
    }

    fn due(&self) -> Option<Instant> {
        self.0.as_ref().map(|(at, _)| *at)
    }
}

/// Waits, until `wake_at` at the latest if that is given. What has arrived comes before any timer: after a pause of the whole process (a debugger, SIGSTOP) the peer's
/// messages are waiting, and its silence was ours.
pub fn next<E>(events: &Receiver<E>, timers: &mut Timers, loss: &mut HeldLoss, wake_at: Option<Instant>) -> Next<E> {
    loop {
        if let Ok(event) = events.try_recv() {
            return Next::Event(event);
        }
        if let Some(timer) = timers.expired() {
            return Next::Timer(timer);
        }
        if let Some(reason) = loss.take_due() {
            return Next::PagesLost(reason);
        }
        if wake_at.is_some_and(|at| at <= Instant::now()) {
            return Next::Nothing;
        }
        let wake = [timers.next(), loss.due(), wake_at].into_iter().flatten().min();
        let wait = wake.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()));
        match events.recv_timeout(wait) {
            Ok(event) => return Next::Event(event),
            // The driver itself holds a sender, so the channel does not close.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
}
