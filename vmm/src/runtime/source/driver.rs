//! The thread that carries a source's state machine: events in, outputs carried out, in order.
//!
//! Started by [`Outgoing::start`](super::Outgoing::start). It waits only for its inbox and its timers; what blocks is done by
//! workers, and everything that was opened or started here is gone when it ends.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferry_migration::greeting::Announced;
use ferry_migration::message::{ToDestination, ToSource};
use ferry_migration::pages::PageBitmap;
use ferry_migration::source::{Input, Outcome, Output, Plan, Source};
use ferry_migration::wire::preamble::{Link, Preamble, session};
use ferry_migration::{Greeting, Handshake, Parameters, Status, package};
use vmm_sys_util::eventfd::EventFd;

use super::guest_worker::{GuestJob, guest_worker};
use super::page_worker::{self, PageJob, Reconnected, Route};
use super::pages::Controls;
use super::stopwatch::Stopwatch;
use super::{Command, Event};
use crate::endpoint::Endpoint;
use crate::machine::{Hold, Machine};
use crate::runtime::control;
use crate::runtime::inbox::{HeldLoss, Next, next};
use crate::runtime::progress::Progress;
use crate::runtime::record::HandoverRecord;
use crate::runtime::settings::Settings;
use crate::runtime::stream::Stream;
use crate::runtime::timers::{Durations, Timers};

/// Longest that one message may wait in a full socket before the link counts as lost.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// The generation of a guest that no ownership record counts.
const FIRST_GENERATION: u64 = 1;

/// One migration on the source: its state machine, and everything that it has in hand.
pub(super) struct Driver {
    core: Source,
    machine: Arc<Machine>,
    to: Endpoint,
    migration_id: u128,
    progress: Arc<Progress>,
    settings: Arc<Settings>,
    timers: Timers,
    stopwatch: Stopwatch,
    events: Sender<Event>,
    cancel: EventFd,
    controls: Controls,
    guest_jobs: Option<Sender<GuestJob>>,
    page_jobs: Option<Sender<PageJob>>,
    threads: Vec<JoinHandle<()>>,
    control: Option<control::Sender>,
    links: Vec<Stream>,
    loss: HeldLoss,
    /// Counts connections: what a link of an earlier one says late is not heard.
    epoch: u32,
    /// Framed sections for the next message that carries them.
    state: Vec<u8>,
    /// Postcopy: the pages that remained at the switchover.
    remaining: Option<PageBitmap>,
    /// Postcopy, while recovering: the pages that the destination has.
    received: Option<PageBitmap>,
    /// Postcopy, while recovering: where the destination listens now.
    recover_to: Option<Endpoint>,
    record: Option<Arc<HandoverRecord>>,
    outcome: Option<Outcome>,
}

/// What the parameters, the capability and the record come to.
fn plan(parameters: &Parameters, postcopy: bool, record: Option<&HandoverRecord>) -> Plan {
    let handshake = match (parameters.handshake, record) {
        (Some(Handshake::Owned) | None, None) => Handshake::Setup,
        (None, Some(_)) => Handshake::Owned,
        (Some(asked), _) => asked,
    };
    Plan {
        generation: record.map_or(FIRST_GENERATION, |record| record.handover().generation()),
        rehearse: parameters.rehearsal,
        postcopy,
        handshake,
        insist_on_record: parameters.handshake == Some(Handshake::Owned),
    }
}

/// What the ownership record can be asked.
#[derive(Clone, Copy, Debug)]
enum Question {
    Announce,
    TakeBack,
}

impl Driver {
    /// Prepares a migration; nothing has been sent yet.
    pub(super) fn new(
        machine: Arc<Machine>,
        to: Endpoint,
        settings: Arc<Settings>,
        progress: Arc<Progress>,
        events: Sender<Event>,
        (migration_id, record): (u128, Option<Arc<HandoverRecord>>),
    ) -> std::io::Result<Self> {
        let parameters = settings.parameters();
        let plan = plan(&parameters, settings.postcopy(), record.as_deref());
        let (guest_jobs, guest_thread) = guest_worker(machine.clone(), events.clone())?;
        let controls = Controls {
            stop: Arc::default(),
            end_round: Arc::default(),
            arrived: Arc::default(),
            patience: Duration::from_millis(parameters.heartbeat_timeout_ms),
            max_bandwidth: settings.max_bandwidth(),
            progress: progress.clone(),
        };
        Ok(Driver {
            core: Source::new(plan),
            machine,
            to,
            migration_id,
            progress,
            settings,
            timers: Timers::new(Durations::new(&parameters)),
            stopwatch: Stopwatch::default(),
            events,
            cancel: EventFd::new(libc::EFD_CLOEXEC)?,
            controls,
            guest_jobs: Some(guest_jobs),
            page_jobs: None,
            threads: vec![guest_thread],
            control: None,
            links: Vec::new(),
            loss: HeldLoss::default(),
            epoch: 0,
            state: Vec::new(),
            remaining: None,
            received: None,
            recover_to: None,
            record,
            outcome: None,
        })
    }

