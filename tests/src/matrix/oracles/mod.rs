//! The judges of a cell: each looks at the evidence and nothing else, and says whether a promise
//! was kept.
//!
//! They share no code with Ferry but the types of its statuses. Each is a pure function in a file
//! of its own, whose page says what it judges and what it cannot see, and whose tests script
//! violations that it must catch. The runner asks all of [`ORACLES`].

mod activity;
mod cont;
pub mod disk_log;
mod disk_stamps;
mod ending;
mod guest;
mod image;
pub mod leaks;
mod next;
mod one_runner;
pub mod plain_run;
pub mod resume;
#[cfg(test)]
mod scripted;
mod serial;
mod stall;
mod story;
mod words;

use serde::Serialize;

use crate::matrix::evidence::Evidence;

/// What an oracle says. The text is one sentence for a reader of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict", content = "says")]
pub enum Verdict {
    /// The promise was kept; what was seen.
    Pass(String),
    /// It was broken; how.
    Fail(String),
    /// It was not on trial, or could not be observed; why.
    None(String),
}

impl Verdict {
    /// Whether a promise was broken.
    #[must_use]
    pub fn is_fail(&self) -> bool {
        matches!(self, Verdict::Fail(_))
    }

    /// Fails with the first of these, or passes.
    fn unless(broken: impl IntoIterator<Item = String>, passes: impl FnOnce() -> String) -> Self {
        broken.into_iter().next().map_or_else(|| Verdict::Pass(passes()), Verdict::Fail)
    }
}

/// Judges one promise.
pub type Oracle = fn(&Evidence) -> Verdict;

/// All oracles, by name, in the order of a report.
pub const ORACLES: [(&str, Oracle); 14] = [
    ("one-runner", one_runner::judge),
    ("ending", ending::judge),
    ("guest", guest::judge),
    ("serial", serial::judge),
    ("disk-log", disk_log::judge),
    ("disk-stamps", disk_stamps::judge),
    ("image", image::judge),
    ("plain-run", plain_run::judge),
    ("cont", cont::judge),
    ("stall", stall::judge),
    ("resume", resume::judge),
    ("story", story::judge),
    ("leaks", leaks::judge),
    ("next", next::judge),
];
