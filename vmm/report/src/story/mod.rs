//! Migrations from their traces: the two sides of each are combined, for the page to draw.
//!
//! [`read`] finds the sides in the files, [`timeline`] makes the rows of the sequence diagram. The
//! clocks of two hosts differ: the difference, estimated from the messages between them, is
//! subtracted from the destination's times.

pub mod read;
#[cfg(test)]
mod tests;
mod timeline;

use ferry_migration::MigrationInfo;
use ferry_observe::trace::{Round, Sample, Side, Start, What};
use serde::Serialize;

use self::read::{Part, Trace, parts};
use self::timeline::Message;
use super::matrix;

/// All migrations of some traces.
#[derive(Debug, Serialize)]
pub struct Story {
    migrations: Vec<Migration>,
}

/// One migration.
#[derive(Debug, Serialize)]
struct Migration {
    id: String,
    /// Microseconds since 1970; all other times count from here.
    began_us: u64,
    /// From the first entry to the last.
    took_us: u64,
    /// By how much the destination's clock was ahead of the source's, in microseconds, estimated
    /// from the messages.
    skew_us: i64,
    sides: Vec<Seen>,
    timeline: Vec<matrix::Entry>,
}

/// The entries of one side.
#[derive(Debug, Serialize)]
struct Seen {
    side: Side,
    file: String,
    process: Start,
    peer: Option<String>,
    /// The trace was cut off.
    torn: bool,
    /// Entries that the writer lost.
    lost: u64,
    rounds: Vec<Timed<Round>>,
    samples: Vec<Timed<Sample>>,
    error: Option<String>,
    status: Option<&'static str>,
    summary: Option<MigrationInfo>,
}

/// Something with its time, in microseconds since the migration began.
#[derive(Debug, Serialize)]
struct Timed<T> {
    at_us: i64,
    #[serde(flatten)]
    what: T,
}

/// Combines the sides of each migration in `traces`.
#[must_use]
pub fn tell(traces: &[Trace]) -> Story {
    let mut all: Vec<Vec<Part<'_>>> = Vec::new();
    for part in traces.iter().flat_map(parts) {
        match all.iter_mut().find(|group| group[0].id == part.id) {
            Some(group) => group.push(part),
            None => all.push(vec![part]),
        }
    }
    Story { migrations: all.iter().map(|group| migration(group)).collect() }
}

fn migration(parts: &[Part<'_>]) -> Migration {
    let skew_us = skew(parts);
    let clock = |part: &Part<'_>| if part.side == Side::Destination { skew_us } else { 0 };
    let times = parts.iter().flat_map(|part| part.entries.iter().map(|entry| entry.at_us as i64 - clock(part)));
    let (began, ended) = (times.clone().min().unwrap_or(0), times.max().unwrap_or(0));
    let rows = parts.iter().flat_map(|part| timeline::rows(part, began + clock(part)));
    let mut timeline: Vec<_> = rows.chain(timeline::arrows(parts, began, skew_us)).collect();
    timeline.sort_by_key(|entry| entry.at_us);
    Migration {
        id: parts[0].id.clone(),
        began_us: began as u64,
        took_us: (ended - began) as u64,
        skew_us,
        sides: parts.iter().map(|part| seen(part, began + clock(part))).collect(),
        timeline,
    }
}

fn seen(part: &Part<'_>, began: i64) -> Seen {
    let mut seen = Seen {
        side: part.side,
        file: part.file.clone(),
        process: part.start.clone(),
        peer: part.peer.clone(),
        torn: part.torn,
        lost: 0,
        rounds: Vec::new(),
        samples: Vec::new(),
        error: None,
        status: None,
        summary: None,
    };
    for entry in part.entries {
        let at_us = entry.at_us as i64 - began;
        match &entry.what {
            What::Round(round) => seen.rounds.push(Timed { at_us, what: round.clone() }),
            What::Sample(sample) => seen.samples.push(Timed { at_us, what: sample.clone() }),
            What::Error { text } => seen.error = Some(text.clone()),
            What::Status { status } => seen.status = Some(status.as_str()),
            What::Summary(info) => {
                seen.samples.push(Timed { at_us, what: Sample::of((**info).clone()) });
                seen.summary = Some((**info).clone());
            }
            What::Lost { entries } => seen.lost += entries,
            _ => {}
        }
    }
    seen
}

/// How far the destination's clock is ahead: half the difference between the apparent latencies of
/// the quickest message each way. One host has one clock.
fn skew(parts: &[Part<'_>]) -> i64 {
    if parts.iter().all(|part| part.start.host == parts[0].start.host) {
        return 0;
    }
    let messages = timeline::messages(parts);
    let quickest = |from: Side| {
        let took = messages.iter().filter(|message| message.from == from).filter_map(Message::took_us);
        took.min()
    };
    match (quickest(Side::Source), quickest(Side::Destination)) {
        (Some(there), Some(back)) => (there - back) / 2,
        _ => 0,
    }
}
