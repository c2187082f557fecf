//! The threads that work for a destination's driver: one prepares, loads and starts the machine,
//! one for each bulk link receives pages.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferry_devices::fault::{FaultControl, Place};
use ferry_machine::Machine;
use ferry_memory::userfault::{UserfaultError, discard_outdated};
use ferry_migration::destination::{Input, LoadTimes};
use ferry_migration::message::Failure;
use ferry_migration::package;
use ferry_migration::pages::PageBitmap;
use ferry_record::HandoverRecord;

use crate::destination::events::{Event, LinkEvent};
use crate::destination::markers::Markers;
use crate::destination::page_receiver::{Marker, PageReceiver};
use crate::destination::populate::{PATIENCE, Populating};
use crate::destination::postcopy::{Armed, Postcopy};
use crate::destination::requests::{PageNews, Tell};
use crate::failure::{failure, machine_failure, panicked};
use crate::inbox::Quota;
use crate::progress::Progress;

/// A job for the machine's worker.
#[derive(Debug)]
pub(super) enum MachineJob {
    /// Make the memory ready for the guest.
    Prepare(Preparation),
    /// Load this package.
    Load(LoadJob),
    /// Acquire the disk and run, if this migration's record, if any, allows it; the permit arrived
    /// at this time.
    Start(Instant, Option<Arc<HandoverRecord>>),
}

/// How the guest's memory arrives.
#[derive(Debug)]
pub(super) enum Preparation {
    /// In pages: none is here yet.
    Empty,
    /// As a whole: this memfd, of so many bytes, is viewed.
    View(OwnedFd, u64),
}

/// A package to load.
#[derive(Debug)]
pub(super) struct LoadJob {
    /// The attachment.
    pub package: Vec<u8>,
    /// When it arrived.
    pub arrived: Instant,
    /// When the last pages were here.
    pub gathered: Instant,
    /// The state is loaded on trial.
    pub rehearsal: bool,
    /// Whether pages remain, which are armed first: devices may touch them while they load.
    pub postcopy: bool,
    /// For page requests.
    pub session: u32,
    /// How long a page link that owes pages may be silent.
    pub patience: Duration,
    /// The thread that populates memory ahead, which must have stopped first.
    pub populating: Arc<Populating>,
}

/// Starts the machine's worker.
pub(super) fn machine_worker(
    machine: Arc<Machine>,
    progress: Arc<Progress>,
    events: Sender<Event>,
) -> std::io::Result<(Sender<MachineJob>, JoinHandle<()>)> {
    let (jobs, inbox) = channel();
    let faults = machine.faults().clone();
    let run = move || {
        let mut early = Early::nothing(&machine);
        for job in inbox {
            let answer: fn(Failure) -> Event = match &job {
                MachineJob::Prepare(_) => |failure| Event::Prepared(Err(failure.to_string())),
                MachineJob::Load(_) => |failure| Event::Input(Input::Loaded(Err(failure))),
                MachineJob::Start(..) => |failure| Event::Input(Input::Started(Err(failure))),
            };
            let event = catch_unwind(AssertUnwindSafe(|| do_job(&machine, &progress, &mut early, job, &events)))
                .unwrap_or_else(|_| answer(panicked()));
            if events.send(event).is_err() {
                return;
            }
        }
    };
    let thread = faults.spawn("ferry-dst-load", run)?;
    Ok((jobs, thread))
}

/// Pages that were discarded in a rehearsal.
struct Early {
    pages: PageBitmap,
    /// How many pages had been received by then: when more have come since, some of these may be
    /// present again.
    received: u64,
}

impl Early {
    fn nothing(machine: &Machine) -> Self {
        Early { pages: PageBitmap::new(machine.memory().pages()), received: 0 }
    }
}

fn received(progress: &Progress) -> u64 {
    progress.pages.data_pages.load(Relaxed) + progress.pages.zero_pages.load(Relaxed)
}

fn do_job(machine: &Machine, progress: &Progress, early: &mut Early, job: MachineJob, events: &Sender<Event>) -> Event {
    let input = match job {
        MachineJob::Prepare(preparation) => return Event::Prepared(prepare(machine, preparation)),
        MachineJob::Load(job) => Input::Loaded(load(machine, progress, early, &job, events).map(|()| LoadTimes {
            load_us: job.arrived.elapsed().as_micros() as u64,
            pages_us: job.gathered.saturating_duration_since(job.arrived).as_micros() as u64,
        })),
        MachineJob::Start(permitted, record) => Input::Started(start(machine, record.as_deref()).map(|()| {
            // A guest that is to stay stopped has no first instruction.
            let running = machine.first_entry().unwrap_or_else(Instant::now);
            running.saturating_duration_since(permitted).as_micros() as u64
        })),
    };
    Event::Input(input)
}

/// Takes long for a large memory, above all with `prealloc`.
fn prepare(machine: &Machine, preparation: Preparation) -> Result<(), String> {
    let cannot_empty = |error: std::io::Error| format!("its memory cannot be emptied: {error}");
    machine.faults().before(Place::HostMemory).map_err(cannot_empty)?;
    match preparation {
        Preparation::Empty => machine.memory().clear().map_err(cannot_empty),
        Preparation::View(memfd, bytes) => {
            machine.memory().view_passed(memfd, bytes).map_err(|error| error.to_string())
        }
    }
}

/// Runs the guest. Memory that was handed over is taken first, and is the source's again before a
/// failure is reported.
fn start(machine: &Machine, record: Option<&HandoverRecord>) -> Result<(), Failure> {
    let memory = machine.memory();
    let taken =
        memory.take_passed().map_err(|error| Failure { device: "memory".to_owned(), reason: error.to_string() });
    let run = || machine.release_hold_if(|| record.map_or(Ok(()), HandoverRecord::allows));
    taken.and_then(|()| run().map_err(|error| machine_failure(&error))).inspect_err(|_| {
        if let Err(error) = memory.forget_passed() {
            tracing::warn!(%error, "the memory that was handed over is still mapped here; no thread uses it");
        }
    })
}

