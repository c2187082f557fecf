//! Reports: the outcome of a run of the fault matrix, or of migrations, as one self-contained HTML
//! page.
//!
//! `ferry report` calls [`read`] and then [`Report::html`] or [`Report::junit`]. [`matrix`] is the
//! data of the fault matrix, which its runner fills; [`story`] is made of the traces that `ferry
//! run --trace` wrote ([`ferry_observe::trace`]). [`page`] puts either into the page of `page/`, whose
//! scripts draw it in the reader's browser: a matrix has a thousand cells, and a reader opens a
//! few.

// Only the command line prints: `println!` panics on a closed pipe, and a message must not end its
// thread.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod junit;
pub mod matrix;
mod page;
pub mod story;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use self::matrix::Matrix;
use self::story::Story;
use ferry_observe::trace;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file could not be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file has an unknown format.
    #[error("{} is no matrix and no trace: {says}; give files that ci/matrix or ferry run --trace has written", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What was found in its place.
        says: String,
    },
    /// A matrix does not fit its format.
    #[error("{} is no {} file: {source}", path.display(), matrix::FORMAT)]
    Matrix {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: serde_json::Error,
    },
    /// A trace has a line that does not fit its format.
    #[error("{} line {line} is no line of a {} file: {source}", path.display(), trace::FORMAT)]
    Trace {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Two shards have a cell of the same name.
    #[error("cell {cell} is in {} and in {}: give only the files of one run, and each of them once", first.display(), second.display())]
    CellTwice {
        /// The cell.
        cell: String,
        /// The one file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A matrix and a trace make no common page.
    #[error("{} is a matrix and {} is a trace: give one kind of file at a time", matrix.display(), trace.display())]
    Mixed {
        /// The one file.
        matrix: PathBuf,
        /// The other.
        trace: PathBuf,
    },
    /// A trace has no verdicts.
    #[error("JUnit XML is made of matrices; these files are traces")]
    NoVerdicts,
    /// No file was given.
    #[error("no file was given")]
    Nothing,
}

/// The data of a report.
#[derive(Debug)]
pub enum Report {
    /// A run of the fault matrix.
    Matrix(Matrix),
    /// Migrations, from the traces of one side or of both.
    Migrations(Story),
}

impl Report {
    /// The page, as one self-contained document.
    #[must_use]
    pub fn html(&self) -> String {
        page::render(self)
    }

    /// The verdicts as JUnit XML, as continuous integration reads them.
    ///
    /// # Errors
    /// When this is no matrix.
    pub fn junit(&self) -> Result<String, ReportError> {
        match self {
            Report::Matrix(matrix) => Ok(junit::render(matrix)),
            Report::Migrations(_) => Err(ReportError::NoVerdicts),
        }
    }
}

/// Reads the files of one report: shards of a matrix, or the traces of a migration.
///
/// # Errors
/// The first file that does not fit, and why.
pub fn read(paths: &[PathBuf]) -> Result<Report, ReportError> {
    let mut shards = Vec::new();
    let mut traces = Vec::new();
    for path in paths {
        // Invalid UTF-8 is replaced: a guest may have written any bytes into a log.
        let bytes = std::fs::read(path).map_err(|source| ReportError::Read { path: path.clone(), source })?;
        let text = String::from_utf8_lossy(&bytes);
        match format(&text) {
            Ok(Format::Matrix) => shards.push((path.clone(), matrix::parse(path, &text)?)),
            Ok(Format::Trace) => traces.push(story::read::parse(path, &text)?),
            Err(says) => return Err(ReportError::Unknown { path: path.clone(), says }),
        }
        if let (Some((matrix, _)), Some(trace)) = (shards.last(), traces.last()) {
            return Err(ReportError::Mixed { matrix: matrix.clone(), trace: trace.path.clone() });
        }
    }
    match traces.is_empty() {
        true => matrix::merge(shards).map(Report::Matrix),
        false => Ok(Report::Migrations(story::tell(&traces))),
    }
}

enum Format {
    Matrix,
    Trace,
}

/// The format that a file names: a matrix is one value, a trace has a value in each line.
fn format(text: &str) -> Result<Format, String> {
    #[derive(serde::Deserialize)]
    struct Named {
        format: String,
    }
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    let first = serde_json::Deserializer::from_str(text).into_iter::<Named>().next();
    let named = first.unwrap_or_else(|| Ok(Named { format: String::new() }));
    match named.map_err(|error| error.to_string())?.format.as_str() {
        matrix::FORMAT => Ok(Format::Matrix),
        trace::FORMAT => Ok(Format::Trace),
        other => Err(format!("it says it is '{other}', and this ferry reads {} and {}", matrix::FORMAT, trace::FORMAT)),
    }
}

/// The name of a file in a page: without its folder.
fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
