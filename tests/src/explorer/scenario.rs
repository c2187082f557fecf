//! What an exploration is about: mode, handshake, what decides ownership, which guards are in
//! force, and the bounds.

use ferry_migration::guards::{Guard, Guards};
use ferry_migration::message::Handshake;
use ferry_migration::source::Plan;

use super::bounds::{Bounds, Fault};
use super::record::Arbiter;

/// The generation of the guest's run that is migrated.
pub const GENERATION: u64 = 7;
/// The generation of another run of the same guest.
pub const OTHER_GENERATION: u64 = 6;

/// One exploration's question.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What ends the switchover.
    pub handshake: Handshake,
    /// Pages are left for after the start.
    pub postcopy: bool,
    /// A rehearsal precedes the stop.
    pub rehearse: bool,
    /// The source has a record.
    pub has_record: bool,
    /// The destination sees the source's record.
    pub record_shared: bool,
    /// The guest has come to the source by `setup` as well, and the record does not name it yet.
    pub has_come: bool,
    /// What decides, with the handshake `owned`.
    pub arbiter: Arbiter,
    /// Which sides show at the disk that a hand-over is under way; the source's first.
    pub signs: [bool; 2],
    /// The guards in force.
    pub guards: Guards,
    /// What may go wrong.
    pub bounds: Bounds,
}

impl Scenario {
    /// A migration with every guard, in which nothing goes wrong.
    #[must_use]
    pub fn new(handshake: Handshake, postcopy: bool) -> Self {
        Scenario {
            handshake,
            postcopy,
            rehearse: false,
            has_record: handshake == Handshake::Owned,
            record_shared: true,
            has_come: false,
            arbiter: Arbiter::Record,
            signs: [true; 2],
            guards: Guards::all(),
            bounds: Bounds::none(),
        }
    }

    /// The same, but `fault` may happen `times` times.
    #[must_use]
    pub fn with(self, fault: Fault, times: u128) -> Self {
        Scenario { bounds: self.bounds.with(fault, times), ..self }
    }

    /// The same without one guard.
    #[must_use]
    pub fn without(self, guard: Guard) -> Self {
        Scenario { guards: Guards::without(guard), ..self }
    }

    /// What the source is asked for.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.plan_of(GENERATION)
    }

    /// The same for a run of the guest that has this number.
    #[must_use]
    pub fn plan_of(&self, generation: u64) -> Plan {
        Plan {
            generation,
            rehearse: self.rehearse,
            postcopy: self.postcopy,
            handshake: self.handshake,
            insist_on_record: false,
            has_record: self.has_record,
        }
    }
}
