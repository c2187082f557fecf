//! The thread that runs a source's state machine: events in, outputs carried out, in order.
//!
//! Started by [`Outgoing::start`](super::Outgoing::start). It waits only for its inbox and its
//! timers; workers do the blocking work, and everything that was opened or started here is released
//! when it ends. [`links`] opens, uses and closes the links, [`jobs`] hands work to the workers,
//! [`record`] asks the ownership record, [`throttle`] slows down a guest that writes too fast,
//! [`commands`] answers clients, [`explain`] sets the errors that they see, [`identity`] describes
//! the guest and disk that both sides must share, [`adoption`] replaces the page worker if the
//! memory is handed over as a whole, [`plan()`] derives the plan of the migration, [`end`] winds
//! up.

mod adoption;
mod commands;
mod end;
mod explain;
mod identity;
mod jobs;
mod links;
mod plan;
mod proof;
mod record;
mod state;
mod throttle;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Instant;

use ferry_devices::fault::{Direction, Moment};
use ferry_link::endpoint::Endpoint;
use ferry_machine::{Hold, Machine};
use ferry_migration::message::ToSource;
use ferry_migration::pages::PageBitmap;
use ferry_migration::source::{Input, Outcome, Output, Source, TakeBack};
use ferry_migration::{Status, Timer};
use ferry_record::{HandoverRecord, OwnRecord};

use self::plan::plan;
use self::proof::Proof;
use self::state::{Links, Package, Pages, Question, Record};
use self::throttle::Throttle;
use super::controls::Controls;
use super::events::{Event, GuestDone, LinkEvent, PagesDone};
use super::guest_worker::{GuestJob, Order, guest_worker};
use super::page_worker::PageJob;
use super::patience::Patience;
use super::stopwatch::Stopwatch;
use crate::error::MigrationError;
use crate::inbox::{self, Next};
use crate::progress::Progress;
use crate::settings::Settings;
use crate::timers::{Durations, Timers};

/// One migration on the source: its state machine, and all its resources.
pub(super) struct Driver {
    core: Source,
    machine: Arc<Machine>,
    migration_id: u128,
    progress: Arc<Progress>,
    settings: Arc<Settings>,
    timers: Timers,
    stopwatch: Stopwatch,
    events: Sender<Event>,
    /// The order in which it handles events.
    order: inbox::Order,
    links: Links,
    package: Package,
    record: Record,
    pages: Pages,
    /// Shown while the destination looks for it.
    proof: Proof,
    guest_jobs: Option<Sender<Order>>,
    /// Jobs that the guest's worker has not answered yet.
    guest_jobs_open: u32,
    threads: Vec<JoinHandle<()>>,
    /// When a device that hangs is interrupted again.
    interrupt_at: Option<Instant>,
    outcome: Option<Outcome>,
}

impl Driver {
    /// Prepares a migration; nothing has been sent yet.
    ///
    /// # Errors
    /// When a thread or an eventfd cannot be created, or the requested handshake needs a record
    /// that this migration does not have.
    pub(super) fn new(
        machine: Arc<Machine>,
        to: Endpoint,
        settings: Arc<Settings>,
        progress: Arc<Progress>,
        events: Sender<Event>,
        (migration_id, own_record, record): (u128, Option<Arc<OwnRecord>>, Option<Arc<HandoverRecord>>),
    ) -> Result<Self, MigrationError> {
        let parameters = settings.parameters();
        let plan = plan(&parameters, settings.postcopy(), (own_record.as_deref(), record.as_deref()))?;
        if parameters.local {
            progress.set_local();
        }
        let (guest_jobs, guest_thread) =
            guest_worker(machine.clone(), record.clone(), events.clone()).map_err(MigrationError::Host)?;
        let durations = Durations::new(&parameters);
        let controls = Controls {
            stop: Arc::default(),
            end_round: Arc::default(),
            arrived: Arc::default(),
            patience: Arc::new(Patience::new(durations.heartbeat, durations.load)),
            max_bandwidth: settings.max_bandwidth(),
            progress: progress.clone(),
        };
        let bulk_links = settings.bulk_links();
        let throttle = Throttle::new(machine.clone(), progress.clone());
        Ok(Driver {
            core: Source::new(plan),
            machine,
            migration_id,
            progress,
            settings,
            timers: Timers::new(durations),
            stopwatch: Stopwatch::default(),
            events,
            order: inbox::Order::default(),
            links: Links::new(to, bulk_links).map_err(MigrationError::Host)?,
            package: Package::default(),
            record: Record::new(own_record, record, parameters.handshake.is_none()),
            pages: Pages { controls, throttle, jobs: None, as_a_whole: parameters.local, passed_mark: None },
            proof: Proof::new(parameters.disk),
            guest_jobs: Some(guest_jobs),
            guest_jobs_open: 0,
            threads: vec![guest_thread],
            interrupt_at: None,
            outcome: None,
        })
    }

