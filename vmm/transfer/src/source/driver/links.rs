//! The source's links: opened, used, lost, closed.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_devices::fault::{Direction, Moment, Place};
use ferry_link::Link;
use ferry_link::control::{self, LinkError};
use ferry_machine::Machine;
use ferry_migration::greeting::Announced;
use ferry_migration::message::{ToDestination, ToSource};
use ferry_migration::source::{Input, Output};
use ferry_migration::wire::preamble::{LinkRole, Preamble, session};
use ferry_migration::{Greeting, Status, package};
use vmm_sys_util::eventfd::EventFd;

use super::Driver;
use crate::inbox::{HeldLoss, Quota};
use crate::source::events::{Event, LinkEvent};

/// How much earlier than the setup timer connecting ends.
const AHEAD: Duration = Duration::from_millis(500);
/// Longest that the greeting waits for the image's storage to show the proof of the disk; at most
/// half of the time that the setup has left.
const PROOF: Duration = Duration::from_secs(2);
/// Time limit for writing the preamble on a new link.
const PREAMBLE: Duration = Duration::from_secs(1);

/// The chunks that the destination may populate ahead.
fn filled_chunks(machine: &Machine) -> Vec<u8> {
    // The hint is optional: without a page map, none is sent.
    machine.memory().filled_chunks().map_or_else(|_| Vec::new(), |filled| filled.encode())
}

impl Driver {
    pub(super) fn connect(&mut self) {
        let disk = self.machine.writable_disk().filter(|_| self.links.recover_to.is_none());
        if let Some(to) = self.links.recover_to.take() {
            self.links.to = to;
            crate::threads::join_finished(&mut self.threads);
            // The flag of the previous connection stays set: its thread may not have seen it yet.
            self.pages.controls.stop = Arc::default();
            // The break has signalled the previous one.
            match EventFd::new(libc::EFD_CLOEXEC) {
                Ok(cancel) => self.links.cancel = cancel,
                Err(error) => return self.lost(format!("no eventfd can be had: {error}")),
            }
        }
        let (to, events, epoch) = (self.links.to.clone(), self.events.clone(), self.links.epoch);
        // Ahead of the setup timer, whose reason cannot name the addresses and their errors.
        let setup = self.timers.durations.setup;
        let deadline = Instant::now() + setup - (setup / 10).min(AHEAD);
        let preamble =
            Preamble { migration_id: self.migration_id, connection: self.links.epoch, link: LinkRole::Control };
        let (cancel, faults) = (self.links.cancel.try_clone(), self.machine.faults().clone());
        // Read on this thread and not by the driver: the page map of a large memory takes long.
        let filled = (self.links.epoch == 0 && !self.pages.as_a_whole).then(|| self.machine.clone());
        let (proof, migration_id) = (self.proof.clone(), self.migration_id);
        let connect = move || {
            let allowed = faults.before(Place::HostConnect).and(cancel);
            let opened = allowed.and_then(|cancel| Link::connect(&to, deadline, &cancel)).and_then(|stream| {
                // A socket that was just connected has room for it.
                stream.set_write_timeout(Some(PREAMBLE))?;
                stream.write_all(&preamble.encode())?;
                Ok(stream)
            });
            let event = match opened {
                Ok(stream) => {
                    if let Some(disk) = disk {
                        let within = PROOF.min(deadline.saturating_duration_since(Instant::now()) / 2);
                        proof.begin(disk, migration_id, &faults, within);
                    }
                    LinkEvent::Control(stream, filled.map_or_else(Vec::new, |machine| filled_chunks(&machine)))
                }
                Err(error) => LinkEvent::Lost(format!("cannot connect to {to}: {error}")),
            };
            // The driver may have been cancelled meanwhile; the stream then closes here.
            let _ = events.send(Event::OfLink(epoch, event));
        };
        self.spawn("ferry-src-connect", connect);
    }

