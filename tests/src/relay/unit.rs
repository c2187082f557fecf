//! Splits what passes through the relay into the units that a plan can name: a preamble, a
//! message, a frame of pages.

use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, OnceLock};

use ferry_migration::pages::PAGE_SIZE;
use ferry_migration::wire::{Message, bulk, control, preamble, request};
use ferry_migration::{ToDestination, ToSource};

/// A place in a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spot {
    /// The preamble of the control link.
    ControlPreamble,
    /// The preamble of a bulk link.
    BulkPreamble,
    /// The preamble of an urgent link.
    UrgentPreamble,
    /// The first message of this name, in either direction: `Hello`, `Permit`, `Started`, …
    Message(&'static str),
    /// The frame of pages of this number on a bulk link, from 0: the pages of a chunk. Markers do
    /// not count.
    Pages(u64),
    /// The marker behind the last pages.
    Marker,
    /// The page request of this number on an urgent link, from 0.
    Request(u64),
    /// The answer of this number on an urgent link, from 0.
    UrgentPages(u64),
    /// What is no Ferry link.
    Foreign,
}

impl Spot {
    /// What the frame log calls such frames, and the number of this one if they are numbered.
    pub(super) fn kind(self) -> (&'static str, Option<u64>) {
        match self {
            Spot::ControlPreamble | Spot::BulkPreamble | Spot::UrgentPreamble => ("preamble", None),
            Spot::Message(name) => (name, None),
            Spot::Pages(number) | Spot::UrgentPages(number) => ("pages", Some(number)),
            Spot::Marker => ("marker", None),
            Spot::Request(number) => ("request", Some(number)),
            Spot::Foreign => ("foreign", None),
        }
    }
}

/// Bytes that belong together.
#[derive(Debug)]
pub(super) struct Unit {
    pub spot: Spot,
    pub bytes: Vec<u8>,
}

impl Unit {
    /// Of a bulk link's preamble: the link's number.
    pub(super) fn bulk_link(&self) -> Option<u8> {
        let head = self.bytes[..].try_into().ok()?;
        match preamble::Preamble::decode(head).ok()?.link {
            preamble::LinkRole::Bulk(number) => Some(number),
            preamble::LinkRole::Control | preamble::LinkRole::Urgent => None,
        }
    }
}

/// Whose bytes they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Sent by the source.
    Source,
    /// Sent by the destination.
    Destination,
}

impl Side {
    /// The one that hears this one.
    pub(super) fn other(self) -> Side {
        match self {
            Side::Source => Side::Destination,
            Side::Destination => Side::Source,
        }
    }
}

/// What a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// Messages.
    Control,
    /// Pages in order.
    Bulk,
    /// Page requests and their answers.
    Urgent,
    /// No link of Ferry's.
    Foreign,
}

/// One link of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// The control link.
    Control,
    /// The bulk link of this number, from 0.
    Bulk(u8),
    /// The urgent link.
    Urgent,
}

impl Link {
    /// Every link.
    pub const ALL: [Link; 4] = [Link::Control, Link::Bulk, Link::Urgent, Link::Foreign];
}

/// Reads units from one direction of a connection. Both directions learn from the source's
/// preamble what link it is.
pub(super) struct Reader {
    stream: Arc<TcpStream>,
    side: Side,
    link: Arc<OnceLock<Link>>,
    frames: u64,
}

impl Reader {
    pub(super) fn new(stream: Arc<TcpStream>, side: Side, link: Arc<OnceLock<Link>>) -> Self {
        Reader { stream, side, link, frames: 0 }
    }

    pub(super) fn side(&self) -> Side {
        self.side
    }

    /// What the connection is; `None` before the source's preamble.
    pub(super) fn link(&self) -> Option<Link> {
        self.link.get().copied()
    }