    /// Runs the migration to completion, and releases all resources.
    pub(super) fn run(mut self, inbox: &Receiver<Event>) {
        let first = self.core.start();
        self.perform(first);
        while self.outcome.is_none() {
            let wake_at = [self.record.call.deadline(), self.interrupt_again_at()].into_iter().flatten().min();
            match self.order.next(inbox, &mut self.timers, &mut self.links.loss, wake_at, self.links.unread.as_ref()) {
                Next::Nothing => self.wake(),
                Next::Timer(Timer::PeerSilent) if self.is_being_told() => self.timers.start(Timer::PeerSilent),
                Next::Timer(timer) => self.input(Input::Timer(timer)),
                Next::PagesLost(reason) => self.input(Input::LinkLost(reason)),
                Next::Event(event) => self.event(event),
            }
        }
        self.wind_up(inbox);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Input(input) => self.input(input),
            Event::Guest(GuestDone { input, state, stopped }) => {
                self.guest_jobs_open -= 1;
                if let Some(state) = state {
                    self.package.state = state;
                }
                if stopped.is_some() {
                    self.package.stopped = stopped;
                }
                if matches!(input, Some(Input::Stopped(_))) {
                    self.pages.throttle.end();
                }
                if let Some(input) = input {
                    self.input(input);
                }
            }
            Event::Record(serial, input) => {
                if self.record.call.answered(serial) {
                    self.input(input);
                }
            }
            Event::Command(request) => {
                // A command that its caller has withdrawn is ignored.
                if let Some((command, answer)) = request.take() {
                    self.command(command, &answer);
                }
            }
            Event::OfLink(epoch, event) if epoch == self.links.epoch => self.link_event(event),
            Event::OfLink(_, LinkEvent::Control(stream, _) | LinkEvent::Pages(stream)) => stream.shutdown(),
            // Late events of a replaced connection are ignored.
            Event::OfLink(..) => {}
        }
    }

    fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Control(stream, filled) => self.control_is_open(stream, filled),
            LinkEvent::Pages(stream) => self.links.open.push(stream),
            LinkEvent::Message(message, attachment, _ticket) => self.message(message, &attachment),
            LinkEvent::PagesDone(PagesDone { input, remaining, throttle }) => {
                if remaining.is_some() {
                    self.package.remaining = remaining;
                }
                if let Some(percentage) = throttle {
                    self.throttle(percentage);
                }
                self.input(input);
            }
            LinkEvent::Lost(reason) => self.input(Input::LinkLost(reason)),
            LinkEvent::PagesLost(reason) => self.links.loss.hold(reason),
        }
    }

    /// When to interrupt devices again: one may have begun to hang just after the last interrupt.
    fn interrupt_again_at(&mut self) -> Option<Instant> {
        let hangs = self.guest_jobs_open > 0 && self.pages.controls.stop.load(Relaxed);
        // Kept until it is due: other events do not postpone it.
        self.interrupt_at =
            hangs.then(|| self.interrupt_at.unwrap_or_else(|| Instant::now() + crate::threads::INTERRUPT_AGAIN));
        self.interrupt_at
    }

    fn wake(&mut self) {
        self.interrupt_at = None;
        match self.record.call.overdue() {
            Some(Question::Announce) => self.input(Input::NonceWritten(Err("it did not answer in time".to_owned()))),
            Some(Question::TakeBack) => self.input(Input::TookBack(TakeBack::Unreachable)),
            None => self.machine.interrupt_faults(),
        }
    }

    fn input(&mut self, input: Input) {
        tracing::debug!(?input, "source");
        ferry_observe::trace::input(&input);
        self.stopwatch.note_input(&input);
        let trouble = explain::trouble(&input, self.core.lost_after_permit());
        let outputs = self.core.step(input);
        self.explain(&outputs, &trouble);
        self.take_leave(&outputs, trouble);
        self.perform(outputs);
    }

    fn message(&mut self, message: ToSource, attachment: &[u8]) {
        self.links.heard = self.bytes_heard();
        self.machine.faults().reach(Direction::Outgoing, Moment::Received, message.name());
        // With any answer, the destination has looked for the proof.
        self.proof.end(self.machine.faults());
        match &message {
            ToSource::HelloAck { .. } => {
                if let Some(input) = self.memory_is_not_taken(attachment) {
                    return self.input(input);
                }
            }
            ToSource::MarkerReached { marker } => self.pages.controls.arrived.tell(*marker),
            // Its memory is armed, and it takes pages.
            ToSource::Ready { .. } | ToSource::Started { .. } => self.pages.controls.patience.set_loading(false),
            // The destination has found a link lost, and reports which.
            ToSource::Refused { reason } if self.progress.status() == Some(Status::PostcopyActive) => {
                return self.input(Input::LinkLost(format!("the destination has broken the connection: {reason}")));
            }
            // Pages that the destination has need not be sent.
            ToSource::RecoverAck => match PageBitmap::decode(attachment, self.machine.memory().pages()) {
                Ok(received) => self.package.received = Some(received),
                Err(error) => return self.input(Input::LinkLost(format!("the received bitmap: {error}"))),
            },
            _ => {}
        }
        self.input(Input::Message(message));
    }

    fn perform(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            tracing::debug!(?output, "source");
            ferry_observe::trace::step(output.name(), &output);
            self.machine.faults().reach(Direction::Outgoing, Moment::Step, output.name());
            self.stopwatch.note_output(&output);
            match output {
                Output::Status(status) => self.show(status),
                Output::Connect => self.connect(),
                Output::Send(message) => self.send(&message),
                Output::StartTimer(timer) => self.timers.start(timer),
                Output::StopTimer(timer) => self.timers.stop(timer),
                Output::SendRound | Output::SendLastPages { .. } if self.pages.as_a_whole => self.no_pages(&output),
                Output::SendRound => self.page_job(PageJob::Round),
                Output::EndRound => {
                    self.pages.controls.end_round.store(true, Relaxed);
                    self.pages.controls.arrived.wake();
                }
                Output::SendLastPages { postcopy } => self.last_pages(postcopy),
                Output::ServePages => {
                    self.pages.controls.patience.set_loading(true);
                    self.serve_pages();
                }
                Output::ServeMissingPages => self.serve_missing_pages(),
                Output::Handshake(handshake) => self.handshake(handshake),
                Output::WriteNonce => self.ask_record(Question::Announce),
                Output::TakeBack => self.ask_record(Question::TakeBack),
                Output::Snapshot => self.guest_job(GuestJob::Snapshot, None),
                Output::StopGuest => self.guest_job(GuestJob::Stop, None),
                Output::Save => self.save(),
                Output::ResumeGuest => {
                    let named = self.name_the_source();
                    self.guest_job(GuestJob::Resume, named);
                }
                Output::Interrupt => self.interrupt(),
                Output::HandOver => self.hand_over(),
                Output::CloseLinks => self.close_links(),
                Output::Refuse(_) => {}
                Output::Resolved(answer) => self.answer_resolve(answer),
                Output::Settle => self.settle_record(),
                Output::Finish(outcome) => self.outcome = Some(outcome),
            }
        }
    }

    /// Ends are shown in `wind_up`, when everything of this attempt has been released and the next
    /// one can begin.
    fn show(&self, status: Status) {
        if !matches!(status, Status::Completed | Status::Failed | Status::Cancelled) {
            self.progress.set_status(status);
        }
    }

    fn interrupt(&self) {
        self.pages.throttle.end();
        self.pages.controls.stop.store(true, Relaxed);
        self.pages.controls.arrived.wake();
        self.machine.interrupt_faults();
    }

    fn hand_over(&mut self) {
        if let Err(error) = self.machine.hold(Hold::HandedOver) {
            tracing::error!(%error, "the machine could not be marked as handed over; its vCPUs are stopped all the same");
        }
        if self.pages.as_a_whole {
            // It ends before this migration is shown as ended, which waits for the worker.
            self.guest_job(GuestJob::PartWithMemory, None);
        }
    }
}
