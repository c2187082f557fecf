//! The ownership record as the two sides see it: one place, four changes, and who can reach it.
//!
//! [`Arbiter::DiskLock`] is the idea that the record replaces: whoever gets the disk's lock may run. It is here so that the
//! table can show what is wrong with it.

use super::Side;

/// What decides who owns the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arbiter {
    /// A record that only a compare-and-swap changes.
    Record,
    /// A lock that a crash frees and that whoever comes may take.
    DiskLock,
}

/// A change that a side asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Destination: `{g, source} → {g+1, destination}`.
    Claim,
    /// Source: `{g, source} → {g+1, source}`.
    TakeBack,
    /// Destination: `{g+1, destination} → {g+2, source}`.
    GiveBack,
    /// Destination: the guest runs here; nothing is under way any more.
    Settle,
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
}

/// The record, the disk's lock, and who can reach them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// What decides.
    pub arbiter: Arbiter,
    /// Changes of the owner since the migration began.
    pub changes: u8,
    /// Who may run the guest.
    pub owner: Side,
    /// The owner runs the guest and will not give it back.
    pub settled: bool,
    /// Who holds the disk's lock.
    pub lock: Option<Side>,
    /// The source can reach it.
    pub source_sees: bool,
    /// The destination can reach it.
    pub destination_sees: bool,
}

impl Record {
    /// As it is when a migration begins.
    #[must_use]
    pub fn new(arbiter: Arbiter) -> Self {
        Record {
            arbiter,
            changes: 0,
            owner: Side::Source,
            settled: true,
            lock: Some(Side::Source),
            source_sees: true,
            destination_sees: true,
        }
    }

    /// Whether `side` can reach it.
    #[must_use]
    pub fn seen_by(&self, side: Side) -> bool {
        match side {
            Side::Source => self.source_sees,
            Side::Destination => self.destination_sees,
        }
    }

    /// Puts it within or out of the reach of `side`.
    pub fn set_seen_by(&mut self, side: Side, sees: bool) {
        match side {
            Side::Source => self.source_sees = sees,
            Side::Destination => self.destination_sees = sees,
        }
    }

    /// Whether a live pair may have to wait for it: the side that it names does not see it.
    #[must_use]
    pub fn keeps_waiting(&self) -> bool {
        match self.arbiter {
            Arbiter::Record => !self.seen_by(self.owner),
            Arbiter::DiskLock => !self.source_sees || !self.destination_sees,
        }
    }

    /// Carries out a change and answers.
    pub fn carry_out(&mut self, operation: Operation) -> Reply {
        match self.arbiter {
            Arbiter::Record => self.swap(operation),
            Arbiter::DiskLock => self.take_lock(operation),
        }
    }

    fn swap(&mut self, operation: Operation) -> Reply {
        match (operation, self.changes, self.owner) {
            (Operation::Claim, 0, _) => self.change(Side::Destination),
            (Operation::TakeBack, 0, _) => self.change(Side::Source),
            (Operation::GiveBack, 1, Side::Destination) => self.change(Side::Source),
            (Operation::Settle, 1, Side::Destination) => {
                self.settled = true;
                Reply::Won
            }
            // Asked for again after a lost reply, or given back by the other side.
            (Operation::Claim, 1, Side::Destination) | (Operation::TakeBack, _, Side::Source) => Reply::Won,
            (Operation::TakeBack, _, Side::Destination) if !self.settled => Reply::Claimed,
            (Operation::GiveBack, _, Side::Source) => Reply::Won,
            _ => Reply::Lost,
        }
    }

    fn change(&mut self, owner: Side) -> Reply {
        self.changes += 1;
        self.owner = owner;
        self.settled = false;
        Reply::Won
    }

    fn take_lock(&mut self, operation: Operation) -> Reply {
        let (side, other) = match operation {
            Operation::TakeBack => (Side::Source, Side::Destination),
            _ => (Side::Destination, Side::Source),
        };
        match operation {
            Operation::GiveBack => self.lock = None,
            _ if self.lock == Some(other) => return Reply::Lost,
            _ => self.lock = Some(side),
        }
        Reply::Won
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_swaps_one_wins() {
        for (first, second) in [(Operation::Claim, Operation::TakeBack), (Operation::TakeBack, Operation::Claim)] {
            let mut record = Record::new(Arbiter::Record);
            assert_eq!(record.carry_out(first), Reply::Won);
            assert_ne!(record.carry_out(second), Reply::Won);
            assert_eq!(record.carry_out(first), Reply::Won, "a repeat is won");
        }
    }

    #[test]
    fn what_is_claimed_can_be_given_back_and_what_is_settled_not_lost() {
        let mut record = Record::new(Arbiter::Record);
        record.carry_out(Operation::Claim);
        assert_eq!(record.carry_out(Operation::TakeBack), Reply::Claimed);
        let mut settled = record;
        settled.carry_out(Operation::Settle);
        assert_eq!(settled.carry_out(Operation::TakeBack), Reply::Lost);
        record.carry_out(Operation::GiveBack);
        assert_eq!(record.carry_out(Operation::TakeBack), Reply::Won);
        assert_eq!(record.carry_out(Operation::Claim), Reply::Lost);
    }

    #[test]
    fn a_lock_is_had_by_whoever_comes() {
        let mut record = Record { lock: None, ..Record::new(Arbiter::DiskLock) };
        assert_eq!(record.carry_out(Operation::Claim), Reply::Won);
        assert_eq!(record.carry_out(Operation::TakeBack), Reply::Lost);
        record.lock = None;
        assert_eq!(record.carry_out(Operation::TakeBack), Reply::Won);
    }
}
