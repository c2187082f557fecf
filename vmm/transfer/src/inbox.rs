//! The inbox of a driver: events from its threads, timers, and the loss of a page link, in an order
//! that is fair to all.
//!
//! **Queued messages come first.** A timer that has run out, and the loss of a page link, wait
//! until the driver has handled the messages that had arrived by then, also those still in the
//! control link's socket or its reader ([`Unread`]): time for which this process was stopped (a
//! debugger, SIGSTOP) must not count against the peer.
//!
//! **But not indefinitely.** The number of events that come before a timer is bounded, so a peer
//! that sends without end does not starve it. So is the number of a peer's events in the inbox: a
//! thread that reads a link has a [`Quota`] of unhandled events, and waits before it reads on.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ferry_link::control::Unread;
use ferry_migration::Timer;

use crate::timers::Timers;

/// How long a driver waits when no timer runs; afterwards it only waits again.
const IDLE: Duration = Duration::from_secs(3600);

/// How long the loss of a page link is held back for a message on the control link. Both end
/// together when a peer gives up, and only the control link carries the reason; on a busy host its
/// reader may run late.
const GRACE: Duration = Duration::from_millis(200);

/// Most events that come before a timer that has run out: more than all links together may have in
/// the inbox.
const MOST_BEFORE: u32 = 256;
/// Most looks at the control link before such a timer, while the link's reader is at work.
const MOST_LOOKS: u32 = 200;
/// Time for the reader between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Most unhandled events of one link.
const QUOTA: usize = 4;

/// Bounds the unhandled events of a link's thread; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quota(Arc<(Mutex<usize>, Condvar)>);

impl Quota {
    /// Waits until one more event is within the quota. The ticket goes with the event.
    #[must_use]
    pub(crate) fn take(&self) -> Ticket {
        let (taken, freed) = &*self.0;
        let taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = freed.wait_while(taken, |taken| *taken >= QUOTA).unwrap_or_else(PoisonError::into_inner);
        *taken += 1;
        drop(taken);
        Ticket(self.clone())
    }
}

/// An event's part of a quota: released when the event has been handled, or dropped with its
/// driver.
#[derive(Debug)]
pub(crate) struct Ticket(Quota);

impl Drop for Ticket {
    fn drop(&mut self) {
        let (taken, freed) = &*self.0.0;
        *taken.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        freed.notify_one();
    }
}

/// The next thing to handle.
#[derive(Debug)]
pub(crate) enum Next<E> {
    /// An event.
    Event(E),
    /// A timer ran out.
    Timer(Timer),
    /// A page link was lost a while ago, and the control link has brought no reason.
    PagesLost(String),
    /// Nothing came until `wake_at`.
    Nothing,
}

/// The loss of a page link, held back for a moment.
#[derive(Debug, Default)]
pub(crate) struct HeldLoss(Option<(Instant, String)>);

impl HeldLoss {
    /// Holds it back, unless one is already.
    pub(crate) fn hold(&mut self, reason: String) {
        self.0.get_or_insert_with(|| (Instant::now() + GRACE, reason));
    }

    fn take_due(&mut self) -> Option<String> {
        self.0.take_if(|(at, _)| *at <= Instant::now()).map(|(_, reason)| reason)
    }

    fn due(&self) -> Option<Instant> {
        self.0.as_ref().map(|(at, _)| *at)
    }
}

/// How many events and looks may still come before something that is due.
#[derive(Debug)]
struct Late {
    events: u32,
    looks: u32,
}

/// The order in which a driver handles events.
#[derive(Debug, Default)]
pub(crate) struct Order {
    late: Option<Late>,
}

