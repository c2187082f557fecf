//! What the two sides ask of the ownership record, and what it answers.

/// Which migration asks: the run of the guest that it moves, and its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Migration {
    /// The generation in which the source owns the guest.
    pub generation: u8,
    /// Tells it from others.
    pub id: u8,
}

/// A change that a side asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Source: a migration is under way.
    Announce,
    /// Destination: `{g, source} → {g+1, destination}`.
    Claim,
    /// Source: `{g, source} → {g+1, source}`.
    TakeBack,
    /// Destination: `{g+1, destination} → {g+2, source}`.
    GiveBack,
    /// Destination: the guest runs here, and no migration is under way.
    Settle,
    /// Destination, without having claimed: the guest runs here.
    Assert,
    /// Source: the guest is here, and no migration is under way.
    SettleSource,
    /// Source, whose operator has decided: also over the destination's claim.
    Seize,
}

impl Kind {
    /// Asked in this migration.
    #[must_use]
    pub fn of(self, of: Migration) -> Operation {
        Operation { kind: self, of }
    }
}

/// A change, and the migration in which it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operation {
    /// Which change.
    pub kind: Kind,
    /// By which migration.
    pub of: Migration,
}

/// What the record answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// It names the side that asked.
    Won,
    /// It names the other side, for good.
    Lost,
    /// It names the other side, which may still give it back.
    Claimed,
    /// It names a process that has no part in the migration.
    Taken,
}
