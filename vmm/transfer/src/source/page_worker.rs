//! The thread that moves pages for a source's driver, and beside it in postcopy the one that
//! serves page requests.
//!
//! It opens its links with its first job, sends rounds, and in postcopy the remaining pages in the
//! background. It answers each job with an input for the state machine, and ends when its job
//! channel closes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferry_devices::fault::Place;
use ferry_link::Link;
use ferry_link::control::LinkError;
use ferry_link::endpoint::Endpoint;
use ferry_machine::{Machine, Stopped};
use ferry_migration::convergence::{Convergence, RoundReport};
use ferry_migration::pages::PageBitmap;
use ferry_migration::parameters::{Compression, OnLimit, PostcopyWhen};
use ferry_migration::source::Input;
use ferry_migration::wire::preamble::{LinkRole, Preamble, session};
use vmm_sys_util::eventfd::EventFd;

use crate::settings::Settings;
use crate::source::chunks::{ChunkSender, Purpose};
use crate::source::controls::{Controls, PagesError};
use crate::source::events::{Event, LinkEvent, PagesDone};
use crate::source::page_sender::{PageSender, RoundNumbers};
use crate::source::patience::Limit;
use crate::source::remaining::Remaining;
use crate::source::urgent;

/// A job for the page worker.
#[derive(Debug)]
pub(super) enum PageJob {
    /// One round; the first opens the link.
    Round,
    /// The pages that are dirty at this stop, and a marker.
    LastPages(Stopped),
    /// Postcopy: read which pages are dirty at this stop, and send only a marker.
    LeavePages(Stopped),
    /// Postcopy: serve requests and send these pages.
    Serve(PageBitmap),
    /// Postcopy after a break: the same over new links, to this address.
    ServeAgain(PageBitmap, Reconnected),
}

/// Where pages go after a break.
#[derive(Debug)]
pub(super) struct Reconnected {
    /// Where the destination listens now.
    pub to: Endpoint,
    /// Signalled when this connection is given up.
    pub cancel: EventFd,
    /// Set to stop sending on it at once.
    pub stop: Arc<AtomicBool>,
    /// The number of this connection.
    pub epoch: u32,
}

/// Where pages go.
pub(super) struct Route {
    /// The destination.
    pub to: Endpoint,
    /// The migration's id.
    pub migration_id: u128,
    /// Bulk links that share the pages, at least one.
    pub bulk_links: u8,
    /// Signalled when the attempt is given up.
    pub cancel: EventFd,
    /// How long opening a link may take.
    pub setup: Duration,
}

/// Starts the page worker.
pub(super) fn start(
    machine: Arc<Machine>,
    route: Route,
    controls: Controls,
    settings: Arc<Settings>,
    events: Sender<Event>,
) -> std::io::Result<(Sender<PageJob>, JoinHandle<()>)> {
    let (jobs, inbox) = channel();
    let rounds = Convergence::new(settings.auto_converge());
    let mut worker = PageWorker {
        machine,
        route,
        controls,
        settings,
        events,
        sender: None,
        urgent: None,
        epoch: 0,
        rounds,
        began: Instant::now(),
    };
    let told = worker.events.clone();
    let faults = worker.machine.faults().clone();
    let thread = crate::threads::spawn_watched(
        &faults,
        "ferry-src-pages",
        move || worker.run(&inbox),
        // A driver that has ended needs no event.
        move |reason| drop(told.send(Event::Input(Input::LinkLost(reason)))),
    )?;
    Ok((jobs, thread))
}

struct PageWorker {
    machine: Arc<Machine>,
    route: Route,
    controls: Controls,
    settings: Arc<Settings>,
    events: Sender<Event>,
    sender: Option<PageSender>,
    urgent: Option<JoinHandle<()>>,
    epoch: u32,
    rounds: Convergence,
    began: Instant,
}

impl PageWorker {
    fn run(&mut self, inbox: &Receiver<PageJob>) {
        for job in inbox {
            let event = match self.job(job) {
                Ok(done) => LinkEvent::PagesDone(done),
                // The driver, which interrupted the job, knows why.
                Err(PagesError::Interrupted) => continue,
                Err(error) => LinkEvent::PagesLost(ferry_observe::causes(&error)),
            };
            let all_sent = matches!(event, LinkEvent::PagesDone(PagesDone { input: Input::AllSent, .. }));
            if self.events.send(Event::OfLink(self.epoch, event)).is_err() {
                break;
            }
            if all_sent {
                self.await_end();
            }
        }
        self.join_urgent();
    }

    fn job(&mut self, job: PageJob) -> Result<PagesDone, PagesError> {
        match job {
            PageJob::Round => self.round(),
            PageJob::LastPages(stopped) => {
                self.controls.patience.set_limit(None);
                let marker = self.sender()?.last_pages(&stopped)?;
                Ok(Input::LastPagesSent { marker }.into())
            }
            PageJob::LeavePages(stopped) => {
                self.controls.patience.set_limit(None);
                let (marker, remaining) = self.sender()?.leave_pages(&stopped)?;
                Ok(PagesDone { remaining: Some(remaining), ..Input::LastPagesSent { marker }.into() })
            }
            PageJob::Serve(remaining) => self.serve(&remaining),
            PageJob::ServeAgain(missing, connection) => {
                self.join_urgent();
                self.epoch = connection.epoch;
                self.controls.stop = connection.stop;
                (self.route.to, self.route.cancel) = (connection.to, connection.cancel);
                let links = self.open_bulk()?;
                let stop = self.controls.stop.clone();
                self.sender()?.reconnect(links, stop);
                self.serve(&missing)
            }
        }
    }

