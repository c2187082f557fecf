//! The thread that runs a destination's state machine: events in, outputs carried out, in order.
//!
//! Started by [`Incoming::listen`](super::Incoming::listen). It waits only for its inbox and its
//! timers; workers do the blocking work, and everything that was opened or started here is released
//! when it ends. [`links`] accepts, uses and closes the links, [`postcopy`] handles missing pages,
//! [`adoption`] memory that is handed over as a whole, [`record`] asks the ownership record,
//! [`greeting`] compares the machines, [`identity`] checks that both sides have the same guest and
//! disk, [`jobs`] hands work to the worker, [`commands`] answers clients, [`end`] winds up.

mod adoption;
mod commands;
mod end;
mod explain;
mod greeting;
mod identity;
mod jobs;
mod links;
mod postcopy;
mod record;
mod state;

use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferry_devices::fault::{Direction, Moment};
use ferry_link::arrivals::News;
use ferry_link::listener::{Bound, Listener};
use ferry_machine::Machine;
use ferry_migration::destination::{Destination, Input, Outcome, Output};
use ferry_migration::message::{ToDestination, ToSource};
use ferry_migration::parameters::BULK_LINKS_MAX;
use ferry_migration::{Parameters, Status, Timer};
use ferry_record::OwnRecord;

use self::state::{Links, Package, Pages, Record};
use super::events::{Event, LinkEvent};
use super::worker::{MachineJob, machine_worker};
use crate::inbox::{Next, Order};
use crate::progress::Progress;
use crate::timers::{Durations, Timers};

/// Longest that the source may take to read this side's last message.
const FAREWELL: Duration = Duration::from_secs(1);
/// Most refused sources whose links are still open; the oldest is closed first.
const MOST_REFUSED: usize = 16;
/// Most threads of a migration, including those of replaced connections that have not ended yet:
/// several times those of one connection.
const MOST_THREADS: usize = 4 * (BULK_LINKS_MAX as usize + 4);
pub(super) const NOT_PAUSED: &str = "only a postcopy that is paused can be recovered";

/// One incoming migration: its state machine, and all its resources.
pub(super) struct Driver {
    core: Destination,
    machine: Arc<Machine>,
    migration_id: Option<u128>,
    progress: Arc<Progress>,
    timers: Timers,
    events: Sender<Event>,
    /// The order in which it handles events.
    order: Order,
    links: Links,
    package: Package,
    record: Record,
    pages: Pages,
    jobs: Option<Sender<MachineJob>>,
    threads: Vec<JoinHandle<()>>,
    paused: bool,
    outcome: Option<Outcome>,
}

impl Driver {
    /// Listens from now on; no source has connected yet.
    pub(super) fn new(
        machine: Arc<Machine>,
        listener: Listener,
        parameters: &Parameters,
        progress: Arc<Progress>,
        events: Sender<Event>,
        own_record: Option<Arc<OwnRecord>>,
    ) -> std::io::Result<Self> {
        let (jobs, worker) = machine_worker(machine.clone(), progress.clone(), events.clone())?;
        let links = Links::new(listener, events.clone(), machine.faults().clone())?;
        let now = Instant::now();
        Ok(Driver {
            core: Destination::new(),
            machine,
            migration_id: None,
            progress,
            timers: Timers::new(Durations::new(parameters)),
            events,
            order: Order::default(),
            links,
            package: Package {
                filled: None,
                attachment: (Vec::new(), now),
                gathered: now,
                ready: None,
                permitted: now,
                passed: Vec::new(),
                preparing: None,
            },
            record: Record::new(own_record, parameters.disk),
            pages: Pages::default(),
            jobs: Some(jobs),
            threads: vec![worker],
            paused: false,
            outcome: None,
        })
    }

    /// The address at which it listens, updated when it changes.
    pub(super) fn bound(&self) -> Arc<Mutex<Bound>> {
        self.links.bound.clone()
    }

