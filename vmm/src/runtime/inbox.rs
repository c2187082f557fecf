//! What a driver waits for: events from its threads first, timers when there is none.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use ferry_migration::Timer;

use crate::runtime::timers::Timers;

/// How long a driver waits when no timer runs: it looks at nothing else, so only to wait again.
const IDLE: Duration = Duration::from_secs(3600);

/// What came.
#[derive(Debug)]
pub enum Next<E> {
    /// An event.
    Event(E),
    /// A timer ran out.
    Timer(Timer),
}

/// Waits. What has arrived comes before any timer: after a pause of the whole process (a debugger, SIGSTOP) the peer's
/// messages are waiting, and its silence was ours.
pub fn next<E>(events: &Receiver<E>, timers: &mut Timers) -> Next<E> {
    loop {
        if let Ok(event) = events.try_recv() {
            return Next::Event(event);
        }
        if let Some(timer) = timers.expired() {
            return Next::Timer(timer);
        }
        let wait = timers.next().map_or(IDLE, |at| at.saturating_duration_since(Instant::now()));
        match events.recv_timeout(wait) {
            Ok(event) => return Next::Event(event),
            // The driver itself holds a sender, so the channel does not close.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
}