    pub(super) fn control_is_open(&mut self, stream: Link, filled: Vec<u8>) {
        let session = session(self.migration_id);
        ferry_observe::trace::connection(self.links.epoch);
        self.links.reached = stream.reached(&self.links.to);
        self.package.filled = filled;
        self.links.open.push(stream.clone());
        let (events, told, epoch) = (self.events.clone(), self.events.clone(), self.links.epoch);
        let mut receiver = control::Receiver::new(stream.clone(), session);
        (self.links.unread, self.links.heard) = (Some(receiver.unread()), 0);
        let failed = move |error: LinkError| {
            let reason = format!("sending: {}", ferry_observe::causes(&error));
            // A driver that has ended needs no answer.
            let _ = told.send(Event::OfLink(epoch, LinkEvent::Lost(reason)));
        };
        self.links.control = Some(control::Sender::reporting(stream, session, failed));
        self.spawn("ferry-src-recv", move || {
            let quota = Quota::default();
            loop {
                let (event, more) = match receiver.receive::<ToSource>() {
                    Ok((message, attachment)) => (LinkEvent::Message(message, attachment, quota.take()), true),
                    Err(error) => (LinkEvent::Lost(ferry_observe::causes(&error)), false),
                };
                if events.send(Event::OfLink(epoch, event)).is_err() || !more {
                    return;
                }
            }
        });
        self.input(Input::Connected);
    }

    pub(super) fn send(&mut self, message: &ToDestination) {
        let attachment = match message {
            ToDestination::Hello { .. } => self.greeting(),
            // In a rehearsal, the pages that the guest has written since they were sent: the
            // destination discards them before the guest stops.
            ToDestination::Rehearse | ToDestination::Package { .. } => {
                let remaining = self.package.remaining.as_ref().filter(|_| self.core.goes_postcopy());
                package::encode(&std::mem::take(&mut self.package.state), remaining)
            }
            ToDestination::Permit { .. } => self.machine.final_requests(),
            _ => Vec::new(),
        };
        let descriptor = self.descriptor_for(message);
        let descriptor = descriptor.as_ref().map(AsFd::as_fd);
        let Some(control) = &mut self.links.control else { return };
        self.machine.faults().reach(Direction::Outgoing, Moment::Send, message.name());
        if let Err(error) = control.send_with(message, &attachment, descriptor) {
            let reason = format!("sending {}: {}", message.name(), ferry_observe::causes(&error));
            return self.lost(reason);
        }
        self.machine.faults().reach(Direction::Outgoing, Moment::Sent, message.name());
    }

    fn greeting(&mut self) -> Vec<u8> {
        let greeting = Greeting {
            vm: self.machine.name().to_owned(),
            machine: Arc::unwrap_or_clone(self.machine.description()),
            bulk_links: self.links.bulk_links,
            filled_chunks: std::mem::take(&mut self.package.filled),
            record: self
                .record
                .handover
                .as_ref()
                .map(|record| Announced { handover: record.handover().clone(), nonce: record.nonce() }),
            heartbeat_timeout_ms: self.timers.durations.heartbeat.as_millis() as u64,
        };
        greeting.encode(self.passed_memory().as_ref(), Some(&self.identity()))
    }

    pub(super) fn close_links(&mut self) {
        // An eventfd takes 2^64 signals before a write could fail.
        let _ = self.links.cancel.write(1);
        for link in self.links.open.drain(..) {
            link.shutdown();
        }
        (self.links.control, self.links.unread) = (None, None);
        self.links.loss = HeldLoss::default();
        // A link that was being opened meanwhile is closed when it comes.
        self.links.epoch += 1;
    }

    /// Sends the reason of a pause to the destination, which may have gone: only this side knows
    /// which link is silent. The links end whether or not it arrives.
    pub(super) fn take_leave(&mut self, outputs: &[Output], trouble: String) {
        let active = self.progress.status() == Some(Status::PostcopyActive);
        let pauses = outputs.iter().any(|output| matches!(output, Output::Status(Status::PostcopyPaused)));
        if let Some(control) = self.links.control.as_mut().filter(|_| active && pauses) {
            control.send_last(&ToDestination::Cancel { reason: trouble });
        }
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
    pub(super) fn lost(&self, reason: String) {
        // The driver holds its own channel open.
        let _ = self.events.send(Event::OfLink(self.links.epoch, LinkEvent::Lost(reason)));
    }
}
