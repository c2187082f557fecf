//! The destination's links: accepted, used, lost, closed.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use ferry_devices::fault::{Direction, Moment};
use ferry_link::Link;
use ferry_link::arrivals::Arrival;
use ferry_link::control::{self, LinkError};
use ferry_migration::destination::Input;
use ferry_migration::message::{ToDestination, ToSource};
use ferry_migration::parameters::BULK_LINKS_MAX;
use ferry_migration::wire::preamble::{LinkRole, Preamble, session};
use ferry_migration::{Status, Timer};
use ferry_observe::trace::{self, Side};

use super::{Driver, FAREWELL, MOST_REFUSED, MOST_THREADS};
use crate::destination::events::{Event, LinkEvent};
use crate::destination::markers::Markers;
use crate::destination::page_receiver::PageReceiver;
use crate::destination::worker::{MarkedLink, page_worker};
use crate::inbox::{HeldLoss, Quota};

impl Driver {
    pub(super) fn arrived(&mut self, arrival: Arrival) {
        let Arrival { preamble, link: stream, .. } = arrival;
        match (preamble.link, self.migration_id) {
            (LinkRole::Control, None) => {
                self.migration_id = Some(preamble.migration_id);
                self.links.source_connection = preamble.connection;
                trace::migration(Side::Destination, preamble.migration_id, None, self.progress.watched());
                self.progress.set_status(Status::Setup);
                self.begin(preamble.migration_id, stream);
                let first = self.core.start();
                self.perform(first);
            }
            (LinkRole::Control, Some(id)) if self.is_next_connection(&preamble) => {
                crate::threads::join_finished(&mut self.threads);
                if self.threads.len() > MOST_THREADS {
                    tracing::warn!("a connection was closed: links of earlier ones have not ended yet");
                    return stream.shutdown();
                }
                self.links.source_connection = preamble.connection;
                self.source_is_back(id, stream);
            }
            (LinkRole::Control, Some(_)) => self.refuse(preamble.migration_id, stream),
            (LinkRole::Bulk(number), Some(_)) if self.is_of_present_connection(&preamble) => {
                if number >= BULK_LINKS_MAX || self.links.bulk.iter().any(|(waits, _)| *waits == number) {
                    return close(&stream, NOT_ANNOUNCED);
                }
                self.links.bulk.push((number, stream));
                self.receive_pages();
            }
            (LinkRole::Urgent, Some(id)) if self.is_of_present_connection(&preamble) => {
                // The first one stays: requests and pages may be on their way on it.
                if std::mem::replace(&mut self.links.has_urgent, true) {
                    return close(&stream, "this connection has an urgent link already");
                }
                self.urgent_arrived(id, stream);
            }
            (LinkRole::Bulk(_) | LinkRole::Urgent, _) => close(&stream, "it belongs to no connection that is known"),
        }
    }

    /// Whether this is a recover's control link, and no later one has overtaken it.
    fn is_next_connection(&self, preamble: &Preamble) -> bool {
        self.migration_id == Some(preamble.migration_id)
            && self.core.is_in_postcopy()
            && preamble.connection > self.links.source_connection
    }

    fn is_of_present_connection(&self, preamble: &Preamble) -> bool {
        self.migration_id == Some(preamble.migration_id)
            && self.links.control.is_some()
            && !self.paused
            && preamble.connection == self.links.source_connection
    }

    fn refuse(&mut self, migration_id: u128, stream: Link) {
        let busy = ToSource::Refused { reason: "another migration to this destination is going on".to_owned() };
        let mut second = control::Sender::new(stream, session(migration_id));
        match second.send(&busy, &[]) {
            Ok(()) => second.finish_sending(),
            Err(error) => tracing::info!(%error, "a second source left before it was refused"),
        }
        self.links.refused.push_back(second);
        if self.links.refused.len() > MOST_REFUSED {
            self.links.refused.pop_front();
        }
    }

    /// The source has reconnected: its previous connection is given up here, too, whether or not
    /// this side has noticed the break.
    fn source_is_back(&mut self, migration_id: u128, stream: Link) {
        if !self.paused {
            self.input(Input::LinkLost("the source has come back on a new connection".to_owned()));
        }
        self.drop_connection();
        crate::threads::join_finished(&mut self.threads);
        self.timers.start(Timer::Recover);
        self.progress.set_status(Status::PostcopyRecover);
        self.begin(migration_id, stream);
    }

    fn begin(&mut self, migration_id: u128, stream: Link) {
        self.links.open.push(stream.clone());
        trace::connection(self.links.source_connection);
        let (connection, session) = (self.links.connection, session(migration_id));
        let receiver = control::Receiver::new(stream.clone(), session);
        self.links.unread = Some(receiver.unread());
        let (events, told) = (self.events.clone(), self.events.clone());
        let read = move || read_control(receiver, connection, &events);
        let started = self.machine.faults().spawn("ferry-dst-recv", read);
        let failed = move |error: LinkError| {
            let reason = format!("sending: {}", ferry_observe::causes(&error));
            // A driver that has ended needs no event.
            let _ = told.send(Event::OfLink(connection, LinkEvent::SendFailed(reason)));
        };
        self.links.control = Some(control::Sender::reporting(stream, session, failed));
        self.links.heard = 0;
        match started {
            Ok(thread) => {
                self.links.reading = true;
                self.threads.push(thread);
            }
            Err(error) => self.failed(format!("no thread for the control link: {error}")),
        }
    }

