//! What was seen of one cell of the fault matrix: plain data, gathered by the runner and judged by
//! the oracles.
//!
//! Nothing in here is computed by what is on trial. What a process says of itself (events,
//! `query-migrate`, standard error) is kept as a statement; what it did was seen by others: the
//! kernel's account of CPU time, the watch on the disk image, `/proc`, and the guest, which speaks
//! for itself on its serial port.

use std::time::{Duration, SystemTime};

use ferry_migration::info::Status;
use ferry_migration::{Handshake, MigrationInfo};
use serde::Serialize;
use serde_json::Value;

use crate::failing::moment;
use crate::procfs::Inventory;

/// Everything about one cell.
#[derive(Clone, Debug, Serialize)]
pub struct Evidence {
    /// What was done, and what may come of it.
    pub cell: CellFacts,
    /// When the harness, the relay or a fault point broke something, if it did and the moment is
    /// known.
    pub broken: Option<SystemTime>,
    /// When the operator said whose the guest is, if that was asked: the guest waits for it.
    pub resolved: Option<SystemTime>,
    /// When the migration had come to rest: what each process says at the end was asked then, and
    /// the next migration had not begun. The sampler has gone on for [`Evidence::REST`] before it.
    pub settled: SystemTime,
    /// The processes that took part, in the order in which the guest may have visited them.
    pub processes: Vec<Process>,
    /// CPU time of vCPU threads, in the order of time.
    pub samples: Vec<Sample>,
    /// Writes into the disk image. `None`: the guest has no disk. An error: nobody could watch,
    /// for this reason.
    pub writes: Option<Result<Vec<Write>, String>>,
    /// Sectors of the image that hold a stamp, or what is wrong with one. `None`: the guest has no
    /// disk.
    pub disk_stamps: Option<Result<usize, String>>,
    /// The ownership record when all had settled, or why it cannot be read. `None`: the guest has
    /// none.
    pub record: Option<Result<RecordView, String>>,
    /// Plain runs of the same guest on the same disk beside the migration.
    pub plain: Vec<PlainRun>,
    /// What became of `cont` when the migration had ended.
    pub conts: Vec<ContTried>,
    /// What the sides gave as the reason whenever the migration had come to rest, oldest first.
    pub reasons: Vec<Reason>,
    /// Whether the process that runs the guest has the image open that the guest began with.
    /// `None`: no process runs it.
    pub image: Option<Result<(), String>>,
    /// Whether a migration after this one succeeded. `None`: none was tried.
    pub next: Option<Result<(), String>>,
    /// What processes that have ended by themselves left in the file system or behind them, each
    /// named for people.
    pub left: Vec<String>,
}

/// What was done in a cell, and what may come of it.
#[derive(Clone, Debug, Serialize)]
pub struct CellFacts {
    /// The handshake in force: with `owned`, the record decides.
    pub handshake: Handshake,
    /// By postcopy, or by precopy.
    pub postcopy: bool,
    /// vCPUs of the guest.
    pub cpus: u32,
    /// The guest's seed, which is in every stamp on its disk.
    pub seed: u64,
    /// Whether it has a disk that it writes to.
    pub disk: bool,
    /// Whether it has an ownership record.
    pub record: bool,
    /// Whether it reboots by itself, again and again.
    pub reboots: bool,
    /// How the migration may end.
    pub may_end: Vec<Ending>,
    /// Words of which the reason for a failure must have at least one; none asks for nothing.
    pub cause: Vec<String>,
    /// The link that was made to stall, if one was.
    pub stalled: Option<Stalled>,
    /// What the source's migration must have come to; `None`: that is not on trial.
    pub source_becomes: Option<Status>,
    /// Longest time from the break to a guest that runs again. It includes the time in which the
    /// break is noticed. `None`: not judged.
    pub resume_within: Option<Duration>,
}

/// A link that was made to stall.
#[derive(Clone, Debug, Serialize)]
pub struct Stalled {
    /// A word for it, which the reason of a loss has.
    pub link: String,
    /// Of a bulk link: when the other links brought pages last, on each connection. Until then its
    /// own are not missed.
    pub others: Vec<SystemTime>,
    /// Longest time from then to the loss.
    pub within: Duration,
    /// How long a link that owes something may be silent.
    pub silent: Duration,
    /// Whether something was to pass on it, by what the relay saw.
    pub owed: bool,
}

/// A `ferry run` of the guest on its disk.
#[derive(Clone, Debug, Serialize)]
pub struct PlainRun {
    /// Its id.
    pub pid: u32,
    /// It knew nothing of the guest's record.
    pub past_record: bool,
    /// When it was started.
    pub at: SystemTime,
    /// When it had ended.
    pub ended: SystemTime,
    /// Its exit status; `None` when it had to be killed.
    pub code: Option<i32>,
    /// Whether its guest said something.
    pub booted: bool,
    /// Its last words.
    pub says: String,
    /// Whom the record named before and after it.
    pub named: [Option<Named>; 2],
}

/// `cont` at the source, when the migration had come to rest.
#[derive(Clone, Debug, Serialize)]
pub struct ContTried {
    /// Whether it has to be accepted, and the guest to run then; else it has to be refused.
    pub must_run: bool,
    /// Why the one or the other.
    pub because: String,
    /// The answer; when it was accepted, an error also if the guest does not run then.
    pub answer: Result<(), String>,
}

