//! The explorer of protections: drives a primary's and a secondary's state machine through every
//! interleaving of messages, work, timers, faults and operators within bounds, and checks what
//! continuous checkpoints promise.
//!
//! As [`crate::explorer`] does for migrations: a [`World`] is one moment of everything,
//! [`World::events`] lists what can happen next, [`World::apply`] makes it happen, and [`explore`]
//! goes everywhere, breadth first. Memory is two pages and the disk two sectors, as numbers of the
//! epoch that wrote them; the first is written in every epoch, the second in every other one. What
//! the guest puts out is one output in each epoch.

pub mod bounds;
pub mod campaigns;
pub mod event;
mod events;
pub mod facts;
pub mod invariants;
pub mod link;
pub mod mutants;
mod primary_side;
pub mod record;
pub mod search;
mod secondary_side;
pub mod simulator;
pub mod world;

pub use bounds::{Bounds, Fault};
pub use invariants::Promise;
pub use search::{Limits, Report, explore};
pub use world::{Scenario, World};

/// One of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The side that runs the guest.
    Primary,
    /// The side that may take it over.
    Secondary,
}

impl Side {
    /// Both.
    pub const ALL: [Side; 2] = [Side::Primary, Side::Secondary];

    /// The other one.
    #[must_use]
    pub fn other(self) -> Side {
        match self {
            Side::Primary => Side::Secondary,
            Side::Secondary => Side::Primary,
        }
    }
}

/// What a guest's two pages, or its disk's two sectors, hold: the number of the epoch that wrote
/// each.
///
/// (No array of bytes: a fingerprint takes one for a text, and ignores it.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Contents {
    first: u8,
    second: u8,
}

impl Contents {
    /// What the secondary's guest has written, once it is seen outside.
    pub const LIVE: Contents = Contents { first: 99, second: 99 };

    /// At the end of this epoch.
    #[must_use]
    pub fn of(epoch: u8) -> Self {
        Contents { first: epoch, second: epoch & !1 }
    }

    /// Replaces one of the two, 0 or 1, with that of this epoch.
    pub fn write(&mut self, which: usize, epoch: u8) {
        match which {
            0 => self.first = Contents::of(epoch).first,
            _ => self.second = Contents::of(epoch).second,
        }
    }
}

/// Which of the two an epoch writes.
#[must_use]
pub fn written(epoch: u8) -> [bool; 2] {
    [true, epoch.is_multiple_of(2)]
}
