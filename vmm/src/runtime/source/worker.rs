//! The two threads that work for a source's driver, so that the driver itself always listens.
//!
//! The *guest worker* stops, saves and resumes the machine, one job after another; the *page worker* opens the bulk link and
//! sends pages. Each answers with an input for the state machine. Both end when their job channel closes.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use ferry_migration::convergence::{Convergence, RoundReport};
use ferry_migration::message::Failure;
use ferry_migration::section;
use ferry_migration::source::Input;
use ferry_migration::wire::preamble::{Link, Preamble, session};
use vmm_sys_util::eventfd::EventFd;

use crate::endpoint::Endpoint;
use crate::machine::{DeviceFailure, Hold, Machine};
use crate::runtime::control::LinkError;
use crate::runtime::settings::Settings;
use crate::runtime::source::pages::{Controls, PageSender, PagesError};
use crate::runtime::stream::Stream;

/// What reaches the driver.
#[derive(Debug)]
pub enum Event {
    /// For the state machine.
    Input(Input),
    /// The control link is open.
    Control(Stream),
    /// A bulk link is open: the driver keeps it to end it from outside.
    Bulk(Stream),
    /// A page link was lost; the text says which and how.
    PagesLost(String),
    /// State for the next `Rehearse` or `Package`, ahead of the input that announces it.
    State(Vec<u8>),
    /// The operator cancels; the answer says whether it is accepted.
    Cancel(Sender<Result<(), &'static str>>),
}

/// What the guest worker can be asked for.
#[derive(Clone, Copy, Debug)]
pub enum GuestJob {
    /// Save between two guest instructions.
    Snapshot,
    /// Stop the vCPUs, drain the devices, release the disk.
    Stop,
    /// Save the stopped machine.
    Save,
    /// Take the disk back and run.
    Resume,
}

/// Starts the guest worker.
pub fn guest_worker(
    machine: Arc<Machine>,
    events: Sender<Event>,
) -> std::io::Result<(Sender<GuestJob>, JoinHandle<()>)> {
    let (jobs, inbox) = channel();
    let run = move || {
        for job in inbox {
            let input = do_guest_job(&machine, job, &events);
            if events.send(Event::Input(input)).is_err() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("ferry-src-guest".into()).spawn(run)?;
    Ok((jobs, thread))
}

fn do_guest_job(machine: &Machine, job: GuestJob, events: &Sender<Event>) -> Input {
    let keep = |state: Vec<ferry_migration::Section>| {
        // The driver lives as long as its workers.
        let _ = events.send(Event::State(section::encode(&state)));
    };
    match job {
        GuestJob::Snapshot => Input::Snapshotted(machine.snapshot().map(keep).map_err(failure)),
        GuestJob::Stop => Input::Stopped(stop(machine)),
        GuestJob::Save => Input::Saved(machine.save().map(keep).map_err(failure)),
        GuestJob::Resume => Input::Resumed(resume(machine)),
    }
}

fn stop(machine: &Machine) -> Result<(), Failure> {
    machine.hold(Hold::Switchover).map_err(|error| machine_failure(&error))?;
    machine.quiesce().map_err(failure)?;
    machine.release_resources().map_err(failure)
}

fn resume(machine: &Machine) -> Result<(), Failure> {
    machine.release_hold().map_err(|error| {
        machine.leave_stopped();
        let mut failure = machine_failure(&error);
        failure.reason.push_str("; when that is mended, go on with cont");
        failure
    })
}

/// A device's failure, as it travels.
pub fn failure(error: DeviceFailure) -> Failure {
    Failure { device: error.device, reason: error.reason }
}

/// A failure of the machine as a whole, as it travels.
pub fn machine_failure(error: &dyn std::error::Error) -> Failure {
    Failure { device: "machine".to_owned(), reason: crate::runtime::causes(error) }
}

/// What the page worker can be asked for.
#[derive(Clone, Copy, Debug)]
pub enum PageJob {
    /// One round; the first opens the link.
    Round,
    /// What is dirty now, and a marker.
    LastPages,
}

/// Where pages go.
pub struct Route {
    /// The destination.
    pub to: Endpoint,
    /// Of this migration.
    pub migration_id: u128,
    /// Signalled when the attempt is given up.
    pub cancel: EventFd,
    /// Until when links must be open.
    pub setup_deadline: Instant,
}

/// Starts the page worker.
pub fn page_worker(
    machine: Arc<Machine>,
    route: Route,
    controls: Controls,
    settings: Arc<Settings>,
    events: Sender<Event>,
) -> std::io::Result<(Sender<PageJob>, JoinHandle<()>)> {
    let (jobs, inbox) = channel();
    let mut worker = PageWorker {
        machine,
        route,
        controls,
        settings,
        events,
        sender: None,
        rounds: Convergence::default(),
        began: Instant::now(),
    };
    let thread = std::thread::Builder::new().name("ferry-src-pages".into()).spawn(move || worker.run(&inbox))?;
    Ok((jobs, thread))
}

struct PageWorker {
    machine: Arc<Machine>,
    route: Route,
    controls: Controls,
    settings: Arc<Settings>,
    events: Sender<Event>,
    sender: Option<PageSender>,
    rounds: Convergence,
    began: Instant,
}

/// Only one switchover happens in a migration, so its marker needs no counting.
const MARKER: u32 = 1;

impl PageWorker {
    fn run(&mut self, inbox: &Receiver<PageJob>) {
        for job in inbox {
            let event = match self.job(job) {
                Ok(input) => Event::Input(input),
                // Whoever interrupted knows why.
                Err(PagesError::Interrupted) => return,
                Err(error) => Event::PagesLost(crate::runtime::causes(&error)),
            };
            if self.events.send(event).is_err() {
                return;
            }
        }
    }

    fn job(&mut self, job: PageJob) -> Result<Input, PagesError> {
        if self.sender.is_none() {
            self.sender = Some(self.open()?);
            self.began = Instant::now();
        }
        let sender = self.sender.as_mut().expect("opened above");
        match job {
            PageJob::LastPages => {
                sender.last_pages(MARKER)?;
                Ok(Input::LastPagesSent { marker: MARKER })
            }
            PageJob::Round => {
                let numbers = sender.round()?;
                let report = RoundReport {
                    round: self.controls.progress.pages.rounds.load(std::sync::atomic::Ordering::Relaxed),
                    remaining_pages: numbers.remaining_pages,
                    expected_us: numbers.expected_us,
                    elapsed_ms: self.began.elapsed().as_millis() as u64,
                };
                Ok(Input::RoundDone(self.rounds.judge(report, &self.settings.parameters())))
            }
        }
    }

    fn open(&self) -> Result<PageSender, PagesError> {
        let stream = Stream::connect(&self.route.to, self.route.setup_deadline, &self.route.cancel)
            .map_err(LinkError::io("bulk"))?;
        // The driver keeps it to end it from outside; without a driver there is nothing to do.
        let _ = self.events.send(Event::Bulk(stream.clone()));
        let preamble = Preamble { migration_id: self.route.migration_id, link: Link::Bulk(0) };
        stream.write_all(&preamble.encode()).map_err(LinkError::io("bulk"))?;
        let session = session(self.route.migration_id);
        PageSender::new(self.machine.clone(), stream, session, self.controls.clone())
    }
}