    fn round(&mut self) -> Result<PagesDone, PagesError> {
        // Beside the round, so that little is left for the flush of the stopped guest's disk.
        self.machine.flush_ahead();
        let numbers = self.round_within_limit()?;
        let remaining = match self.settings.postcopy() {
            true => Some(self.sender()?.pending().clone()),
            false => None,
        };
        let report = RoundReport {
            round: self.controls.progress.pages.rounds.load(Relaxed),
            remaining_pages: numbers.remaining_pages,
            sent_bytes: numbers.sent_bytes,
            expected_us: numbers.expected_us,
            elapsed_ms: self.began.elapsed().as_millis() as u64,
        };
        let mut parameters = self.settings.parameters();
        if !self.settings.postcopy() {
            // A `postcopy_when` that cannot take effect must not prevent the end of precopy.
            parameters.postcopy_when = PostcopyWhen::Manual;
        }
        let decision = self.rounds.judge(report, &parameters);
        let throttle = Some(self.rounds.throttle());
        Ok(PagesDone { input: Input::RoundDone(decision), remaining, throttle })
    }

    /// A round, which the operator's limit may end early: in order if the guest then switches, at
    /// once if the migration fails.
    fn round_within_limit(&mut self) -> Result<RoundNumbers, PagesError> {
        self.sender()?;
        let parameters = self.settings.parameters();
        let limit = (parameters.max_precopy_ms > 0).then(|| Limit {
            at: self.began + Duration::from_millis(parameters.max_precopy_ms),
            fails: parameters.on_limit == OnLimit::Fail,
        });
        self.controls.patience.set_limit(limit);
        self.sender()?.round().map_err(|error| match self.controls.patience.over() {
            Some(Limit { fails: true, .. }) if !self.controls.stop.load(Relaxed) => {
                PagesError::Limit(self.controls.progress.pages.remaining_pages.load(Relaxed))
            }
            _ => error,
        })
    }

    fn serve(&mut self, pages: &PageBitmap) -> Result<PagesDone, PagesError> {
        let remaining = Arc::new(Remaining::new(pages));
        let counters = &self.controls.progress.pages;
        counters.remaining_pages.store(pages.count(), Relaxed);
        counters.missing_at_first.fetch_max(pages.count(), Relaxed);
        counters.is_postcopy.store(true, Relaxed);
        let (stream, mut chunks) = self.open(LinkRole::Urgent, "urgent")?;
        chunks.purpose = Purpose::Urgent;
        let (session, count) = (session(self.route.migration_id), pages.pages());
        let (shared, events, epoch) = (remaining.clone(), self.events.clone(), self.epoch);
        let serve = move || {
            let error = urgent::serve(&stream, session, count, &shared, chunks);
            // A driver that has ended needs no event.
            let _ = events.send(Event::OfLink(epoch, LinkEvent::PagesLost(ferry_observe::causes(&error))));
        };
        let (told, epoch) = (self.events.clone(), self.epoch);
        let thread = crate::threads::spawn_watched(self.machine.faults(), "ferry-src-urgent", serve, move |reason| {
            // As above.
            let _ = told.send(Event::OfLink(epoch, LinkEvent::PagesLost(reason)));
        });
        self.urgent = Some(thread.map_err(PagesError::Thread)?);
        let sender = self.sender()?;
        sender.begin_background();
        sender.stream(&remaining)?;
        sender.send_end_marker()?;
        Ok(Input::AllSent.into())
    }

    /// Nothing is written any more: only a read shows that the link was lost with pages in flight.
    fn await_end(&self) {
        if let Some(sender) = &self.sender {
            let error = LinkEvent::PagesLost(ferry_observe::causes(&sender.wait_closed()));
            // A driver that has ended needs no event.
            let _ = self.events.send(Event::OfLink(self.epoch, error));
        }
    }

    /// The thread ends with the link that it serves.
    fn join_urgent(&mut self) {
        if let Some(thread) = self.urgent.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that serves page requests ended unexpectedly");
        }
    }

    fn sender(&mut self) -> Result<&mut PageSender, PagesError> {
        if self.sender.is_none() {
            let links = self.open_bulk()?;
            self.sender = Some(PageSender::new(self.machine.clone(), links, self.controls.clone())?);
            self.began = Instant::now();
        }
        Ok(self.sender.as_mut().expect("made above"))
    }

    fn open_bulk(&self) -> Result<Vec<ChunkSender>, PagesError> {
        let compression = self.settings.parameters().compression;
        let open = |number| {
            let (_, chunks) = self.open(LinkRole::Bulk(number), "bulk")?;
            Ok(if compression == Compression::Lz4 { chunks.compressing() } else { chunks })
        };
        (0..self.route.bulk_links).map(open).collect()
    }

    fn open(&self, link: LinkRole, name: &'static str) -> Result<(Link, ChunkSender), PagesError> {
        let deadline = Instant::now() + self.route.setup;
        let allowed = self.machine.faults().before(Place::HostConnect);
        let stream = allowed.and_then(|()| Link::connect(&self.route.to, deadline, &self.route.cancel));
        let stream = stream.map_err(LinkError::io(name))?;
        stream.set_patience(self.controls.patience.silence()).map_err(LinkError::io(name))?;
        // The driver keeps it to end it from outside; without a driver there is nothing to do.
        let _ = self.events.send(Event::OfLink(self.epoch, LinkEvent::Pages(stream.clone())));
        let preamble = Preamble { migration_id: self.route.migration_id, connection: self.epoch, link };
        stream.write_all(&preamble.encode()).map_err(LinkError::io(name))?;
        let session = session(self.route.migration_id);
        let chunks = ChunkSender::new(self.machine.clone(), &self.controls, stream.clone(), name, session);
        Ok((stream, chunks))
    }
}
