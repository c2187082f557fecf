//! The thread that carries a destination's state machine: events in, outputs carried out, in order.
//!
//! Started by [`Incoming::listen`](super::Incoming::listen). It waits only for its inbox and its timers; what blocks is done by
//! workers, and everything that was opened or started here is gone when it ends.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferry_migration::destination::{Destination, Input, Outcome, Output};
use ferry_migration::message::{Failure, ToDestination, ToSource};
use ferry_migration::wire::preamble::{Link, Preamble, session};
use ferry_migration::{Greeting, Parameters, Status, description};
use vmm_sys_util::eventfd::EventFd;

use super::missing::Missing;
use super::pages::{Armed, PageReceiver};
use super::worker::{LoadJob, MachineJob, machine_worker, page_worker};
use super::{Event, arrivals};
use crate::machine::Machine;
use crate::memory::userfault;
use crate::runtime::control;
use crate::runtime::inbox::{HeldLoss, Next, next};
use crate::runtime::progress::Progress;
use crate::runtime::record::{HandoverRecord, OwnRecord};
use crate::runtime::stream::{Listener, Stream};
use crate::runtime::timers::{Durations, Timers};

/// Longest that one message may wait in a full socket before the link counts as lost.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest that the source may take to read this side's last word.
const FAREWELL: Duration = Duration::from_secs(1);

/// One incoming migration: its state machine, and everything that it has in hand.
pub(super) struct Driver {
    core: Destination,
    machine: Arc<Machine>,
    migration_id: Option<u128>,
    progress: Arc<Progress>,
    timers: Timers,
    events: Sender<Event>,
    stop_listening: EventFd,
    jobs: Option<Sender<MachineJob>>,
    threads: Vec<JoinHandle<()>>,
    /// The control link's reader has not said that it has ended.
    reading: bool,
    control: Option<control::Sender>,
    links: Vec<Stream>,
    loss: HeldLoss,
    /// Sources that came second: their links stay open until this migration ends, so that they can read why.
    refused: Vec<control::Sender>,
    receiving: bool,
    bulk_links: Vec<(u8, Stream)>,
    /// The newest attachment and when it arrived.
    attachment: (Vec<u8>, Instant),
    gathered: Instant,
    permitted: Instant,
    /// Counts connections: what a link of an earlier one says late is not heard.
    connection: u32,
    paused: bool,
    armed: Arc<Armed>,
    missing: Option<Arc<Missing>>,
    /// The urgent link, while the memory is not armed yet.
    urgent: Option<Stream>,
    own_record: Option<Arc<OwnRecord>>,
    record: Option<Arc<HandoverRecord>>,
    outcome: Option<Outcome>,
}

/// What the ownership record can be asked.
#[derive(Clone, Copy, Debug)]
enum Question {
    Claim,
    GiveBack,
    Settle,
}

impl Driver {
    /// Listens from now on; nobody has connected yet.
    pub(super) fn new(
        machine: Arc<Machine>,
        listener: Listener,
        parameters: &Parameters,
        progress: Arc<Progress>,
        events: Sender<Event>,
        own_record: Option<Arc<OwnRecord>>,
    ) -> std::io::Result<Self> {
        let (jobs, worker) = machine_worker(machine.clone(), events.clone())?;
        let stop_listening = EventFd::new(libc::EFD_CLOEXEC)?;
        let accepting = arrivals::listen(listener, stop_listening.try_clone()?, events.clone())?;
        let now = Instant::now();
        Ok(Driver {
            core: Destination::new(),
            machine,
            migration_id: None,
            progress,
            timers: Timers::new(Durations::new(parameters)),
            events,
            stop_listening,
            jobs: Some(jobs),
            threads: vec![worker, accepting],
            reading: false,
            control: None,
            links: Vec::new(),
            loss: HeldLoss::default(),
            refused: Vec::new(),
            receiving: false,
            bulk_links: Vec::new(),
            attachment: (Vec::new(), now),
            gathered: now,
            permitted: now,
            connection: 0,
            paused: false,
            armed: Arc::default(),
            missing: None,
            urgent: None,
            own_record,
            record: None,
            outcome: None,
        })
    }