    /// Ends the connection that is read.
    pub(super) fn close(&self) {
        // A peer that has gone already is what is wanted.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// The next unit; `None` at the end of the stream.
    pub(super) fn next(&mut self) -> io::Result<Option<Unit>> {
        let unit = match (self.side, self.link.get()) {
            (Side::Source, None) => self.preamble(),
            (Side::Source, Some(Link::Control)) => self.message::<ToDestination>(),
            (Side::Source, Some(Link::Bulk)) => self.pages(Spot::Pages),
            (Side::Source, Some(Link::Urgent)) => self.pages(Spot::UrgentPages),
            (Side::Source, Some(Link::Foreign)) => self.foreign(),
            (Side::Destination, _) => match self.link.wait() {
                Link::Control => self.message::<ToSource>(),
                Link::Urgent => self.request(),
                Link::Bulk | Link::Foreign => self.foreign(),
            },
        };
        match unit {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            other => other.map(Some),
        }
    }

    fn exact(&mut self, bytes: &mut Vec<u8>, more: usize) -> io::Result<()> {
        let from = bytes.len();
        bytes.resize(from + more, 0);
        (&*self.stream).read_exact(&mut bytes[from..])
    }

    fn preamble(&mut self) -> io::Result<Unit> {
        let mut bytes = Vec::new();
        if let Err(error) = self.exact(&mut bytes, preamble::PREAMBLE_LEN) {
            // The other direction waits to hear what link this is.
            let _ = self.link.set(Link::Foreign);
            return Err(error);
        }
        let head = bytes[..].try_into().expect("as long as a preamble");
        let (link, spot) = match preamble::Preamble::decode(head).map(|preamble| preamble.link) {
            Ok(preamble::LinkRole::Control) => (Link::Control, Spot::ControlPreamble),
            Ok(preamble::LinkRole::Bulk(_)) => (Link::Bulk, Spot::BulkPreamble),
            Ok(preamble::LinkRole::Urgent) => (Link::Urgent, Spot::UrgentPreamble),
            Err(_) => (Link::Foreign, Spot::Foreign),
        };
        // Only this side sets it, once.
        let _ = self.link.set(link);
        Ok(Unit { spot, bytes })
    }

    fn message<M: Message>(&mut self) -> io::Result<Unit> {
        let mut bytes = Vec::new();
        self.exact(&mut bytes, control::HEADER_LEN)?;
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
        let (kind, len) = (bytes[2], word(12) + word(16));
        let name = M::limits(kind).map(|(name, ..)| name);
        self.exact(&mut bytes, len)?;
        Ok(Unit { spot: name.map_or(Spot::Foreign, Spot::Message), bytes })
    }

    fn pages(&mut self, spot: impl Fn(u64) -> Spot) -> io::Result<Unit> {
        let mut bytes = Vec::new();
        self.exact(&mut bytes, bulk::HEADER_LEN)?;
        // A chunk's first bitmap says how many pages follow; a packed one's header, how many
        // bytes.
        let pages: u32 = bytes[24..88].iter().map(|byte| byte.count_ones()).sum();
        let follows = match bytes[12] {
            1 => pages as usize * PAGE_SIZE as usize,
            4 => u32::from_le_bytes(bytes[20..24].try_into().expect("four bytes")) as usize,
            _ => return Ok(Unit { spot: Spot::Marker, bytes }),
        };
        self.exact(&mut bytes, follows)?;
        let spot = spot(self.frames);
        self.frames += 1;
        Ok(Unit { spot, bytes })
    }

    fn request(&mut self) -> io::Result<Unit> {
        let mut bytes = Vec::new();
        self.exact(&mut bytes, request::REQUEST_LEN)?;
        let spot = Spot::Request(self.frames);
        self.frames += 1;
        Ok(Unit { spot, bytes })
    }

    fn foreign(&mut self) -> io::Result<Unit> {
        let mut bytes = vec![0; 4096];
        let taken = (&*self.stream).read(&mut bytes)?;
        if taken == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        bytes.truncate(taken);
        Ok(Unit { spot: Spot::Foreign, bytes })
    }
}
