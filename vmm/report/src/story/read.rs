//! Reads the file that `ferry run --trace` wrote, and finds the migrations in it.

use std::path::Path;

use ferry_observe::trace::{Entry, Side, Start, What};

use crate::{ReportError, file_name};

/// A trace as it was read.
#[derive(Debug)]
pub struct Trace {
    /// The file.
    pub path: std::path::PathBuf,
    /// Its lines, in order.
    pub entries: Vec<Entry>,
    /// The last line was cut off: the process was killed while it wrote.
    pub torn: bool,
}

/// One side of one migration: all entries of its trace.
#[derive(Debug)]
pub(super) struct Part<'a> {
    /// The file's name.
    pub file: String,
    /// The process.
    pub start: Start,
    /// Which side it is.
    pub side: Side,
    /// The migration's id.
    pub id: String,
    /// The other side's address.
    pub peer: Option<String>,
    /// From the beginning of the migration to that of the next.
    pub entries: &'a [Entry],
    /// As [`Trace::torn`].
    pub torn: bool,
}

/// Reads a trace, up to the line that a killed process left incomplete.
///
/// # Errors
/// The first line that is no entry.
pub fn parse(path: &Path, text: &str) -> Result<Trace, ReportError> {
    let mut trace = Trace { path: path.to_owned(), entries: Vec::new(), torn: false };
    for (at, line) in text.split_inclusive('\n').enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match serde_json::from_str(line) {
            Ok(entry) => trace.entries.push(entry),
            Err(_) if !line.ends_with('\n') => trace.torn = true,
            Err(source) => return Err(ReportError::Trace { path: path.to_owned(), line: at + 1, source }),
        }
    }
    Ok(trace)
}

/// The migrations of a trace, in order. Several processes may have appended to one file, and a
/// process may have several migrations.
pub(super) fn parts(trace: &Trace) -> Vec<Part<'_>> {
    let mut start = Start::default();
    let mut out: Vec<Part<'_>> = Vec::new();
    for (at, entry) in trace.entries.iter().enumerate() {
        match &entry.what {
            What::Start(next) => start = next.clone(),
            What::Migration { side, id, peer } => out.push(Part {
                file: file_name(&trace.path),
                start: start.clone(),
                side: *side,
                id: id.clone(),
                peer: peer.clone(),
                entries: until_next(&trace.entries[at..]),
                torn: false,
            }),
            _ => {}
        }
    }
    if let Some(last) = out.last_mut() {
        last.torn = trace.torn;
    }
    out
}

fn until_next(entries: &[Entry]) -> &[Entry] {
    let begins = |entry: &Entry| matches!(entry.what, What::Start(_) | What::Migration { .. });
    let end = entries.iter().skip(1).position(begins).map_or(entries.len(), |at| at + 1);
    &entries[..end]
}
