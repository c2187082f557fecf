//! The ways to end a switchover, side by side: what each is proved to do, and the shortest way to
//! what each does wrong.

use std::fmt::Write;

use ferry_migration::message::Handshake;

use super::bounds::{Bounds, Fault};
use super::invariants::Invariant;
use super::record::Arbiter;
use super::scenario::Scenario;
use super::search::{Limits, Report, explore};

/// One way to end a switchover.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// Its name in the table.
    pub name: &'static str,
    handshake: Handshake,
    record_shared: bool,
    arbiter: Arbiter,
    /// The promises that it breaks, in precopy and in postcopy.
    pub breaks: [&'static [Invariant]; 2],
}

use Invariant::{BothStopped, Finishes, StaleRun, TwoRunners};

/// All of them, from the oldest to the one that is used.
pub const VARIANTS: [Variant; 6] = [
    Variant {
        name: "none",
        handshake: Handshake::None,
        record_shared: false,
        arbiter: Arbiter::Record,
        breaks: [&[BothStopped, Finishes]; 2],
    },
    Variant {
        name: "pong",
        handshake: Handshake::Pong,
        record_shared: false,
        arbiter: Arbiter::Record,
        breaks: [&[TwoRunners, StaleRun, BothStopped, Finishes]; 2],
    },
    Variant {
        name: "owned, decided by the disk's lock",
        handshake: Handshake::Owned,
        record_shared: true,
        arbiter: Arbiter::DiskLock,
        breaks: [&[StaleRun, BothStopped, Finishes]; 2],
    },
    Variant {
        name: "setup",
        handshake: Handshake::Setup,
        record_shared: false,
        arbiter: Arbiter::Record,
        breaks: [&[]; 2],
    },
    Variant {
        name: "owned, but the record is not shared",
        handshake: Handshake::Owned,
        record_shared: false,
        arbiter: Arbiter::Record,
        breaks: [&[]; 2],
    },
    Variant {
        name: "owned",
        handshake: Handshake::Owned,
        record_shared: true,
        arbiter: Arbiter::Record,
        breaks: [&[]; 2],
    },
];

impl Variant {
    /// What is explored for it.
    #[must_use]
    pub fn scenario(&self, postcopy: bool, bounds: Bounds) -> Scenario {
        Scenario {
            has_record: self.handshake == Handshake::Owned,
            record_shared: self.record_shared,
            arbiter: self.arbiter,
            bounds,
            ..Scenario::new(self.handshake, postcopy)
        }
    }
}

/// What the table is made with: each of the faults that tell the variants apart, once, in any
/// order and combination.
#[must_use]
pub const fn table_bounds() -> Bounds {
    Bounds::none()
        .with(Fault::Break, 1)
        .with(Fault::DestinationCrash, 1)
        .with(Fault::LoadFailure, 1)
        .with(Fault::StartFailure, 1)
        .with(Fault::FalseTimeout, 1)
        .with(Fault::Outage, 1)
}

/// One row: a variant in one mode, explored.
#[derive(Debug)]
pub struct Row {
    /// The variant.
    pub variant: Variant,
    /// Which mode.
    pub postcopy: bool,
    /// What was seen.
    pub report: Report,
}

/// Explores every variant in both modes, with at most `worlds` worlds each.
#[must_use]
pub fn compare(bounds: Bounds, worlds: usize) -> Vec<Row> {
    let modes = [false, true];
    let explored = VARIANTS.into_iter().flat_map(|variant| modes.map(|postcopy| (variant, postcopy)));
    explored
        .map(|(variant, postcopy)| {
            let report = explore(&variant.scenario(postcopy, bounds), Limits::whole(worlds));
            Row { variant, postcopy, report }
        })
        .collect()
}

/// The table, as Markdown.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut out = String::from("| variant | mode |");
    for invariant in Invariant::ALL {
        let _ = write!(out, " {} |", invariant.name());
    }
    out.push_str(" a live pair may wait | worlds | steps at most |\n|---|---|");
    out.push_str(&"---|".repeat(Invariant::ALL.len() + 3));
    for row in rows {
        let _ = write!(out, "\n| {} | {} |", row.variant.name, mode(row.postcopy));
        for invariant in Invariant::ALL {
            match row.report.findings.get(&invariant) {
                Some(finding) => {
                    let _ = write!(out, " **broken** in {} steps |", finding.trace.len());
                }
                None if row.report.is_complete => out.push_str(" holds |"),
                None => out.push_str(" not seen broken |"),
            }
        }
        let waits =
            row.report.waits.as_ref().map_or("never".to_owned(), |trace| format!("after {} steps", trace.len()));
        let _ = write!(out, " {waits} | {} | {} |", row.report.worlds, row.report.depth);
    }
    out.push('\n');
    out
}

/// The shortest way to each broken promise, and to a live pair that waits.
#[must_use]
pub fn traces(rows: &[Row]) -> String {
    let mut out = String::new();
    for row in rows {
        for (invariant, finding) in &row.report.findings {
            let head = format!("{}, {}: \"{}\" is broken", row.variant.name, mode(row.postcopy), invariant.name());
            let _ = write!(out, "### {head}\n\n{}.\n\n```text\n{}```\n\n", finding.why, finding.trace);
        }
        if let (Some(waits), true) = (&row.report.waits, row.report.findings.is_empty()) {
            let head = format!("{}, {}: a live pair waits", row.variant.name, mode(row.postcopy));
            let _ = write!(out, "### {head}\n\n```text\n{waits}```\n\n");
        }
    }
    out
}

/// The mode's name.
#[must_use]
pub fn mode(postcopy: bool) -> &'static str {
    if postcopy { "postcopy" } else { "precopy" }
}
