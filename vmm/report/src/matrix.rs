//! The fault matrix as data: what a run of it leaves behind, as one JSON file.
//!
//! The runner of the matrix writes it, `ferry report` reads it, several of them (shards of one
//! run) as one. Field names are those of the JSON; lists and optional fields may be left out.

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
    /// What the cells' own seeds were made from.
    pub seed: u64,
    /// The machine that it ran on, for people.
    pub host: String,
    /// The command that made it.
    pub command: String,
    /// How long the run took; of shards, all of them added up.
    pub seconds: f64,
    /// The values of [`Cell::when`] in the protocol's order. One that is missing here comes where
    /// it first appears.
    #[serde(default)]
    pub order: Vec<String>,
    /// What was tried.
    #[serde(default)]
    pub cells: Vec<Cell>,
}

/// One migration with one fault, and what the oracles made of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Unique in a matrix; the page's address of the cell.
    pub name: String,
    /// How memory was to travel.
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
    /// What the cell's own choices were made from.
    pub seed: u64,
    /// What the oracles come to.
    pub verdict: Verdict,
    /// How long the cell took.
    pub millis: u64,
    /// One command that runs this cell again.
    pub rerun: String,
    /// What was done, as a sentence.
    pub injected: String,
    /// Where the guest ended up, for example `the source runs the guest`.
    pub ending: String,
    /// How long the guest stood still before it ran again, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_ms: Option<f64>,
    /// Why it failed, or was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Who judged, and how.
    #[serde(default)]
    pub oracles: Vec<Oracle>,
    /// What happened, in any order.
    #[serde(default)]
    pub timeline: Vec<Entry>,
    /// What the processes said.
    #[serde(default)]
    pub logs: Vec<Log>,
}

/// How memory was to travel.
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

/// What a cell came to.
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

/// One judge's word.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Oracle {
    /// Which judge.
    pub name: String,
    /// What it found.
    pub verdict: Finding,
    /// Its reasons.
    pub says: String,
}

/// What a judge found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// All is well.
    Pass,
    /// It is not.
    Fail,
    /// The judge had nothing to judge.
    None,
}

/// One thing that happened: a row of a sequence diagram.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Microseconds since the beginning.
    pub at_us: i64,
    /// Where.
    pub lane: Lane,
    /// What kind of thing.
    pub kind: Kind,
    /// What, for people.
    pub text: String,
    /// Of a message or of pages: where it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Lane>,
    /// Of a message or of pages: on which link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// What became of it on its way, if that was not what was meant: lost, held, cut, …
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
    /// What a client heard of.
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

/// What one process said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Log {
    /// Whose, and which.
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
/// When a cell is in it twice: which of the two counts cannot be known.
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
