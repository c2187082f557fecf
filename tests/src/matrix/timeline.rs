//! A cell's story for the report: what the relay, the processes and the harness did, on one clock.

use std::time::SystemTime;

use ferry_report::matrix::{self as report, Kind, Lane};

use super::actor::Actor;
use super::cell::{Cell, Mode, Place, What};
use super::evidence::{Event, Evidence, Role};
use super::note::Notes;
use crate::relay::{Frame, Lane as Line, Link, Side};

/// The end of a log that is kept of a cell in which all went well.
const TAIL: usize = 1500;
/// The same, of a cell that failed.
const LONG_TAIL: usize = 40_000;

/// Everything that happened, in order.
#[must_use]
pub fn entries(notes: &Notes, frames: &[Frame], evidence: Option<&Evidence>) -> Vec<report::Entry> {
    let mut all: Vec<(SystemTime, report::Entry)> = Vec::new();
    for (at, said) in &notes.said {
        let kind = if Some(*at) == notes.broken { Kind::Fault } else { Kind::Note };
        all.push((*at, plain(Lane::Harness, kind, said.clone())));
    }
    all.extend(frames.iter().map(|frame| (frame.at, of_frame(frame))));
    for process in evidence.into_iter().flat_map(|evidence| &evidence.processes) {
        let lane = match process.role {
            Role::Source => Lane::Source,
            Role::Destination => Lane::Destination,
            Role::Next => continue,
        };
        all.extend(process.events.iter().filter_map(|event| Some((event.at, of_event(lane, event)?))));
    }
    all.sort_by_key(|(at, _)| *at);
    let began = notes.began;
    let since = |at: SystemTime| match at.duration_since(began) {
        Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
    };
    all.into_iter().map(|(at, entry)| report::Entry { at_us: since(at), ..entry }).collect()
}

fn plain(lane: Lane, kind: Kind, text: String) -> report::Entry {
    report::Entry { at_us: 0, lane, kind, text, to: None, link: None, fate: None }
}

fn of_frame(frame: &Frame) -> report::Entry {
    let [from, to] = match frame.from {
        Side::Source => [Lane::Source, Lane::Destination],
        Side::Destination => [Lane::Destination, Lane::Source],
    };
    let link = match frame.link {
        Link::Control => "control",
        Link::Bulk => "bulk",
        Link::Urgent => "urgent",
        Link::Foreign => "foreign",
    };
    let pages = frame.name.starts_with("pages") || frame.name.starts_with("request");
    report::Entry {
        to: Some(to),
        link: Some(link.to_owned()),
        fate: frame.fate.clone(),
        ..plain(from, if pages { Kind::Pages } else { Kind::Message }, frame.name.clone())
    }
}

fn of_event(lane: Lane, event: &Event) -> Option<report::Entry> {
    match event.name.as_str() {
        "MIGRATION" => Some(plain(lane, Kind::Status, event.data["status"].as_str()?.to_owned())),
        "MIGRATION_PASS" => None,
        name => Some(plain(lane, Kind::Event, name.to_owned())),
    }
}

/// What the two processes wrote.
#[must_use]
pub fn logs(actors: [&Actor; 2], failed: bool) -> Vec<report::Log> {
    let most = if failed { LONG_TAIL } else { TAIL };
    let tail = |text: String| {
        let from = text.len().saturating_sub(most);
        let from = (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        text[from..].to_owned()
    };
    let of = |actor: &Actor| {
        let label = actor.ferry.label();
        [("standard error", actor.ferry.stderr()), ("serial port", actor.serial())]
            .map(|(what, text)| report::Log { name: format!("{label}, {what}"), text: tail(text) })
    };
    actors.into_iter().flat_map(of).filter(|log| !log.text.is_empty()).collect()
}

/// What was done, in a sentence.
#[must_use]
pub fn sentence(cell: &Cell) -> String {
    let what = match cell.what {
        What::Kill(side) => format!("the {side} is killed"),
        What::Freeze(side) => format!("the {side} is stopped for ten seconds and goes on"),
        What::Reset => "every connection is reset".to_owned(),
        What::Close => "every connection is closed".to_owned(),
        What::BlackHole(None) => "nothing passes any more, and nothing is closed".to_owned(),
        What::BlackHole(Some(side)) => format!("nothing that the {side} sends passes any more, and nothing is closed"),
        What::Stall(lane, side) => {
            let link = match lane {
                Line::Control => "the control link".to_owned(),
                Line::Bulk(number) => format!("bulk link {number}"),
                Line::Urgent => "the urgent link".to_owned(),
            };
            format!("{link} stays open and moves nothing that the {side} sends; the other links go on")
        }
        What::Delay => "the frame and what follows it come later than every deadline".to_owned(),
        What::Trickle => "the bytes arrive one by one".to_owned(),
        What::FlipBit => "a bit of the frame is flipped".to_owned(),
        What::Truncate => "the frame is cut off".to_owned(),
        What::Duplicate => "the frame arrives twice".to_owned(),
        What::Lose => "the frame does not arrive, what follows does".to_owned(),
        What::Replay => "the same frame of an earlier migration arrives before it".to_owned(),
        What::Stranger => "a stranger connects to the destination".to_owned(),
        What::Cancel => "the operator cancels".to_owned(),
        What::Stop => "the operator stops the guest".to_owned(),
        What::StopCont => "the operator stops the guest and lets it go on".to_owned(),
        What::Cont => "the operator says cont to both sides".to_owned(),
        What::Quit(side) => format!("the operator tells the {side} to quit"),
        What::SystemReset => "the operator resets the guest".to_owned(),
        What::SecondMigration => "the operator asks for a second migration".to_owned(),
        What::GuestReboots => "the guest reboots".to_owned(),
        What::GuestShutsDown => "the guest shuts down".to_owned(),
        What::PlainRun => "a plain ferry run of the same guest is started on its disk".to_owned(),
        What::PlainRuns => "plain ferry runs of the same guest are started on its disk, one after the other".to_owned(),
        What::PastRecord => {
            "the same guest is booted past its record: by a hard link of its image, and with --ownership none"
                .to_owned()
        }
        What::LockedOut => "a third process has the disk's lock, and every connection is reset".to_owned(),
        What::ImageGrows => "the disk image grows by 1 MiB".to_owned(),
        What::ImageReplaced => "a copy takes the place of the disk image".to_owned(),
        What::ImageOther => "the destination's disk is another file".to_owned(),
        What::DiskLocked => "a third process takes the disk's lock when the source lets go of it".to_owned(),
        What::RecordTorn => "the ownership record holds half of a write".to_owned(),
        What::RecordLocked => "a third process holds the record's lock".to_owned(),
        What::Rule(side, rule) => {
            let of = rule.of.map_or_else(String::new, |of| format!(" of {of}"));
            format!("at the {side}, {}{of}: {}", rule.at, rule.action)
        }
    };
    format!("When {}: {what}.", cell.when)
}

/// As the report has it.
#[must_use]
pub fn mode(mode: Mode) -> report::Mode {
    match mode {
        Mode::Precopy => report::Mode::Precopy,
        Mode::Postcopy => report::Mode::Postcopy,
        Mode::Recovered => report::Mode::Recovered,
    }
}

/// As the report has it.
#[must_use]
pub fn place(place: Place) -> report::Place {
    match place {
        Place::Source => report::Place::Source,
        Place::Destination => report::Place::Destination,
        Place::Link => report::Place::Link,
        Place::Record => report::Place::Record,
        Place::Disk => report::Place::Disk,
    }
}
