//! The rows of a migration's sequence diagram, from the entries of its sides.

use std::collections::HashMap;

use ferry_observe::trace::{Entry as Noted, OutputPosition, Round, Side, What};

use super::read::Part;
use crate::matrix::{Entry, Kind, Lane};

/// A message that takes longer is marked with its latency. In microseconds.
const LATE_US: i64 = 20_000;

/// A message, as far as the traces contain it.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub from: Side,
    name: &'a str,
    bytes: u64,
    /// By each side's own clock.
    sent_us: Option<i64>,
    received_us: Option<i64>,
}

impl Message<'_> {
    /// How long it seems to have taken, if both sides have noted it.
    pub(super) fn took_us(&self) -> Option<i64> {
        Some(self.received_us? - self.sent_us?)
    }
}

/// Every message. The nth of a name on a connection is the same one on both sides: the link keeps
/// their order.
pub(super) fn messages<'a>(parts: &[Part<'a>]) -> Vec<Message<'a>> {
    let mut out: Vec<Message<'a>> = Vec::new();
    let mut known: HashMap<(Side, &str, u32, u32), usize> = HashMap::new();
    for part in parts {
        let mut nth: HashMap<(bool, &str, u32), u32> = HashMap::new();
        for Noted { at_us, what } in part.entries {
            let (message, leaves) = match what {
                What::Sent(message) => (message, true),
                What::Received(message) => (message, false),
                _ => continue,
            };
            let from = if leaves { part.side } else { other(part.side) };
            let number = nth.entry((leaves, &message.message, message.connection)).or_default();
            let key = (from, message.message.as_str(), message.connection, *number);
            *number += 1;
            let at = *known.entry(key).or_insert_with(|| {
                out.push(Message { from, name: key.1, bytes: message.bytes, sent_us: None, received_us: None });
                out.len() - 1
            });
            let time = if leaves { &mut out[at].sent_us } else { &mut out[at].received_us };
            *time = Some(*at_us as i64);
        }
    }
    out
}

/// The messages as arrows; `skew_us` is how far the destination's clock is ahead. With traces of
/// both sides, a message that only its sender noted was lost.
pub(super) fn arrows(parts: &[Part<'_>], began: i64, skew_us: i64) -> Vec<Entry> {
    let both =
        parts.iter().any(|part| part.side == Side::Source) && parts.iter().any(|part| part.side == Side::Destination);
    let clock = |side| if side == Side::Destination { skew_us } else { 0 };
    let arrow = |message: Message<'_>| {
        let sent = message.sent_us.map(|at| at - clock(message.from));
        let received = message.received_us.map(|at| at - clock(other(message.from)));
        Some(Entry {
            at_us: sent.or(received)? - began,
            lane: lane(message.from),
            kind: Kind::Message,
            text: message.name.to_owned() + &size(message.bytes),
            to: Some(lane(other(message.from))),
            link: None,
            fate: match (sent, received) {
                (Some(_), None) if both => Some("lost".to_owned()),
                (Some(sent), Some(received)) if received - sent > LATE_US => {
                    Some(format!("took {} ms", (received - sent) / 1000))
                }
                _ => None,
            },
        })
    };
    messages(parts).into_iter().filter_map(arrow).collect()
}

/// The size of a message, unless it is small.
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => String::new(),
        _ => format!(", {:.1} KiB", bytes as f64 / 1024.0),
    }
}

/// The entries of one side, except messages.
pub(super) fn rows(part: &Part<'_>, began: i64) -> impl Iterator<Item = Entry> {
    part.entries.iter().filter_map(move |noted| {
        let (kind, text) = row(&noted.what)?;
        let (mut at_us, mut to) = (noted.at_us as i64 - began, None);
        if let What::Round(round) = &noted.what {
            // Noted at its end, and shown where it began.
            at_us -= round.took_us as i64;
            to = Some(Lane::Destination);
        }
        Some(Entry { at_us, lane: lane(part.side), kind, text, to, link: None, fate: None })
    })
}

fn row(what: &What) -> Option<(Kind, String)> {
    Some(match what {
        What::Status { status } => (Kind::Status, status.as_str().to_owned()),
        What::Event { name } => (Kind::Event, name.clone()),
        What::Error { text } => (Kind::Note, text.clone()),
        // Messages and statuses have rows of their own.
        What::Step { name, .. } if matches!(name.as_str(), "Send" | "Status") => return None,
        What::Step { detail, .. } => (Kind::Step, detail.clone()),
        What::Input { detail } => input(detail)?,
        What::Record { call, answer } => (Kind::Step, format!("record to {call}: {answer}")),
        What::Round(round) => (Kind::Pages, round_text(round)),
        What::Outputs { outputs } => (Kind::Note, outputs_text(outputs)),
        What::Connection { number: 0 } => return None,
        What::Connection { number } => (Kind::Note, format!("connection {number}")),
        What::Lost { entries } => (Kind::Note, format!("{entries} entries of the trace are missing here")),
        What::Start(_)
        | What::Migration { .. }
        | What::Sent(_)
        | What::Received(_)
        | What::Sample(_)
        | What::Summary(_) => {
            return None;
        }
    })
}

/// Inputs that no other row shows.
fn input(detail: &str) -> Option<(Kind, String)> {
    match detail.split(['(', ' ', '{']).next().unwrap_or_default() {
        // Rounds and messages have rows of their own.
        "Message" | "RoundDone" | "MarkerReached" => None,
        "LinkLost" | "GuestGone" | "FaultsDied" => Some((Kind::Note, detail.to_owned())),
        "Timer" | "Cancel" | "Pause" | "Recover" | "Resolve" | "StartPostcopy" => {
            Some((Kind::Event, detail.to_owned()))
        }
        _ => Some((Kind::Step, detail.trim_end_matches("(Ok(()))").to_owned())),
    }
}

fn round_text(round: &Round) -> String {
    let what = round.number.map_or_else(|| "last pages".to_owned(), |number| format!("round {number}"));
    let mebibytes = round.bytes as f64 / f64::from(1 << 20);
    format!("{what}: {} pages, {} zero, {mebibytes:.1} MiB", round.pages, round.zero_pages)
}

fn outputs_text(outputs: &[OutputPosition]) -> String {
    let texts: Vec<_> = outputs.iter().map(|output| format!("{} at {}", output.device, output.position)).collect();
    format!("output so far: {}", texts.join(", "))
}

fn other(side: Side) -> Side {
    match side {
        Side::Source => Side::Destination,
        Side::Destination => Side::Source,
    }
}

fn lane(side: Side) -> Lane {
    match side {
        Side::Source => Lane::Source,
        Side::Destination => Lane::Destination,
    }
}