    /// Lives through it.
    pub(super) fn run(mut self, inbox: &Receiver<Event>) {
        let first = self.core.start();
        self.perform(first);
        while self.outcome.is_none() {
            // A device that was interrupted a moment before it began to hang must not be missed.
            let at_most = self.controls.stop.load(Relaxed).then_some(crate::runtime::INTERRUPT_AGAIN);
            match next(inbox, &mut self.timers, &mut self.loss, at_most) {
                Next::Nothing => self.machine.interrupt_faults(),
                Next::Timer(timer) => self.input(Input::Timer(timer)),
                Next::Event(Event::Input(input)) => self.input(input),
                Next::PagesLost(reason) => self.input(Input::LinkLost(reason)),
                Next::Event(Event::PagesLost(epoch, reason)) if epoch == self.epoch => self.loss.hold(reason),
                Next::Event(Event::ControlLost(epoch, reason)) if epoch == self.epoch => {
                    self.input(Input::LinkLost(reason));
                }
                Next::Event(Event::PagesLost(..) | Event::ControlLost(..)) => {}
                Next::Event(Event::State(state)) => self.state = state,
                Next::Event(Event::Remaining(pages)) => self.remaining = Some(pages),
                Next::Event(Event::Attached(message, attachment)) => self.attached(message, &attachment),
                Next::Event(Event::Control(stream)) => self.control_is_open(stream),
                Next::Event(Event::Link(stream)) => self.links.push(stream),
                Next::Event(Event::Command(command, answer)) => self.command(command, &answer),
            }
        }
        self.wind_up();
    }

    fn input(&mut self, input: Input) {
        tracing::debug!(?input, "source");
        if let Input::Message(ToSource::MarkerReached { marker }) = input {
            self.controls.arrived.tell(marker);
        }
        self.stopwatch.note_input(&input);
        let trouble = match &input {
            Input::LinkLost(reason) => reason.clone(),
            _ => "the destination did not answer in time".to_owned(),
        };
        let outputs = self.core.step(input);
        if outputs.contains(&Output::Status(Status::Uncertain)) {
            self.progress.set_error(format!(
                "{trouble}, after the permit was sent: the destination may run the guest. Look there; this side keeps it stopped"
            ));
        }
        self.perform(outputs);
    }

    fn command(&mut self, command: Command, answer: &Sender<Result<(), &'static str>>) {
        let input = match command {
            Command::Cancel => Input::Cancel,
            Command::StartPostcopy => Input::StartPostcopy,
            Command::Pause => Input::Pause,
            Command::Resolve(owner) => Input::Resolve(owner),
            Command::Recover(to) => {
                self.recover_to = Some(to);
                Input::Recover
            }
        };
        let outputs = self.core.step(input);
        let refused = outputs.iter().find_map(|o| if let Output::Refuse(why) = o { Some(*why) } else { None });
        // Nobody waits for the answer when the client has gone.
        let _ = answer.send(refused.map_or(Ok(()), Err));
        self.perform(outputs);
    }

    /// A recover's answer: what the destination has, it need not be sent.
    fn attached(&mut self, message: ToSource, attachment: &[u8]) {
        if message == ToSource::RecoverAck {
            match PageBitmap::decode(attachment, self.machine.memory().pages()) {
                Ok(received) => self.received = Some(received),
                Err(error) => return self.input(Input::LinkLost(format!("the received bitmap: {error}"))),
            }
        }
        self.input(Input::Message(message));
    }

