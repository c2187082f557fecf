//! The frame log: what has come to the relay, when, and what became of it. A report shows it, and
//! a test may look at it.

use std::collections::HashMap;
use std::time::SystemTime;

use super::unit::{Link, Side, Spot};

/// Numbered frames (pages, requests) are recorded up to this number: they are large or many.
const RECORDED: u64 = 4;

/// A frame that came to the relay, or something that happened to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// When it came; of several frames in one, the first.
    pub at: SystemTime,
    /// Of several frames in one, when the last one came.
    pub until: SystemTime,
    /// Who sent it.
    pub from: Side,
    /// The link; [`Link::Foreign`] also until a connection has said what it is.
    pub link: Link,
    /// The relay's number of the connection, from 0.
    pub connection: u64,
    /// A message's name, `preamble`, `marker`, `pages 3`, `request 3`, `foreign`; frames of pages
    /// that follow one another in a direction are one entry, `pages 3-17`. Of a connection:
    /// `opened`, `end` (this side ends its direction), `broken` (it was reset by it), `closed` (by
    /// the relay).
    pub name: String,
    /// How long it was as it came.
    pub bytes: u64,
    /// What became of it, if not just that it was forwarded.
    pub fate: Option<String>,
}

/// Where frames come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub connection: u64,
    pub side: Side,
    pub link: Link,
}

/// The log and the recorded bytes.
#[derive(Debug, Default)]
pub(super) struct Log {
    frames: Vec<Frame>,
    /// What the next frame of a direction may join: the kind, the number of the first, and the
    /// entry.
    open: HashMap<(u64, Side), (&'static str, u64, usize)>,
    recorded: HashMap<Spot, Vec<u8>>,
}

impl Log {
    /// Notes a frame and returns its entry, for [`Log::add_fate`].
    pub(super) fn frame(&mut self, spot: Spot, bytes: &[u8], place: Place, fate: Option<String>) -> usize {
        let (kind, number) = spot.kind();
        if number.is_none_or(|number| number < RECORDED) && spot != Spot::Foreign {
            self.recorded.insert(spot, bytes.to_vec());
        }
        if matches!(spot, Spot::ControlPreamble | Spot::BulkPreamble | Spot::UrgentPreamble) {
            let opened = self.frames.iter_mut().rev().filter(|frame| frame.connection == place.connection);
            opened.for_each(|frame| frame.link = place.link);
        }
        let direction = (place.connection, place.side);
        let joined = self.open.get(&direction).filter(|open| open.0 == kind && fate.is_none()).copied();
        if let Some((_, first, entry)) = joined {
            let frame = &mut self.frames[entry];
            frame.bytes += bytes.len() as u64;
            frame.until = SystemTime::now();
            if let Some(number) = number {
                frame.name = format!("{kind} {first}-{number}");
            }
            return entry;
        }
        let name = number.map_or_else(|| kind.to_owned(), |number| format!("{kind} {number}"));
        let joins = (number.is_some() || spot == Spot::Foreign) && fate.is_none();
        let entry = self.event(&name, bytes.len(), place, fate);
        if joins {
            self.open.insert(direction, (kind, number.unwrap_or_default(), entry));
        }
        entry
    }

    /// Notes what is no frame, or a frame that none may join, and returns its entry.
    pub(super) fn event(&mut self, name: &str, bytes: usize, place: Place, fate: Option<String>) -> usize {
        let Place { connection, side, link } = place;
        self.open.remove(&(connection, side));
        let (at, name, bytes) = (SystemTime::now(), name.to_owned(), bytes as u64);
        self.frames.push(Frame { at, until: at, from: side, link, connection, name, bytes, fate });
        self.frames.len() - 1
    }

    /// Adds to what became of a frame.
    pub(super) fn add_fate(&mut self, entry: usize, then: &str) {
        let fate = self.frames[entry].fate.get_or_insert_default();
        if !fate.is_empty() {
            fate.push_str(", then ");
        }
        fate.push_str(then);
    }

    pub(super) fn frames(&self) -> Vec<Frame> {
        self.frames.clone()
    }

    pub(super) fn recorded(&self, spot: Spot) -> Option<Vec<u8>> {
        self.recorded.get(&spot).cloned()
    }
}