    /// Waits for a source and runs its migration to completion; releases all resources.
    pub(super) fn run(mut self, inbox: &Receiver<Event>) -> Outcome {
        while self.outcome.is_none() {
            let wake_at = [self.record.call.deadline(), self.record.disk_look].into_iter().flatten().min();
            match self.order.next(inbox, &mut self.timers, &mut self.links.loss, wake_at, self.links.unread.as_ref()) {
                Next::Nothing => self.storage_is_late(),
                Next::Timer(Timer::Setup) => self.setup_is_over(),
                Next::Timer(Timer::PeerSilent) if self.is_being_told() => self.timers.start(Timer::PeerSilent),
                Next::Timer(timer) => self.input(Input::Timer(timer)),
                Next::PagesLost(reason) => self.input(Input::LinkLost(reason)),
                Next::Event(event) => self.event(event),
            }
        }
        self.wind_up(inbox)
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Input(input) => self.input(input),
            Event::Marker(marker, _ticket) => self.input(Input::MarkerReached(marker)),
            Event::Prepared(result) => self.prepared(result),
            Event::Record(serial, input) => {
                if self.record.call.answered(serial) {
                    self.found(&input);
                    self.input(input);
                }
            }
            Event::DiskSeen(result) => self.disk_seen(result),
            Event::Armed(postcopy, thread) => self.armed(postcopy, thread),
            Event::Arriving(News::Arrived(arrival)) => self.arrived(arrival),
            Event::Arriving(News::Failed(error)) => self.listening_failed(&error),
            Event::Command(request) => {
                // A command that its caller has withdrawn is ignored.
                if let Some((command, answer)) = request.take() {
                    self.command(command, &answer);
                }
            }
            Event::OfLink(connection, event) if connection == self.links.connection => self.link_event(event),
            // Late events of a replaced connection are ignored.
            Event::OfLink(..) => {}
        }
    }

    fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::FirstMessage(message, attachment, passed, _ticket) => {
                self.package.passed = passed;
                self.message(message, attachment);
                // Descriptors that the message did not take are closed.
                self.package.passed.clear();
            }
            LinkEvent::Message(message, attachment, _ticket) => self.message(message, attachment),
            LinkEvent::PagesLost(reason) => self.links.loss.hold(reason),
            LinkEvent::Lost(reason) => {
                self.links.reading = false;
                self.input(Input::LinkLost(reason));
            }
            LinkEvent::SendFailed(reason) => self.input(Input::LinkLost(reason)),
        }
    }

    fn input(&mut self, input: Input) {
        tracing::debug!(?input, "destination");
        ferry_observe::trace::input(&input);
        if matches!(input, Input::MarkerReached(_)) {
            self.package.gathered = Instant::now();
            // The first round is over, and chunks that it has not touched may stay untouched.
            self.pages.populating.stop();
        }
        let trouble = explain::trouble(&input);
        if let (Input::Started(Err(_)), Some(postcopy)) = (&input, &self.pages.postcopy) {
            postcopy.faults.guest_not_started();
        }
        let outputs = self.core.step(input);
        self.explain(&outputs, &trouble);
        self.take_leave(&outputs, trouble);
        self.perform(outputs);
    }

    fn message(&mut self, message: ToDestination, attachment: Vec<u8>) {
        self.links.heard = self.bytes_heard();
        self.machine.faults().reach(Direction::Incoming, Moment::Received, message.name());
        match message {
            ToDestination::Permit { .. } => {
                self.package.permitted = Instant::now();
                if let Err(error) = self.machine.adopt_requests(&attachment) {
                    return self.input(Input::LinkLost(format!("the attachment of Permit does not decode: {error}")));
                }
            }
            ToDestination::Hello { .. } | ToDestination::Rehearse | ToDestination::Package { .. } => {
                self.package.attachment = (attachment, Instant::now());
            }
            ToDestination::Drained => {
                if let Some(postcopy) = &self.pages.postcopy {
                    postcopy.requests.all_sent();
                }
            }
            // The source has found a link lost, and reports which.
            ToDestination::Cancel { reason } if self.core.is_in_postcopy() => {
                return self.input(Input::LinkLost(format!("the source has broken the connection: {reason}")));
            }
            _ => {}
        }
        self.input(Input::Message(message));
    }

    fn perform(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            tracing::debug!(?output, "destination");
            ferry_observe::trace::step(output.name(), &output);
            self.machine.faults().reach(Direction::Incoming, Moment::Step, output.name());
            match output {
                Output::CheckGreeting => {
                    if let Err(reason) = self.check_greeting() {
                        self.input(Input::Checked(Err(reason)));
                    }
                }
                Output::ReceivePages => {
                    self.progress.set_handshake(self.core.handshake());
                    self.progress.set_status(Status::Active);
                    self.pages.receiving = true;
                    self.populate();
                    self.receive_pages();
                }
                Output::Send(mut message) => {
                    match &mut message {
                        ToSource::Ready { .. } => self.package.ready = Some(Instant::now()),
                        ToSource::Started { permit_us, .. } => {
                            let waited =
                                self.package.ready.map(|ready| self.package.permitted.saturating_duration_since(ready));
                            *permit_us = waited.unwrap_or_default().as_micros() as u64;
                            self.started();
                        }
                        _ => {}
                    }
                    self.send(&message);
                }
                Output::StartTimer(timer) => self.timers.start(timer),
                Output::StopTimer(timer) => self.timers.stop(timer),
                Output::Load { rehearsal: true, .. } if self.pages.as_a_whole => self.refuse_rehearsal(),
                Output::Load { rehearsal, postcopy } => self.load(rehearsal, postcopy),
                Output::Claim => self.claim(),
                Output::GiveBack => self.give_back(),
                Output::Settle => self.settle_record(),
                Output::Paused => self.pause(),
                Output::Resumed => self.resumed(),
                Output::LoseGuest(reason) => {
                    self.lose_guest(&reason);
                    self.say_lost(&reason);
                }
                Output::Start => self.start_guest(),
                Output::Interrupt => self.machine.interrupt_faults(),
                Output::CloseLinks => self.close_links(),
                Output::Finish(outcome) => self.outcome = Some(outcome),
            }
        }
    }
}