fn load(
    machine: &Machine,
    progress: &Progress,
    early: &mut Early,
    job: &LoadJob,
    events: &Sender<Event>,
) -> Result<(), Failure> {
    // The populate thread must have stopped: it could populate pages that are discarded or
    // registered from here on.
    if !job.populating.end(PATIENCE) {
        let reason =
            "the host has not come back with memory that was asked for ahead; see whether it is short of memory";
        return Err(Failure { device: "memory".to_owned(), reason: reason.to_owned() });
    }
    let pages = machine.memory().pages();
    let (sections, remaining) = package::decode(&job.package, pages)
        .map_err(|error| Failure { device: "package".to_owned(), reason: error.to_string() })?;
    if job.postcopy {
        if early.received != received(progress) {
            *early = Early::nothing(machine);
        }
        let own = events.clone();
        // A driver that has ended needs no notification.
        let tell = Tell(Arc::new(move |news: PageNews| drop(own.send(news.into()))));
        let (postcopy, thread) = Postcopy::arm(machine, &remaining, &early.pages, (job.session, job.patience), tell)
            .map_err(memory_failure)?;
        // The driver lives as long as its workers.
        let _ = events.send(Event::Armed(postcopy, thread));
        tracing::debug!(us = job.arrived.elapsed().as_micros() as u64, missing = remaining.count(), "armed");
    }
    machine.load(&sections).map_err(failure)?;
    if job.postcopy {
        // This may wait for a page, and meanwhile the source can still take the guest back.
        machine.complete_load().map_err(|error| machine_failure(&error))?;
    }
    if job.rehearsal && remaining.count() > 0 {
        // After the trial of the devices, which may read these pages; and before the guest stops,
        // when the time would be downtime.
        let before = received(progress);
        discard_outdated(machine.memory(), &remaining).map_err(memory_failure)?;
        tracing::debug!(us = job.arrived.elapsed().as_micros() as u64, pages = remaining.count(), "discarded");
        *early = Early { pages: remaining, received: before };
    }
    Ok(())
}

fn memory_failure(error: UserfaultError) -> Failure {
    Failure { device: "memory".to_owned(), reason: ferry_observe::causes(&error) }
}

/// A bulk link among those that share the pages of rounds.
#[derive(Debug)]
pub(super) struct MarkedLink {
    /// Its number.
    pub number: u8,
    /// The markers of all of them.
    pub markers: Arc<Markers>,
}

/// Starts the thread of a page link; without `marked`, its pages are for memory that is armed.
pub(super) fn page_worker(
    mut receiver: PageReceiver,
    armed: Arc<Armed>,
    marked: Option<MarkedLink>,
    connection: u32,
    events: Sender<Event>,
    faults: &FaultControl,
) -> std::io::Result<JoinHandle<()>> {
    let told = events.clone();
    let run = move || {
        let lost = |error: &dyn std::error::Error| {
            Event::OfLink(connection, LinkEvent::PagesLost(ferry_observe::causes(error)))
        };
        let mut marked = marked;
        let mut direct = marked.is_some().then(|| receiver.direct());
        let quota = Quota::default();
        while let (Some(MarkedLink { number, markers }), Some(direct)) = (&marked, &mut direct) {
            let (marker, switch) = match receiver.until_marker(direct) {
                Ok(Marker::Reached(marker)) => (marker, false),
                Ok(Marker::Switch(marker)) => (marker, true),
                Err(error) => {
                    // A driver that has ended needs no event.
                    let _ = events.send(lost(&error));
                    return;
                }
            };
            if let Some(marker) = markers.reached(*number, marker)
                && events.send(Event::Marker(marker, quota.take())).is_err()
            {
                return;
            }
            if switch {
                marked = None;
            }
        }
        if let Err(error) = receiver.land_all(&armed) {
            // As above.
            let _ = events.send(lost(&error));
        }
    };
    crate::threads::spawn_watched(faults, "ferry-dst-pages", run, move |reason| {
        // As above.
        let _ = told.send(Event::OfLink(connection, LinkEvent::PagesLost(reason)));
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Direction;
    use ferry_machine::testing::has_kvm;
    use ferry_machine::{MachineConfig, SerialSink};
    use ferry_observe::events::Events;

    #[test]
    fn nothing_is_loaded_over_memory_that_the_host_does_not_leave_alone() {
        if !has_kvm() {
            return;
        }
        let config = MachineConfig { paused: true, serial: SerialSink::Null, ..MachineConfig::default() };
        let machine = Arc::new(Machine::build(&config, Arc::default()).unwrap());
        let progress = Progress::new(Direction::Incoming, 0, Arc::new(Events::default()));
        let (events, inbox) = channel();
        let (jobs, thread) = machine_worker(machine, progress, events).unwrap();
        let job = LoadJob {
            package: Vec::new(),
            arrived: Instant::now(),
            gathered: Instant::now(),
            rehearsal: true,
            postcopy: false,
            session: 0,
            patience: Duration::from_secs(5),
            populating: Arc::new(Populating::stuck()),
        };
        jobs.send(MachineJob::Load(job)).unwrap();
        let said = inbox.recv_timeout(Duration::from_secs(60)).unwrap();
        let Event::Input(Input::Loaded(Err(failure))) = said else { panic!("{said:?}") };
        assert_eq!(failure.device, "memory");
        assert!(failure.reason.contains("short of memory"), "{failure}");
        drop(jobs);
        thread.join().unwrap();
    }
}