    /// Lives through it.
    pub(super) fn run(mut self, inbox: &Receiver<Event>) -> Outcome {
        while self.outcome.is_none() {
            match next(inbox, &mut self.timers, &mut self.loss, None) {
                Next::Nothing => {}
                Next::Timer(timer) => self.input(Input::Timer(timer)),
                Next::Event(Event::Input(input)) => self.input(input),
                Next::PagesLost(reason) => self.input(Input::LinkLost(reason)),
                Next::Event(Event::PagesLost(connection, reason)) if connection == self.connection => {
                    self.loss.hold(reason);
                }
                Next::Event(Event::Armed(missing, thread)) => self.armed(missing, thread),
                Next::Event(Event::Message(message, attachment)) => self.message(message, attachment),
                Next::Event(Event::ControlLost(connection, reason)) if connection == self.connection => {
                    self.reading = false;
                    self.input(Input::LinkLost(reason));
                }
                Next::Event(Event::PagesLost(..) | Event::ControlLost(..)) => {}
                Next::Event(Event::Arrived(preamble, stream)) => self.arrived(preamble, stream),
                Next::Event(Event::ListenFailed(error)) => {
                    self.input(Input::LinkLost(format!("cannot take connections: {error}")));
                }
            }
        }
        self.wind_up(inbox)
    }

    fn input(&mut self, input: Input) {
        tracing::debug!(?input, "destination");
        if matches!(input, Input::MarkerReached(_)) {
            self.gathered = Instant::now();
        }
        let outputs = self.core.step(input);
        self.perform(outputs);
    }

    fn message(&mut self, message: ToDestination, attachment: Vec<u8>) {
        match message {
            ToDestination::Permit { .. } => self.permitted = Instant::now(),
            ToDestination::Hello { .. } | ToDestination::Rehearse | ToDestination::Package { .. } => {
                self.attachment = (attachment, Instant::now());
            }
            _ => {}
        }
        self.input(Input::Message(message));
    }

    fn arrived(&mut self, preamble: Preamble, stream: Stream) {
        match (preamble.link, self.migration_id) {
            (Link::Control, None) => {
                self.migration_id = Some(preamble.migration_id);
                self.progress.set_status(Status::Setup);
                self.begin(preamble.migration_id, stream);
                let first = self.core.start();
                self.perform(first);
            }
            (Link::Control, Some(id)) if id == preamble.migration_id && self.paused => {
                self.connection += 1;
                self.loss = HeldLoss::default();
                self.begin(id, stream);
            }
            (Link::Control, Some(_)) => {
                let busy = ToSource::Refused { reason: "another migration to this destination is going on".to_owned() };
                let mut second = control::Sender::new(stream, session(preamble.migration_id));
                match second.send(&busy, &[]) {
                    Ok(()) => second.stream().finish_sending(),
                    Err(error) => tracing::info!(%error, "a second source left before it was refused"),
                }
                self.refused.push(second);
            }
            (Link::Bulk(index), Some(id)) if id == preamble.migration_id => {
                self.bulk_links.push((index, stream.clone()));
                self.links.push(stream);
                self.receive_pages();
            }
            (Link::Urgent, Some(id)) if id == preamble.migration_id => self.urgent_arrived(id, stream),
            (Link::Bulk(_) | Link::Urgent, _) => {
                tracing::warn!("a page link of a migration that is not known was closed")
            }
        }
    }

    fn begin(&mut self, migration_id: u128, stream: Stream) {
        self.links.push(stream.clone());
        let connection = self.connection;
        let started = stream.set_write_timeout(Some(SEND_TIMEOUT)).and_then(|()| {
            let receiver = control::Receiver::new(stream.clone(), session(migration_id));
            let events = self.events.clone();
            std::thread::Builder::new()
                .name("ferry-dst-recv".into())
                .spawn(move || read_control(receiver, connection, &events))
        });
        self.control = Some(control::Sender::new(stream, session(migration_id)));
        match started {
            Ok(thread) => {
                self.reading = true;
                self.threads.push(thread);
            }
            Err(error) => self.input(Input::LinkLost(format!("no thread for the control link: {error}"))),
        }
    }

