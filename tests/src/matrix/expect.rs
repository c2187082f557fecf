//! What may come of a cell, by the promises (`docs/protocol.md`), from what was done and what the
//! relay saw: an account of the protocol that shares no code with it.

use std::time::Duration;

use ferry_migration::Handshake;

use super::cell::{Cell, Mode, Outcome, Place, Side, What, When};
use super::evidence::{Ending, Stalled};
use super::stage::{DEADLINE, Stage};
use ferry_migration::Status;

use crate::relay::{self, Lane, Link, Spot};

/// On top of the deadline by which a silent peer is noticed, on a machine with more work than
/// cores.
const SLACK: Duration = Duration::from_secs(2);

/// What the third party knows of a cell.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The source has sent a permit.
    pub permit_sent: bool,
    /// It was handed to the destination as it was.
    pub permit_arrived: bool,
    /// The destination has said that the guest runs.
    pub started: bool,
}

impl Known {
    /// From the relay's log.
    #[must_use]
    pub fn of(stage: &Stage) -> Self {
        let frames = stage.relay.frames();
        let seen = |name: &str| frames.iter().filter(|frame| frame.name == name).count() > 0;
        let arrived = |name: &str| {
            let whole = |fate: &Option<String>| fate.as_deref().is_none_or(|fate| !is_loss(fate));
            frames.iter().any(|frame| frame.name == name && whole(&frame.fate))
        };
        Known { permit_sent: seen("Permit"), permit_arrived: arrived("Permit"), started: seen("Started") }
    }
}

/// Whether a fate means that the frame did not arrive as it was.
fn is_loss(fate: &str) -> bool {
    ["cut", "reset", "stalled", "lost", "flipped", "replaced"]
        .iter()
        .any(|word| fate.starts_with(word) || fate.ends_with(word))
}

/// How a cell may end.
#[must_use]
pub fn endings(cell: &Cell, known: Known) -> Vec<Ending> {
    use Ending::{DestinationRuns, GuestEnded, Lost, SourceRuns, Stopped, Uncertain};
    let postcopy = cell.mode != Mode::Precopy;
    match cell.what {
        What::GuestShutsDown => vec![GuestEnded],
        What::Stop => vec![Stopped],
        What::SystemReset | What::SecondMigration | What::Stranger | What::Trickle => vec![DestinationRuns],
        What::GuestReboots => vec![SourceRuns, DestinationRuns],
        // A copy of the image is another disk: a destination that opens it is refused. One that
        // has opened the first image has that.
        What::ImageOther => vec![SourceRuns],
        What::ImageReplaced if cell.when == When::Throughout => vec![SourceRuns],
        What::ImageReplaced => vec![SourceRuns, DestinationRuns],
        What::PlainRun | What::PlainRuns | What::PastRecord => undisturbed(cell),
        What::Cont | What::StopCont | What::ImageGrows => undisturbed(cell),
        What::Cancel if known.permit_sent => vec![DestinationRuns],
        What::Cancel => vec![SourceRuns],
        What::Quit(Side::Source) if known.permit_sent && postcopy => vec![DestinationRuns],
        What::Quit(Side::Source) if known.permit_sent => vec![DestinationRuns, GuestEnded, Lost],
        // The guest ends with its process, and says nothing.
        What::Quit(Side::Source) => vec![GuestEnded, Lost],
        // Whoever quits the side that has the guest ends the guest.
        What::Quit(Side::Destination) if known.permit_sent => {
            [vec![GuestEnded, DestinationRuns, Lost], after_permit(cell)].concat()
        }
        What::Quit(Side::Destination) => vec![SourceRuns],
        What::Kill(Side::Source) if !known.permit_sent => vec![Lost],
        What::Kill(Side::Source) => vec![Lost, DestinationRuns],
        What::Kill(Side::Destination) if !known.permit_sent => vec![SourceRuns],
        What::Kill(Side::Destination) => [vec![Lost], after_permit(cell)].concat(),
        What::Rule(_, rule) => match rule.outcome {
            Outcome::Fails => vec![SourceRuns],
            Outcome::Completes => vec![DestinationRuns],
            Outcome::Either if rule.at == "USERFAULTFD_READ" => vec![SourceRuns, DestinationRuns, Lost],
            Outcome::Either => vec![SourceRuns, DestinationRuns, Uncertain],
        },
        What::DiskLocked | What::RecordLocked | What::RecordTorn => {
            vec![SourceRuns, DestinationRuns, Uncertain]
        }
        _ if lost_in_any_case(cell) => vec![SourceRuns, DestinationRuns, Lost],
        _ if known.permit_sent => [vec![DestinationRuns], after_permit(cell)].concat(),
        _ => vec![SourceRuns],
    }
}