    fn perform(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            tracing::debug!(?output, "source");
            self.stopwatch.note_output(&output);
            match output {
                Output::Status(status) => self.show(status),
                Output::Connect => self.connect(),
                Output::Send(message) => self.send(&message),
                Output::StartTimer(timer) => self.timers.start(timer),
                Output::StopTimer(timer) => self.timers.stop(timer),
                Output::SendRound => self.page_job(PageJob::Round),
                Output::EndRound => {
                    self.controls.end_round.store(true, Relaxed);
                    self.controls.arrived.wake();
                }
                Output::SendLastPages { postcopy: false } => self.page_job(PageJob::LastPages),
                Output::SendLastPages { postcopy: true } => self.page_job(PageJob::LeavePages),
                Output::ServePages => self.serve_pages(),
                Output::ServeMissingPages => self.serve_missing_pages(),
                Output::Handshake(handshake) => self.progress.set_handshake(handshake),
                Output::WriteNonce => self.ask_record(Question::Announce),
                Output::TakeBack => self.ask_record(Question::TakeBack),
                Output::Snapshot => self.guest_job(GuestJob::Snapshot),
                Output::StopGuest => self.guest_job(GuestJob::Stop),
                Output::Save => self.guest_job(GuestJob::Save),
                Output::ResumeGuest => self.guest_job(GuestJob::Resume),
                Output::Interrupt => self.interrupt(),
                Output::HandOver => self.hand_over(),
                Output::CloseLinks => self.close_links(),
                Output::Refuse(_) => {}
                Output::Finish(outcome) => self.outcome = Some(outcome),
            }
        }
    }

    /// Ends are shown in `wind_up`, when everything of this attempt has been released and the next one can begin.
    fn show(&self, status: Status) {
        if !matches!(status, Status::Completed | Status::Failed | Status::Cancelled) {
            self.progress.set_status(status);
        }
    }

    fn connect(&mut self) {
        if let Some(to) = self.recover_to.take() {
            self.to = to;
            // The break has signalled the one before.
            match EventFd::new(libc::EFD_CLOEXEC) {
                Ok(cancel) => self.cancel = cancel,
                Err(error) => {
                    let reason = format!("no eventfd can be had: {error}");
                    let _ = self.events.send(Event::Input(Input::LinkLost(reason)));
                    return;
                }
            }
            self.controls.stop.store(false, Relaxed);
            self.epoch += 1;
            self.loss = HeldLoss::default();
        }
        let (to, events) = (self.to.clone(), self.events.clone());
        let deadline = Instant::now() + self.timers.durations.setup;
        let preamble = Preamble { migration_id: self.migration_id, link: Link::Control };
        let cancel = self.cancel.try_clone();
        let connect = move || {
            let opened = cancel.and_then(|cancel| Stream::connect(&to, deadline, &cancel)).and_then(|stream| {
                stream.set_write_timeout(Some(SEND_TIMEOUT))?;
                stream.write_all(&preamble.encode())?;
                Ok(stream)
            });
            let event = match opened {
                Ok(stream) => Event::Control(stream),
                Err(error) => Event::Input(Input::LinkLost(format!("cannot connect to {to}: {error}"))),
            };
            // The driver may have been cancelled meanwhile; the stream then closes here.
            let _ = events.send(event);
        };
        self.spawn("ferry-src-connect", connect);
    }

    fn control_is_open(&mut self, stream: Stream) {
        let session = session(self.migration_id);
        self.links.push(stream.clone());
        self.control = Some(control::Sender::new(stream.clone(), session));
        let (events, epoch) = (self.events.clone(), self.epoch);
        self.spawn("ferry-src-recv", move || {
            let mut receiver = control::Receiver::new(stream, session);
            loop {
                let (event, more) = match receiver.receive::<ToSource>() {
                    Ok((message, attachment)) if attachment.is_empty() => (Event::Input(Input::Message(message)), true),
                    Ok((message, attachment)) => (Event::Attached(message, attachment), true),
                    Err(error) => (Event::ControlLost(epoch, crate::runtime::causes(&error)), false),
                };
                if events.send(event).is_err() || !more {
                    return;
                }
            }
        });
        self.input(Input::Connected);
    }

    fn send(&mut self, message: &ToDestination) {
        let attachment = match message {
            ToDestination::Hello { .. } => self.greeting(),
            ToDestination::Rehearse => package::encode(&std::mem::take(&mut self.state), None),
            ToDestination::Package { .. } => package::encode(&std::mem::take(&mut self.state), self.remaining.as_ref()),
            _ => Vec::new(),
        };
        let Some(control) = &mut self.control else { return };
        if let Err(error) = control.send(message, &attachment) {
            // The state machine hears of it as of any loss, after what it is doing now.
            let reason = format!("sending {}: {}", message.name(), crate::runtime::causes(&error));
            let _ = self.events.send(Event::Input(Input::LinkLost(reason)));
        }
    }

    fn greeting(&self) -> Vec<u8> {
        let greeting = Greeting {
            vm: self.machine.name().to_owned(),
            machine: self.machine.description().clone(),
            bulk_links: 1,
            record: self
                .record
                .as_ref()
                .map(|record| Announced { handover: record.handover().clone(), nonce: record.nonce() }),
            heartbeat_timeout_ms: self.timers.durations.heartbeat.as_millis() as u64,
        };
        postcard::to_stdvec(&greeting).expect("a greeting is plain data")
    }

    fn guest_job(&self, job: GuestJob) {
        if let Some(jobs) = &self.guest_jobs {
            // The worker ends only when this sender is dropped.
            let _ = jobs.send(job);
        }
    }

    fn page_job(&mut self, job: PageJob) {
        if self.page_jobs.is_none() && self.start_page_worker().is_err() {
            let reason = "the page thread could not be started".to_owned();
            let _ = self.events.send(Event::Input(Input::LinkLost(reason)));
        }
        if let Some(jobs) = &self.page_jobs {
            // A worker that has failed has said so.
            let _ = jobs.send(job);
        }
    }

    fn serve_pages(&mut self) {
        let remaining = self.remaining.clone().unwrap_or_else(|| PageBitmap::new(self.machine.memory().pages()));
        self.page_job(PageJob::Serve(remaining));
    }

    /// After a break: what remained at the switchover, less what the destination says it has.
    fn serve_missing_pages(&mut self) {
        let mut missing = self.remaining.clone().unwrap_or_else(|| PageBitmap::new(self.machine.memory().pages()));
        if let Some(received) = &self.received {
            missing.subtract(received);
        }
        match self.cancel.try_clone() {
            Ok(cancel) => {
                let connection = Reconnected { to: self.to.clone(), cancel, epoch: self.epoch };
                self.page_job(PageJob::ServeAgain(missing, connection));
            }
            Err(error) => {
                let reason = format!("no eventfd can be had: {error}");
                let _ = self.events.send(Event::Input(Input::LinkLost(reason)));
            }
        }
    }

    /// Asks the ownership record on a thread of its own: storage may take its time.
    fn ask_record(&mut self, question: Question) {
        let Some(record) = self.record.clone() else {
            // Without a record the handshake is never `owned`, and the state machine asks nothing.
            return;
        };
        let events = self.events.clone();
        self.spawn("ferry-src-record", move || {
            let input = match question {
                Question::Announce => Input::NonceWritten(record.announce().map_err(|e| crate::runtime::causes(&e))),
                Question::TakeBack => Input::TookBack(record.take_back()),
            };
            // A driver that has ended knows the answer by other ways.
            let _ = events.send(Event::Input(input));
        });
    }

    fn start_page_worker(&mut self) -> std::io::Result<()> {
        let route = Route {
            to: self.to.clone(),
            migration_id: self.migration_id,
            cancel: self.cancel.try_clone()?,
            setup: self.timers.durations.setup,
        };
        let (jobs, thread) = page_worker::start(
            self.machine.clone(),
            route,
            self.controls.clone(),
            self.settings.clone(),
            self.events.clone(),
        )?;
        self.page_jobs = Some(jobs);
        self.threads.push(thread);
        Ok(())
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) {
        match std::thread::Builder::new().name(name.to_owned()).spawn(run) {
            Ok(thread) => self.threads.push(thread),
            Err(error) => {
                let reason = format!("no thread can be started: {error}");
                let _ = self.events.send(Event::Input(Input::LinkLost(reason)));
            }
        }
    }

    fn interrupt(&self) {
        self.controls.stop.store(true, Relaxed);
        self.controls.arrived.wake();
        self.machine.interrupt_faults();
    }

    fn hand_over(&mut self) {
        if let Err(error) = self.machine.hold(Hold::HandedOver) {
            tracing::error!(%error, "the machine could not be marked as handed over; its vCPUs are stopped all the same");
        }
    }

    fn close_links(&mut self) {
        // An eventfd takes 2^64 signals before a write could fail.
        let _ = self.cancel.write(1);
        for link in self.links.drain(..) {
            link.shutdown();
        }
        self.control = None;
    }

    fn wind_up(mut self) {
        self.interrupt();
        self.close_links();
        self.guest_jobs = None;
        self.page_jobs = None;
        crate::runtime::join_interrupting(&self.machine, self.threads.drain(..));
        let status = match self.outcome.take() {
            Some(Outcome::Completed) => {
                self.progress.set_downtime(self.stopwatch.downtime());
                Status::Completed
            }
            Some(Outcome::Failed(reason) | Outcome::Stranded(reason)) => {
                self.progress.set_error(reason);
                Status::Failed
            }
            _ => Status::Cancelled,
        };
        self.progress.set_status(status);
    }
}
