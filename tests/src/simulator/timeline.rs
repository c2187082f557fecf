//! Virtual time: what happens when. Nothing waits for real.

use std::collections::BTreeMap;

use ferry_migration::Timer;

use crate::explorer::Side;
use crate::explorer::job::{DestinationJob, SourceJob};
use crate::explorer::record::{Operation, Reply};

/// Microseconds since the simulation began.
pub type Micros = u64;

/// Something that happens at a certain time.
#[derive(Clone, Debug)]
pub enum Happening {
    /// Bytes arrive over a connection of this number.
    Bytes(u32, Side, Vec<u8>),
    /// A side is told that a connection has ended.
    Ended(u32, Side),
    /// A timer that was started with this number runs out.
    Timer(Side, Timer, u64),
    /// Work of the source ends.
    Source(SourceJob),
    /// Work of the destination ends.
    Destination(DestinationJob),
    /// The record is asked.
    Ask(Side, Operation),
    /// A change of the record that was given up as unreachable happens.
    Straggles(Operation),
    /// The record answers, or nobody knows.
    Reply(Side, Operation, Option<Reply>),
    /// The marker arrives over a connection; the flag is whether every page has come with it.
    Marker(u32, bool),
    /// The last missing page arrives over a connection.
    Pages(u32),
    /// Something breaks.
    Fault(Fault),
    /// An operator looks at both sides.
    Operator,
}

/// What breaks on its own, beside frames on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends, and both are told.
    Break,
    /// Nothing arrives any more, and nobody is told.
    Silence,
    /// A process dies.
    Crash(Side),
    /// The record goes out of a side's reach, or comes back.
    Reach(Side, bool),
    /// What serves missing pages dies.
    FaultsDie,
    /// An operator cancels at this side.
    Cancel(Side),
    /// An operator pauses at this side.
    Pause(Side),
    /// An operator asks for postcopy.
    StartPostcopy,
}

/// What is still to happen, in order.
#[derive(Debug, Default)]
pub struct Timeline {
    /// The present.
    pub now: Micros,
    coming: BTreeMap<(Micros, u64), Happening>,
    number: u64,
}

impl Timeline {
    /// Lets `happening` happen after `delay`.
    pub fn after(&mut self, delay: Micros, happening: Happening) {
        self.number += 1;
        self.coming.insert((self.now + delay, self.number), happening);
    }

    /// Goes on to the next moment at which something happens, if there is one until `end`.
    pub fn next(&mut self, end: Micros) -> Option<Happening> {
        let entry = self.coming.first_entry().filter(|entry| entry.key().0 <= end)?;
        self.now = entry.key().0;
        Some(entry.remove())
    }
}
