//! What the comparison of handshakes teaches, each with the fewest faults that show it.

use std::fmt::Write;

use ferry_migration::message::Handshake;

use super::bounds::Fault;
use super::invariants::Invariant;
use super::record::Arbiter;
use super::scenario::Scenario;
use super::search::{Limits, Report, explore};
use super::trace::Trace;

/// One thing to learn.
#[derive(Clone, Copy, Debug)]
pub struct Lesson {
    /// What it is, as a heading.
    pub title: &'static str,
    /// Why it is so.
    pub why: &'static str,
    /// Where it shows.
    pub scenario: Scenario,
    /// The promise that breaks; none when a live pair waits, as it may.
    pub breaks: Option<Invariant>,
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Lesson> {
    let of = |handshake, postcopy| Scenario::new(handshake, postcopy);
    let lock = |postcopy| Scenario { arbiter: Arbiter::DiskLock, ..of(Handshake::Owned, postcopy) };
    vec![
        Lesson {
            title: "`none`: a failed load strands the guest",
            why: "The package is also the permit, so the source lets go before anybody knows whether the state loads.",
            scenario: of(Handshake::None, true).with(Fault::LoadFailure, 1),
            breaks: Some(Invariant::BothStopped),
        },
        Lesson {
            title: "`pong`: a lost answer makes two runners",
            why: "The destination runs as soon as it has loaded; a source that does not hear of it takes the load for failed.",
            scenario: of(Handshake::Pong, true).with(Fault::Break, 1),
            breaks: Some(Invariant::TwoRunners),
        },
        Lesson {
            title: "`owned` by the disk's lock: a crash frees it, and the source runs old memory",
            why: "The lock says who has the disk now, not who had it since. A record that stays says so.",
            scenario: lock(false).with(Fault::Break, 1).with(Fault::DestinationCrash, 1),
            breaks: Some(Invariant::StaleRun),
        },
        Lesson {
            title: "`setup`: safe, and uncertain when the word after the permit is lost",
            why: "The source shows `uncertain` and keeps the guest stopped; an operator looks at the destination and resolves it.",
            scenario: of(Handshake::Setup, true).with(Fault::Break, 1),
            breaks: None,
        },
        Lesson {
            title: "`owned`: waits only for a record that is out of reach",
            why: "Without the outage the record decides at once; with it both wait, and the first that reaches it goes on.",
            scenario: of(Handshake::Owned, true).with(Fault::Break, 1).with(Fault::Outage, 1),
            breaks: None,
        },
    ]
}

impl Lesson {
    /// Explores it.
    #[must_use]
    pub fn learn(&self) -> Report {
        explore(&self.scenario, Limits::whole(1_000_000))
    }

    /// The shortest way that shows it, if it is so.
    #[must_use]
    pub fn shown_by(&self, report: &Report) -> Option<Trace> {
        match self.breaks {
            Some(invariant) => report.findings.get(&invariant).map(|finding| finding.trace.clone()),
            None if report.findings.is_empty() => report.waits.clone(),
            None => None,
        }
    }
}

/// Every lesson with its way, as Markdown.
///
/// # Panics
/// When one is not so any more.
#[must_use]
pub fn traces() -> String {
    let mut out = String::new();
    for lesson in all() {
        let trace = lesson.shown_by(&lesson.learn()).expect("every lesson is shown by some way");
        let _ = write!(out, "### {}\n\n{}\n\n```text\n{trace}```\n\n", lesson.title, lesson.why);
    }
    out
}