    /// Receives pages from every bulk link that has arrived, as soon as the machines are known to
    /// match.
    pub(super) fn receive_pages(&mut self) {
        let Some(migration_id) = self.migration_id else { return };
        if !self.pages.receiving {
            return;
        }
        if self.pages.as_a_whole && !self.links.bulk.is_empty() {
            self.links.bulk.clear();
            return self.failed("the source has handed its memory over, and opens a bulk link all the same".to_owned());
        }
        let precopy = self.pages.postcopy.is_none();
        for (number, stream) in std::mem::take(&mut self.links.bulk) {
            if self.links.markers.arrives(number) {
                self.links.open.push(stream.clone());
                let marked = precopy.then(|| MarkedLink { number, markers: self.links.markers.clone() });
                self.receive_from(migration_id, stream, "bulk", marked);
            } else {
                close(&stream, NOT_ANNOUNCED);
            }
        }
    }

    /// In precopy, `marked` identifies the bulk link.
    pub(super) fn receive_from(
        &mut self,
        migration_id: u128,
        stream: Link,
        link: &'static str,
        marked: Option<MarkedLink>,
    ) {
        if let Err(error) = stream.set_patience(self.timers.durations.heartbeat) {
            return self.failed(format!("the {link} link takes no timeout: {error}"));
        }
        let progress = self.progress.clone();
        let populating = self.pages.populating.clone();
        let session = session(migration_id);
        let receiver = PageReceiver::new(self.machine.memory().clone(), stream, link, session, (progress, populating));
        let (armed, events) = (self.pages.armed.clone(), self.events.clone());
        match page_worker(receiver, armed, marked, self.links.connection, events, self.machine.faults()) {
            Ok(thread) => self.threads.push(thread),
            Err(error) => self.failed(format!("no thread for pages: {error}")),
        }
    }

    pub(super) fn send(&mut self, message: &ToSource) {
        let attachment = match (message, &self.pages.postcopy) {
            (ToSource::HelloAck { .. }, _) if self.pages.as_a_whole => self.taken_memory(),
            (ToSource::RecoverAck, Some(postcopy)) => postcopy.faults.received().encode(),
            _ => Vec::new(),
        };
        let Some(control) = &mut self.links.control else { return };
        self.machine.faults().reach(Direction::Incoming, Moment::Send, message.name());
        if let Err(error) = control.send(message, &attachment) {
            let reason = format!("sending {}: {}", message.name(), ferry_observe::causes(&error));
            return self.failed(reason);
        }
        self.machine.faults().reach(Direction::Incoming, Moment::Sent, message.name());
    }

    /// Bytes received on the control link.
    pub(super) fn bytes_heard(&self) -> u64 {
        self.links.control.as_ref().map_or(0, |control| control.link().received())
    }

    /// Whether bytes have come since the last look: a message may take long to arrive.
    pub(super) fn is_being_told(&mut self) -> bool {
        let now = self.bytes_heard();
        std::mem::replace(&mut self.links.heard, now) != now
    }

    /// Reports a loss of the link to the state machine, after its present step.
    fn failed(&self, reason: String) {
        // The driver holds its own channel open.
        let _ = self.events.send(Event::OfLink(self.links.connection, LinkEvent::SendFailed(reason)));
    }

    /// Ends every link of the present connection. Later events of its threads are ignored.
    pub(super) fn drop_connection(&mut self) {
        self.links.connection += 1;
        self.links.loss = HeldLoss::default();
        self.links.reading = false;
        (self.links.control, self.links.unread) = (None, None);
        self.links.bulk.clear();
        (self.links.has_urgent, self.links.urgent) = (false, None);
        self.links.markers = Arc::new(Markers::new(self.links.announced_links));
        for link in self.links.open.drain(..) {
            link.shutdown();
        }
        if let Some(postcopy) = &self.pages.postcopy {
            postcopy.requests.disconnect();
        }
    }

    /// The last message may still be on its way: the control link's reader goes on until the source
    /// has closed it too.
    pub(super) fn close_links(&mut self) {
        if let Some(control) = self.links.control.take() {
            control.finish_sending();
        }
        if self.paused {
            // A recovery that was given up: further messages on this connection come too late.
            self.links.connection += 1;
            self.links.reading = false;
            self.progress.set_status(Status::PostcopyPaused);
        }
    }

    pub(super) fn await_farewell(&mut self, inbox: &Receiver<Event>) {
        let until = Instant::now() + FAREWELL;
        while self.links.reading {
            match inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::Armed(postcopy, thread)) => self.armed(postcopy, thread),
                Ok(Event::OfLink(connection, LinkEvent::Lost(_))) if connection == self.links.connection => {
                    self.links.reading = false;
                }
                Err(_) => self.links.reading = false,
                Ok(_) => {}
            }
        }
    }
}

const NOT_ANNOUNCED: &str = "it was not announced, or is here already";

/// Closes a page link that is refused, before any state is kept for it.
fn close(stream: &Link, reason: &str) {
    tracing::warn!(reason, "a page link was closed");
    stream.shutdown();
}

fn read_control(mut receiver: control::Receiver, connection: u32, events: &Sender<Event>) {
    let quota = Quota::default();
    let first = receiver.receive_with::<ToDestination>();
    let mut next =
        first.map(|(message, attachment, passed)| LinkEvent::FirstMessage(message, attachment, passed, quota.take()));
    loop {
        let (event, more) = match next {
            Ok(event) => (event, true),
            Err(error) => (LinkEvent::Lost(ferry_observe::causes(&error)), false),
        };
        if events.send(Event::OfLink(connection, event)).is_err() || !more {
            return;
        }
        next = receiver.receive().map(|(message, attachment)| LinkEvent::Message(message, attachment, quota.take()));
    }
}
