//! Splits what passes through the relay into the units that a plan can name: a preamble, a message, a frame of pages.

use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;
use std::sync::{Arc, OnceLock};

use ferry_migration::pages::PAGE_SIZE;
use ferry_migration::wire::{Message, bulk, control, preamble};
use ferry_migration::{ToDestination, ToSource};

/// A place in a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spot {
    /// The preamble of the control link.
    ControlPreamble,
    /// The preamble of a bulk link.
    BulkPreamble,
    /// The first message of this name, in either direction: `Hello`, `Permit`, `Started`, …
    Message(&'static str),
    /// The bulk frame of this number, from 0: the pages of a chunk.
    Pages(u64),
    /// The marker behind the last pages.
    Marker,
    /// What is no Ferry link.
    Foreign,
}

/// Bytes that belong together.
#[derive(Debug)]
pub struct Unit {
    pub spot: Spot,
    pub bytes: Vec<u8>,
}

/// Whose bytes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Control,
    Bulk,
    Foreign,
}

/// Reads units from one direction of a connection. Both directions learn from the source's preamble what link it is.
pub struct Reader {
    stream: TcpStream,
    side: Side,
    link: Arc<OnceLock<Link>>,
    frames: u64,
}

impl Reader {
    pub fn new(stream: TcpStream, side: Side, link: Arc<OnceLock<Link>>) -> Self {
        Reader { stream, side, link, frames: 0 }
    }

    /// The next unit; `None` at the end of the stream.
    pub fn next(&mut self) -> io::Result<Option<Unit>> {
        let unit = match (self.side, self.link.get()) {
            (Side::Source, None) => self.preamble(),
            (Side::Source, Some(Link::Control)) => self.message::<ToDestination>(),
            (Side::Source, Some(Link::Bulk)) => self.pages(),
            (Side::Source, Some(Link::Foreign)) => self.foreign(),
            (Side::Destination, _) => match self.link.wait() {
                Link::Control => self.message::<ToSource>(),
                _ => self.foreign(),
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
        self.stream.read_exact(&mut bytes[from..])
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
            Ok(preamble::Link::Control) => (Link::Control, Spot::ControlPreamble),
            Ok(preamble::Link::Bulk(_)) => (Link::Bulk, Spot::BulkPreamble),
            // Postcopy's requests and answers are passed on as they come.
            Ok(preamble::Link::Urgent) | Err(_) => (Link::Foreign, Spot::Foreign),
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

    fn pages(&mut self) -> io::Result<Unit> {
        let mut bytes = Vec::new();
        self.exact(&mut bytes, bulk::HEADER_LEN)?;
        // A chunk's first bitmap says how many pages follow; a marker's is empty.
        let pages: u32 = bytes[24..88].iter().map(|byte| byte.count_ones()).sum();
        let is_marker = bytes[12] != 1;
        self.exact(&mut bytes, pages as usize * PAGE_SIZE as usize)?;
        let spot = if is_marker { Spot::Marker } else { Spot::Pages(self.frames) };
        self.frames += 1;
        Ok(Unit { spot, bytes })
    }

    fn foreign(&mut self) -> io::Result<Unit> {
        let mut bytes = vec![0; 4096];
        let taken = self.stream.read(&mut bytes)?;
        if taken == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        bytes.truncate(taken);
        Ok(Unit { spot: Spot::Foreign, bytes })
    }
}
