//! The fault matrix as data: the result of a run, as one JSON file.
//!
//! The runner of the matrix writes it; `ferry report` reads one, or several (shards of one run) as
//! one. Field names are those of the JSON; lists and optional fields may be left out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ReportError;

/// The value of [`Matrix::format`] that this Ferry reads and writes.
pub const FORMAT: &str = "ferry-matrix/1";

/// One run of the matrix, or one shard of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Matrix {
    /// [`FORMAT`].
    pub format: String,
    /// When the run began, as RFC 3339 has it.
    pub made: String,
    /// The seed from which the cells' own seeds are derived.
    pub seed: u64,
    /// The machine that it ran on, for people.
    pub host: String,
    /// The command that made it.
    pub command: String,
    /// How long the run took; for shards, the sum of all.
    pub seconds: f64,
    /// The values of [`Cell::when`] in the protocol's order. One that is missing here comes where
    /// it first appears.
    #[serde(default)]
    pub order: Vec<String>,
    /// The cells.
    #[serde(default)]
    pub cells: Vec<Cell>,
}

/// One migration with one fault, and the findings of the oracles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Unique in a matrix; the page's address of the cell.
    pub name: String,
    /// How memory was to be sent.
    pub mode: Mode,
    /// What ends the switchover, as `x-ferry-handshake` names it.
    pub handshake: String,
    /// vCPUs of the guest.
    pub cpus: u32,
    /// The step of the protocol at which the fault came: a column of the grid.
    pub when: String,
    /// The fault: a row of the grid.
    pub what: String,
    /// What the fault concerns: rows are grouped by it.
    pub place: Place,
    /// The seed of the cell's own choices.
    pub seed: u64,
    /// The verdict that follows from the oracles.
    pub verdict: Verdict,
    /// How long the cell took.
    pub millis: u64,
    /// One command that runs this cell again.
    pub rerun: String,
    /// What was done, as a sentence.
    pub injected: String,
    /// Where the guest ended up, for example `the source runs the guest`.
    pub ending: String,
    /// How long the guest was stopped before it ran again, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_ms: Option<f64>,
    /// Why it failed, or was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The oracles, with their findings.
    #[serde(default)]
    pub oracles: Vec<Oracle>,
    /// What happened, in any order.
    #[serde(default)]
    pub timeline: Vec<Entry>,
    /// The logs of the processes.
    #[serde(default)]
    pub logs: Vec<Log>,
}

/// How memory was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Before the switchover.
    Precopy,
    /// After it.
    Postcopy,
    /// After it, over a link that broke and was reconnected.
    Recovered,
}

impl Mode {
    /// The name as the JSON has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Precopy => "precopy",
            Mode::Postcopy => "postcopy",
            Mode::Recovered => "recovered",
        }
    }
}

/// What a fault concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The process that had the guest.
    Source,
    /// The process that was to get it.
    Destination,
    /// What is between them.
    Link,
    /// The ownership record.
    Record,
    /// The disk.
    Disk,
}

impl Place {
    /// The name as the JSON has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Place::Source => "source",
            Place::Destination => "destination",
            Place::Link => "link",
            Place::Record => "record",
            Place::Disk => "disk",
        }
    }
}

/// The verdict on a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every promise was kept.
    Pass,
    /// One was not.
    Fail,
    /// It was not run, or could not be judged.
    Skip,
}

/// The finding of one oracle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Oracle {
    /// The name of the oracle.
    pub name: String,
    /// What it found.
    pub verdict: Finding,
    /// Its reasons.
    pub says: String,
}

/// What an oracle found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// All is well.
    Pass,
    /// It is not.
    Fail,
    /// The oracle did not apply.
    None,
}

/// One thing that happened: a row of a sequence diagram.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Microseconds since the beginning.
    pub at_us: i64,
    /// Where it happened.
    pub lane: Lane,
    /// What kind of thing.
    pub kind: Kind,
    /// The text, for people.
    pub text: String,
    /// Of a message or of pages: where it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Lane>,
    /// Of a message or of pages: on which link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// What happened to it in transit, if it did not arrive as usual: lost, held, cut, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fate: Option<String>,
}

/// Where something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// The process that had the guest.
    Source,
    /// The process that was to get it.
    Destination,
    /// Between the two.
    Link,
    /// The harness that ran the cell.
    Harness,
    /// The guest, wherever it was.
    Guest,
}

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The migration's status changed.
    Status,
    /// An event that clients received.
    Event,
    /// A message of the control link.
    Message,
    /// Pages on a bulk or urgent link.
    Pages,
    /// A step of the protocol's state machine.
    Step,
    /// What was injected.
    Fault,
    /// Anything else.
    Note,
}

/// The log of one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Log {
    /// The process, and which of its logs.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// Reads one matrix.
pub(super) fn parse(path: &Path, text: &str) -> Result<Matrix, ReportError> {
    serde_json::from_str(text).map_err(|source| ReportError::Matrix { path: path.to_owned(), source })
}

/// Makes one matrix of the shards of a run.
///
/// # Errors
/// When a cell is in it twice: it is unknown which of the two counts.
pub(super) fn merge(shards: Vec<(PathBuf, Matrix)>) -> Result<Matrix, ReportError> {
    let mut seen: HashMap<String, PathBuf> = HashMap::new();
    let mut whole: Option<Matrix> = None;
    for (path, mut shard) in shards {
        for cell in &shard.cells {
            if let Some(first) = seen.insert(cell.name.clone(), path.clone()) {
                return Err(ReportError::CellTwice { cell: cell.name.clone(), first, second: path });
            }
        }
        match &mut whole {
            None => whole = Some(shard),
            Some(whole) => {
                whole.made = std::cmp::min(&whole.made, &shard.made).clone();
                whole.seconds += shard.seconds;
                add_line(&mut whole.host, "; ", &shard.host);
                add_line(&mut whole.command, "\n", &shard.command);
                shard.order.retain(|when| !whole.order.contains(when));
                whole.order.append(&mut shard.order);
                whole.cells.append(&mut shard.cells);
            }
        }
    }
    whole.ok_or(ReportError::Nothing)
}

fn add_line(to: &mut String, between: &str, line: &str) {
    if !to.split(between).any(|there| there == line) {
        to.push_str(between);
        to.push_str(line);
    }
}