    fn perform(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            tracing::debug!(?output, "destination");
            match output {
                Output::CheckGreeting => {
                    let result = self.check_greeting();
                    self.input(Input::Checked(result));
                }
                Output::ReceivePages => {
                    self.progress.set_handshake(self.core.handshake());
                    self.progress.set_status(Status::Active);
                    self.receiving = true;
                    self.receive_pages();
                }
                Output::Send(message) => self.send(&message),
                Output::StartTimer(timer) => self.timers.start(timer),
                Output::StopTimer(timer) => self.timers.stop(timer),
                Output::Load { rehearsal, postcopy } => {
                    let (package, arrived) = (std::mem::take(&mut self.attachment.0), self.attachment.1);
                    let gathered = if rehearsal { arrived } else { self.gathered };
                    let session = self.migration_id.map_or(0, session);
                    self.job(MachineJob::Load(LoadJob { package, arrived, gathered, postcopy, session }));
                }
                Output::Claim => self.ask_record(Question::Claim),
                Output::GiveBack => self.ask_record(Question::GiveBack),
                Output::Settle => self.ask_record(Question::Settle),
                Output::Paused => self.pause(),
                Output::Resumed => {
                    self.paused = false;
                    self.progress.set_status(Status::PostcopyActive);
                }
                Output::LoseGuest(reason) => self.lose_guest(&reason),
                Output::Start => self.start_guest(),
                Output::Interrupt => self.machine.interrupt_faults(),
                Output::CloseLinks => self.close_links(),
                Output::Finish(outcome) => self.outcome = Some(outcome),
            }
        }
    }

    fn check_greeting(&mut self) -> Result<bool, String> {
        let bytes = std::mem::take(&mut self.attachment.0);
        let greeting: Greeting =
            postcard::from_bytes(&bytes).map_err(|error| format!("its greeting does not decode: {error}"))?;
        description::check(&greeting.machine, self.machine.description()).map_err(|error| error.to_string())?;
        self.timers.durations.heartbeat = Duration::from_millis(greeting.heartbeat_timeout_ms.clamp(100, 600_000));
        self.machine.memory().discard().map_err(|error| format!("its memory cannot be emptied: {error}"))?;
        if self.core.may_go_postcopy() {
            userfault::support(self.machine.memory().backing())
                .map_err(|error| format!("postcopy is not possible here: {}", crate::runtime::causes(&error)))?;
        }
        tracing::info!(vm = greeting.vm, "incoming migration");
        let shared = match (&self.own_record, greeting.record) {
            (Some(own), Some(announced)) if own.shows(announced.nonce) => {
                self.record = Some(Arc::new(own.incoming(announced.handover)));
                true
            }
            _ => false,
        };
        Ok(shared)
    }

    fn start_guest(&mut self) {
        if let Some(missing) = &self.missing
            && let Err(error) = missing.faults.guest_started()
        {
            let failure = Failure { device: "memory".to_owned(), reason: crate::runtime::causes(&error) };
            return self.input(Input::Started(Err(failure)));
        }
        self.job(MachineJob::Start(self.permitted));
    }

    fn armed(&mut self, missing: Arc<Missing>, thread: JoinHandle<()>) {
        self.threads.push(thread);
        if let Some(stream) = self.urgent.take() {
            missing.connect(stream);
        }
        self.armed.set(missing.clone());
        self.missing = Some(missing);
        self.progress.set_status(Status::PostcopyActive);
    }

    /// Requests go out on it, and the pages asked for come back.
    fn urgent_arrived(&mut self, migration_id: u128, stream: Stream) {
        self.links.push(stream.clone());
        match &self.missing {
            Some(missing) => missing.connect(stream.clone()),
            None => self.urgent = Some(stream.clone()),
        }
        self.receive_from(migration_id, stream, "urgent", false);
    }

    fn pause(&mut self) {
        self.paused = true;
        if let Some(missing) = &self.missing {
            missing.disconnect();
        }
        for link in self.links.drain(..) {
            link.shutdown();
        }
        self.progress.set_status(Status::PostcopyPaused);
    }

    /// Its vCPUs wait for pages that will not come; a client reads why.
    fn lose_guest(&self, reason: &str) {
        tracing::error!(reason, "the guest is lost");
        self.machine.quit_because("host-error");
    }

    /// Asks the ownership record on a thread of its own: storage may take its time.
    fn ask_record(&mut self, question: Question) {
        let Some(record) = self.record.clone() else {
            // Without a record the handshake is never `owned`, and the state machine asks nothing.
            return;
        };
        let events = self.events.clone();
        let ask = move || {
            let input = match question {
                Question::Claim => Input::Claimed(record.claim()),
                Question::GiveBack => Input::GaveBack(record.give_back()),
                Question::Settle => return record.settle(),
            };
            // A driver that has ended knows the answer by other ways.
            let _ = events.send(Event::Input(input));
        };
        match std::thread::Builder::new().name("ferry-dst-record".into()).spawn(ask) {
            Ok(thread) => self.threads.push(thread),
            Err(error) => {
                tracing::error!(%error, "no thread to ask the ownership record");
                self.timers.start(ferry_migration::Timer::RetryRecord);
            }
        }
    }

    /// Takes pages from every bulk link that has arrived, as soon as the machines are known to match.
    fn receive_pages(&mut self) {
        let Some(migration_id) = self.migration_id else { return };
        if !self.receiving {
            return;
        }
        let precopy = self.missing.is_none();
        for (_, stream) in std::mem::take(&mut self.bulk_links) {
            self.receive_from(migration_id, stream, "bulk", precopy);
        }
    }

    fn receive_from(&mut self, migration_id: u128, stream: Stream, link: &'static str, precopy: bool) {
        let progress = self.progress.clone();
        let receiver = PageReceiver::new(self.machine.clone(), stream, link, session(migration_id), progress);
        match page_worker(receiver, self.armed.clone(), precopy, self.connection, self.events.clone()) {
            Ok(thread) => self.threads.push(thread),
            Err(error) => {
                // The driver holds its own channel open.
                let _ = self.events.send(Event::Input(Input::LinkLost(format!("no thread for pages: {error}"))));
            }
        }
    }

    fn send(&mut self, message: &ToSource) {
        let Some(control) = &mut self.control else { return };
        let attachment = match (message, &self.missing) {
            (ToSource::RecoverAck, Some(missing)) => missing.faults.received().encode(),
            _ => Vec::new(),
        };
        if let Err(error) = control.send(message, &attachment) {
            let reason = format!("sending {}: {}", message.name(), crate::runtime::causes(&error));
            // The driver holds its own channel open.
            let _ = self.events.send(Event::Input(Input::LinkLost(reason)));
        }
    }

    fn job(&self, job: MachineJob) {
        if let Some(jobs) = &self.jobs {
            // The worker ends only when this sender is dropped.
            let _ = jobs.send(job);
        }
    }

    /// The last word may still be on its way: the control link's reader goes on until the source has closed it too.
    fn close_links(&mut self) {
        if let Some(control) = self.control.take() {
            control.stream().finish_sending();
        }
    }

    fn await_farewell(&mut self, inbox: &Receiver<Event>) {
        let until = Instant::now() + FAREWELL;
        while self.reading {
            match inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::ControlLost(connection, _)) if connection != self.connection => {}
                Ok(Event::ControlLost(..)) | Err(_) => self.reading = false,
                Ok(_) => {}
            }
        }
    }

    fn wind_up(mut self, inbox: &Receiver<Event>) -> Outcome {
        self.close_links();
        self.await_farewell(inbox);
        for link in self.links.drain(..) {
            link.shutdown();
        }
        self.jobs = None;
        self.armed.give_up();
        if let Some(missing) = &self.missing {
            missing.stop();
            let ended = match &self.outcome {
                Some(Outcome::Completed) => missing.faults.disarm(),
                _ => missing.faults.release(),
            };
            if let Err(error) = ended {
                tracing::warn!(error = crate::runtime::causes(&error), "missing pages are still watched");
            }
        }
        // An eventfd takes 2^64 signals before a write could fail.
        let _ = self.stop_listening.write(1);
        crate::runtime::join_interrupting(&self.machine, self.threads.drain(..));
        let outcome = self.outcome.take().expect("the driver runs until there is one");
        if let Outcome::Failed(reason) = &outcome {
            self.progress.set_error(reason.clone());
            self.progress.set_status(Status::Failed);
        } else {
            self.progress.set_status(Status::Completed);
        }
        outcome
    }
}

fn read_control(mut receiver: control::Receiver, connection: u32, events: &Sender<Event>) {
    loop {
        let (event, more) = match receiver.receive::<ToDestination>() {
            Ok((message, attachment)) => (Event::Message(message, attachment), true),
            Err(error) => (Event::ControlLost(connection, crate::runtime::causes(&error)), false),
        };
        if events.send(event).is_err() || !more {
            return;
        }
    }
}