/// What a process gave as the reason for how its migration stands.
#[derive(Clone, Debug, Serialize)]
pub struct Reason {
    /// Who.
    pub role: Role,
    /// The status that it explains.
    pub status: Option<Status>,
    /// Its text.
    pub text: String,
}

/// How a migration can end for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// It runs on the source.
    SourceRuns,
    /// It runs on the destination.
    DestinationRuns,
    /// It is stopped, and the source says that it is uncertain.
    Uncertain,
    /// A broken postcopy that can be recovered: both sides answer and say so.
    Paused,
    /// It runs nowhere and cannot be had back.
    Lost,
    /// It has ended by itself.
    GuestEnded,
    /// An operator has stopped it where it is.
    Stopped,
}

/// One process of the cell.
#[derive(Clone, Debug, Serialize)]
pub struct Process {
    /// How it is called in messages.
    pub label: String,
    /// What it was for.
    pub role: Role,
    /// Its id.
    pub pid: u32,
    /// When the harness killed it.
    pub killed: Option<SystemTime>,
    /// From when to when the harness had it stopped by a signal.
    pub frozen: Vec<(SystemTime, SystemTime)>,
    /// How it ended, if it has, before the harness tidied up.
    pub exit: Option<Exit>,
    /// What it wrote to its standard error.
    pub stderr: String,
    /// Its QMP events, oldest first, until all had settled.
    pub events: Vec<Event>,
    /// The last answer to `query-migrate` that could be had until all had settled.
    pub final_info: Option<MigrationInfo>,
    /// The answer to `query-status` when all had settled. `None`: it did not answer, or had ended.
    pub final_run_state: Option<String>,
    /// The guest's serial output in this process, to the very end of the cell.
    pub serial: String,
    /// What it held before the cell's migration. `None`: nobody looked, or it had not been
    /// started.
    pub before: Option<Inventory>,
    /// What it held when all had settled.
    pub after: Option<Inventory>,
}

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Has the guest at first.
    Source,
    /// Is to get it.
    Destination,
    /// Is to get it in the migration after the one under test.
    Next,
}

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Exit {
    /// The exit status; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// When that was seen.
    pub at: SystemTime,
}

/// A QMP event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// When it happened, by the process's clock.
    pub at: SystemTime,
    /// Its name.
    pub name: String,
    /// What came with it; null if nothing did.
    pub data: Value,
}

/// The CPU time that a vCPU's thread has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// When it was read.
    pub at: SystemTime,
    /// Whose thread: the place in [`Evidence::processes`].
    pub process: usize,
    /// Which vCPU.
    pub vcpu: u32,
    /// Time on a CPU since the thread began, in nanoseconds (the first field of proc(5)
    /// `schedstat`).
    pub on_cpu_ns: u64,
}

/// A process wrote into the disk image. Several writes of one process may be one of these:
/// [`crate::matrix::watch::disk`] says when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Write {
    /// When the watch learnt of it.
    pub at: SystemTime,
    /// Who wrote.
    pub pid: u32,
    /// What the ownership record said around the write, oldest first: more than one if it changed
    /// in these milliseconds, none if there is no record or it could not be read.
    pub named: Vec<Named>,
}

/// What an ownership record said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Named {
    /// The generation.
    pub generation: u64,
    /// The process that its owner's label names.
    pub pid: Option<u32>,
}

/// An ownership record, as a reader of its specification reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordView {
    /// The guest.
    pub vm: String,
    /// Which run of the guest this is.
    pub generation: u64,
    /// The owner's label, `HOST:PID`.
    pub owner: String,
    /// No hand-over is under way.
    pub settled: bool,
}

impl Evidence {
    /// How long the sampler goes on before [`Evidence::settled`], so that whoever runs then is
    /// seen to run.
    pub const REST: Duration = Duration::from_millis(500);

    /// The first process of a role.
    #[must_use]
    pub fn of(&self, role: Role) -> Option<&Process> {
        self.processes.iter().find(|process| process.role == role)
    }

    /// Whether the migration under test failed or was cancelled, by what the source says.
    #[must_use]
    pub fn failed(&self) -> bool {
        let status = self.of(Role::Source).and_then(Process::status);
        matches!(status, Some(Status::Failed | Status::Cancelled))
    }
}

impl Process {
    /// The statuses of its migrations, from its events, in order.
    pub fn statuses(&self) -> impl Iterator<Item = &str> {
        self.migration_events().map(|(_, status)| status)
    }

    /// When its migrations had which status.
    pub fn migration_events(&self) -> impl Iterator<Item = (SystemTime, &str)> {
        let migrations = self.events.iter().filter(|event| event.name == "MIGRATION");
        migrations.filter_map(|event| Some((event.at, event.data["status"].as_str()?)))
    }

    /// The status of its migration when all had settled.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.final_info.as_ref()?.status
    }

    /// Whether it answered when all had settled.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.final_run_state.is_some()
    }

    /// Whether it had an event of this name.
    #[must_use]
    pub fn had(&self, name: &str) -> bool {
        self.events.iter().any(|event| event.name == name)
    }
}

impl Event {
    /// From a QMP event as it came over the socket.
    ///
    /// # Panics
    /// When it bears no name or no time.
    #[must_use]
    pub fn from_qmp(event: &Value) -> Self {
        let name = event["event"].as_str().expect("an event has a name").to_owned();
        Event { at: moment(event), name, data: event["data"].clone() }
    }
}

impl RecordView {
    /// The process that the owner's label names.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.owner.rsplit_once(':')?.1.parse().ok()
    }
}
