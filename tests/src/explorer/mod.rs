//! The explorer: drives the two state machines of `ferry-migration`, the very types that the
//! runtime uses, through every interleaving of messages, work, timers, faults and operators within
//! bounds, and checks the promises of the switchover.
//!
//! A [`World`] is one moment of everything; [`World::events`] says what can happen next,
//! [`World::apply`] makes it happen, and [`explore`] goes everywhere, breadth first.
//! `docs/explorer.md` tells what is modelled and what is not.

mod apply;
pub mod asked;
pub mod bounds;
pub mod campaigns;
mod destination_side;
mod enabled;
pub mod event;
pub mod facts;
pub mod fingerprint;
pub mod graph;
pub mod invariants;
pub mod job;
pub mod lessons;
pub mod link;
pub mod mutants;
pub mod record;
pub mod results;
pub mod scenario;
pub mod search;
pub mod set;
mod source_side;
pub mod third;
pub mod trace;
pub mod variants;
pub mod world;

pub use bounds::{Bounds, Fault};
pub use invariants::Invariant;
pub use record::Arbiter;
pub use scenario::Scenario;
pub use search::{Limits, Report, explore};
pub use world::World;

/// Who can have to do with the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// The side that had it.
    Source,
    /// The side that is to get it.
    Destination,
    /// A process that boots it from its disk.
    Third,
    /// A process that only holds the disk's lock for a while.
    Other,
    /// The one from which the guest came to the source, and which is at its end.
    Former,
}

impl Party {
    /// Everybody, in the order of their numbers.
    pub const ALL: [Party; 5] = [Party::Source, Party::Destination, Party::Third, Party::Other, Party::Former];
}

impl From<Side> for Party {
    fn from(side: Side) -> Party {
        match side {
            Side::Source => Party::Source,
            Side::Destination => Party::Destination,
        }
    }
}

/// One of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The side that had the guest.
    Source,
    /// The side that is to get it.
    Destination,
}

impl Side {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Side {
        match self {
            Side::Source => Side::Destination,
            Side::Destination => Side::Source,
        }
    }
}