/// What becomes of a migration to which nothing happens but what leads to the cell's moment.
fn undisturbed(cell: &Cell) -> Vec<Ending> {
    let fails = match cell.when {
        When::Frame(Spot::Message(name)) => super::catalogue::is_last_resort(name) && name != "RecoverRefused",
        When::Step(Side::Source, "Settle") => true,
        When::Step(_, name) => matches!(name, "TakeBack" | "ResumeGuest" | "GiveBack"),
        _ => false,
    };
    vec![if fails { Ending::SourceRuns } else { Ending::DestinationRuns }]
}

/// The link that a cell stalls, and what must come of that.
#[must_use]
pub fn stalled(stage: &Stage) -> Option<Stalled> {
    let What::Stall(lane, side) = stage.cell.what else { return None };
    let (name, link) = match lane {
        Lane::Control => ("control", Link::Control),
        Lane::Bulk(_) => ("bulk", Link::Bulk),
        Lane::Urgent => ("urgent", Link::Urgent),
    };
    let place = (link, relay::Side::from(side));
    let frames = stage.relay.frames();
    let mut there = frames.iter().filter(|frame| (frame.link, frame.from) == place);
    let owed = there.any(|frame| frame.fate.as_ref().is_some_and(|fate| fate.contains("stalled")));
    let brings = |frame: &&relay::Frame| {
        let pages = frame.name.starts_with("pages") || frame.name == "marker";
        frame.name == "Drained" || pages && matches!(frame.link, Link::Bulk | Link::Urgent)
    };
    let brought = frames.iter().filter(|frame| link == Link::Bulk && frame.fate.is_none()).filter(brings);
    let others = brought.map(|frame| frame.until).collect();
    Some(Stalled { link: name.to_owned(), others, within: DEADLINE * 2 + SLACK, silent: DEADLINE, owed })
}

/// What the source's migration must have come to, where who ends it decides that.
#[must_use]
pub fn source_becomes(cell: &Cell, known: Known) -> Option<Status> {
    let leaves = matches!(cell.what, What::Quit(Side::Destination) | What::GuestShutsDown);
    // Before that, the destination may not have had the guest when it was told to end.
    let had_it = match cell.when {
        When::Frame(Spot::Message("Started" | "Drained" | "DrainedAck")) => true,
        When::Frame(Spot::Request(_) | Spot::UrgentPages(_) | Spot::UrgentPreamble) => cell.mode == Mode::Recovered,
        _ => false,
    };
    (leaves && had_it && known.started).then_some(Status::Completed)
}

/// What a source may come to once it has sent the permit, if it does not hear that the guest runs.
fn after_permit(cell: &Cell) -> Vec<Ending> {
    match cell.handshake {
        // The record decides.
        Handshake::Owned => vec![Ending::SourceRuns],
        // The destination may still say that it never will.
        _ => vec![Ending::SourceRuns, Ending::Uncertain],
    }
}

/// The moment itself is the loss of the guest.
fn lost_in_any_case(cell: &Cell) -> bool {
    matches!(cell.when, When::Step(_, "LoseGuest"))
}

/// Longest time from the fault to a guest that runs again, where the source is to take it back at
/// once.
#[must_use]
pub fn resume_within(cell: &Cell, known: Known) -> Option<Duration> {
    if known.permit_sent || known.started {
        return None;
    }
    match cell.what {
        What::Kill(Side::Destination) | What::Reset | What::Close => Some(SLACK),
        What::BlackHole(_) | What::Delay | What::Lose | What::Truncate | What::FlipBit => Some(DEADLINE * 2 + SLACK),
        _ => None,
    }
}

/// Words of which the reason for a failure must have one.
#[must_use]
pub fn cause(cell: &Cell) -> Vec<String> {
    let words: &[&str] = match cell.what {
        What::Rule(side, rule) => {
            let errno = rule.action.strip_prefix("errno:").map(text_of);
            let named = [rule.of.unwrap_or(rule.at), errno.unwrap_or(rule.at), "told to fail", "in time", "no answer"];
            let record = (rule.place == Place::Record).then_some("record");
            // A destination that cannot go on may have nothing left to say it with; its own last
            // line tells why.
            let closed = (side == Side::Destination && errno.is_some()).then_some("closed the control link");
            return named.into_iter().chain(record).chain(closed).map(str::to_owned).collect();
        }
        What::Cancel => &["cancel"],
        What::DiskLocked => &["lock"],
        What::ImageOther => &["disk", "image"],
        What::ImageReplaced if cell.when == When::Throughout => &["disk", "image"],
        _ if provoked(cell) => return Vec::new(),
        _ => &[],
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Whether something else has gone wrong first.
fn provoked(cell: &Cell) -> bool {
    matches!(cell.when, When::Frame(Spot::Message(name)) if super::catalogue::is_last_resort(name))
}

/// What the C library says for an error number.
fn text_of(errno: &str) -> &'static str {
    match errno {
        "EIO" => "Input/output error",
        "ENOSPC" => "No space left",
        "EMFILE" => "Too many open files",
        "ENOMEM" => "Cannot allocate memory",
        "EAGAIN" => "Resource temporarily unavailable",
        "EACCES" => "Permission denied",
        _ => "os error",
    }
}