impl Order {
    /// Waits for the next, until `wake_at` at the latest if that is given. `unread` looks at the
    /// control link.
    pub(crate) fn next<E>(
        &mut self,
        events: &Receiver<E>,
        timers: &mut Timers,
        loss: &mut HeldLoss,
        wake_at: Option<Instant>,
        unread: Option<&Unread>,
    ) -> Next<E> {
        loop {
            let now = Instant::now();
            let wake = [timers.next(), loss.due(), wake_at].into_iter().flatten().min();
            if wake.is_some_and(|at| at <= now) {
                if let Some(event) = self.before_what_is_due(events, unread) {
                    return Next::Event(event);
                }
                self.late = None;
                if let Some(timer) = timers.expired() {
                    return Next::Timer(timer);
                }
                return loss.take_due().map_or(Next::Nothing, Next::PagesLost);
            }
            self.late = None;
            let wait = wake.map_or(IDLE, |at| at.saturating_duration_since(now));
            match events.recv_timeout(wait) {
                Ok(event) => return Next::Event(event),
                // The driver itself holds a sender, so the channel does not close.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    /// An event that has arrived, if it may come before something that is due.
    fn before_what_is_due<E>(&mut self, events: &Receiver<E>, unread: Option<&Unread>) -> Option<E> {
        let late = self.late.get_or_insert(Late { events: MOST_BEFORE, looks: MOST_LOOKS });
        while late.events > 0 {
            // Checked first: if there is nothing more to read, all of it is in the channel by then.
            let more = unread.is_some_and(Unread::is_there);
            if let Ok(event) = events.try_recv() {
                late.events -= 1;
                return Some(event);
            }
            if !more || late.looks == 0 {
                return None;
            }
            late.looks -= 1;
            if let Ok(event) = events.recv_timeout(LOOK) {
                late.events -= 1;
                return Some(event);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timers::Durations;
    use ferry_link::Link;
    use ferry_link::control::{Receiver as Control, Sender as ControlSender};
    use ferry_migration::ToDestination;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::{Sender, channel};

    /// Timers that run out as soon as they are started, or not within a test.
    fn timers(at_once: bool) -> Timers {
        let time = if at_once { Duration::ZERO } else { Duration::from_secs(1000) };
        Timers::new(Durations { setup: time, load: time, heartbeat: time })
    }

    fn links() -> (ControlSender, Control) {
        let (near, far) = UnixStream::pair().unwrap();
        let [near, far] = [near, far].map(|end| Link::new(end.into()).unwrap());
        (ControlSender::new(near, 1), Control::new(far, 1))
    }

    /// The thread that reads a control link, which does not begin before it may.
    fn read(mut link: Control, begin: std::sync::mpsc::Receiver<()>, events: Sender<&'static str>) {
        std::thread::spawn(move || {
            begin.recv().unwrap();
            while link.receive::<ToDestination>().is_ok() && events.send("message").is_ok() {}
        });
    }

    #[test]
    fn what_is_in_the_socket_comes_before_a_timer_and_a_lost_link() {
        for lost_link in [false, true] {
            let (mut peer, link) = links();
            let (events, inbox) = channel();
            let (begin, may_begin) = channel();
            let (unread, mut timers, mut loss) = (link.unread(), timers(true), HeldLoss::default());
            read(link, may_begin, events);
            peer.send(&ToDestination::Drained, &[]).unwrap();
            // The process goes on after a pause: all is due, and no thread has read a byte yet.
            if lost_link {
                loss.0 = Some((Instant::now(), "urgent".to_owned()));
            } else {
                timers.start(Timer::PeerSilent);
            }
            let mut order = Order::default();
            let reader = std::thread::spawn(move || {
                std::thread::park_timeout(Duration::from_millis(50));
                begin.send(()).unwrap();
            });
            let first = order.next(&inbox, &mut timers, &mut loss, None, Some(&unread));
            assert!(matches!(first, Next::Event("message")), "{first:?}");
            let second = order.next(&inbox, &mut timers, &mut loss, None, Some(&unread));
            match lost_link {
                true => assert!(matches!(&second, Next::PagesLost(link) if link == "urgent"), "{second:?}"),
                false => assert!(matches!(second, Next::Timer(Timer::PeerSilent)), "{second:?}"),
            }
            reader.join().unwrap();
        }
    }

    #[test]
    fn a_flood_of_events_does_not_starve_a_timer() {
        let (events, inbox) = channel();
        let mut timers = timers(true);
        timers.start(Timer::Load);
        let (mut order, mut loss) = (Order::default(), HeldLoss::default());
        let mut before = 0;
        loop {
            // There is always one more.
            events.send(()).unwrap();
            match order.next(&inbox, &mut timers, &mut loss, None, None) {
                Next::Event(()) => before += 1,
                Next::Timer(Timer::Load) => break,
                other => panic!("{other:?}"),
            }
            assert!(before <= MOST_BEFORE, "the timer never comes");
        }
        assert_eq!(before, MOST_BEFORE);
        assert!(matches!(order.next(&inbox, &mut timers, &mut loss, None, None), Next::Event(())));
    }

    #[test]
    fn a_message_that_never_becomes_whole_does_not_hold_a_timer_for_ever() {
        let (peer, mut link) = links();
        let (unread, mut timers) = (link.unread(), timers(true));
        peer.link().write_all(b"half").unwrap();
        let reader = std::thread::spawn(move || link.receive::<ToDestination>().is_err());
        timers.start(Timer::PeerSilent);
        let (_events, inbox) = channel::<()>();
        let next = Order::default().next(&inbox, &mut timers, &mut HeldLoss::default(), None, Some(&unread));
        assert!(matches!(next, Next::Timer(Timer::PeerSilent)), "{next:?}");
        drop(peer);
        assert!(reader.join().unwrap());
    }

    #[test]
    fn a_time_to_wake_comes_with_nothing_to_say_and_events_before_it() {
        let (events, inbox) = channel();
        let (mut timers, mut loss, mut order) = (timers(false), HeldLoss::default(), Order::default());
        timers.start(Timer::PeerSilent);
        events.send(()).unwrap();
        let now = Some(Instant::now());
        assert!(matches!(order.next(&inbox, &mut timers, &mut loss, now, None), Next::Event(())));
        assert!(matches!(order.next(&inbox, &mut timers, &mut loss, now, None), Next::Nothing));
    }

    #[test]
    fn a_link_has_so_many_events_under_way_and_reads_on_when_one_is_looked_at() {
        let quota = Quota::default();
        let (events, inbox) = channel();
        let reader = std::thread::spawn(move || while events.send(quota.take()).is_ok() {});
        let under_way: Vec<_> = (0..QUOTA).map(|_| inbox.recv().unwrap()).collect();
        assert!(inbox.recv_timeout(Duration::from_millis(50)).is_err(), "the quota is exceeded");
        drop(under_way);
        inbox.recv_timeout(Duration::from_secs(20)).unwrap();
        drop(inbox);
        reader.join().unwrap();
    }
}
