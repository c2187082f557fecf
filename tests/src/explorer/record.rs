//! The ownership record as every process of an exploration sees it: one place, the changes that
//! are asked of it, and who can reach it.
//!
//! The rules are the product's own (`ferry_migration::ownership`): a record here is a small number
//! that is turned into a real one for each change. [`Arbiter::DiskLock`] is the idea that the
//! record replaces: the process that gets the disk's lock may run. It is here so that the table
//! can show what is wrong with it.

use ferry_migration::guards::Guards;
use ferry_migration::ownership::custody::{self, Arrival, Boot};
use ferry_migration::ownership::{self, Change, Handover, Name, OwnerId, Standing, Verdict, judge};

use super::scenario::GENERATION;
use super::{Party, Side};

pub use super::asked::{Kind, Migration, Operation, Reply};

/// The id of a migration that has no part in the one that is explored.
const ELSEWHERE: u8 = 50;
/// The id of the migration by which the guest came to the source.
const BEFORE: u8 = 60;
/// What the claim of a migration adds to its id.
const CLAIMS: u8 = 100;

/// An announced hand-over through which a guest has come: whose, and which.
pub type Passed = (Party, Migration);

/// That by which the guest came to the source.
pub const CAME: Passed = (Party::Former, Migration { generation: GENERATION as u8 - 1, id: BEFORE });
/// That of the first migration which is explored.
pub const FIRST: Passed = (Party::Source, Migration { generation: GENERATION as u8, id: 1 });

/// What decides who owns the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arbiter {
    /// A record that only a compare-and-swap changes.
    Record,
    /// A lock that a crash frees and that the next process takes.
    DiskLock,
}

/// The record, the disk's lock, and who can reach them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// What decides.
    pub arbiter: Arbiter,
    /// Which run of the guest this is.
    pub generation: u8,
    /// The generation when the migration began.
    pub began: u8,
    /// Who may run the guest.
    pub owner: Party,
    /// No migration is under way.
    pub settled: bool,
    /// The migration that changed it last; 0 is none.
    pub migration: u8,
    /// Who holds the disk's lock.
    pub lock: Option<Party>,
    /// The source can reach it.
    pub source_sees: bool,
    /// The destination can reach it.
    pub destination_sees: bool,
}

impl Record {
    /// As it is when a migration begins.
    #[must_use]
    pub fn new(arbiter: Arbiter, generation: u8) -> Self {
        Record {
            arbiter,
            generation,
            began: generation,
            owner: Party::Source,
            settled: true,
            migration: 0,
            lock: Some(Party::Source),
            source_sees: true,
            destination_sees: true,
        }
    }

    /// The same for a guest that came to the source in [`CAME`], before the record names it.
    #[must_use]
    pub fn when_come(self) -> Self {
        let (owner, Migration { generation, id }) = CAME;
        Record { generation, owner, settled: false, migration: id, ..self }
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
        match (self.arbiter, self.owner) {
            (Arbiter::Record, Party::Source) => !self.source_sees,
            (Arbiter::Record, Party::Destination) => !self.destination_sees,
            (Arbiter::Record, _) => false,
            (Arbiter::DiskLock, _) => !self.source_sees || !self.destination_sees,
        }
    }

    /// Whether the owner has changed since the migration began.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.generation > self.began
    }

    /// Carries out a change and answers.
    pub fn carry_out(&mut self, operation: Operation) -> Reply {
        match self.arbiter {
            Arbiter::Record => self.change(operation),
            Arbiter::DiskLock => self.take_lock(operation.kind),
        }
    }

    fn change(&mut self, Operation { kind, of }: Operation) -> Reply {
        let handover = handover(Party::Source, of);
        let (source, destination) = (owner(Party::Source), owner(Party::Destination));
        let there = self.real();
        match kind {
            Kind::Announce => self.ask(&handover.announce(1)),
            Kind::Claim => self.ask(&handover.commit(&destination)),
            Kind::TakeBack => match self.ask(&handover.take_back()) {
                Reply::Won => Reply::Won,
                _ => answer_to_source(&handover, &there),
            },
            Kind::GiveBack => {
                self.ask(&handover.give_back(&destination));
                Reply::Won
            }
            Kind::Settle | Kind::SettleSource => {
                let me = if kind == Kind::Settle { destination } else { source };
                if there.owner == me && !there.settled && there.migration_id == u128::from(of.id) {
                    self.ask(&there.settle());
                }
                Reply::Won
            }
            Kind::Assert => self.arrives(Party::Destination, of.id, &[(Party::Source, of)], Guards::all()),
            Kind::Seize => {
                let open = handover.standing(&source, Some(&there)) == Standing::Open;
                if open || handover.is_claimed(&there) {
                    let change = custody::seize(&there, &source).expect("as above");
                    return self.ask(&change);
                }
                answer_to_source(&handover, &there)
            }
        }
    }

    /// The source asks for its guest, whose disk was let go of, before that runs again; `id` is
    /// that of its migration. What [`Record::settle_claim`] asks for later, if it is won.
    pub fn run_again(&mut self, id: u8, guards: Guards) -> Option<Migration> {
        let id = id + CLAIMS;
        let change = custody::run_again(&self.real(), &owner(Party::Source), id.into(), guards).ok()?;
        (self.ask(&change) == Reply::Won).then_some(Migration { generation: self.generation, id })
    }

    /// Whether this is the claim as it was won. Once it is not, it never is again.
    #[must_use]
    pub fn is_claim(&self, claim: Migration) -> bool {
        let is_there = self.owner == Party::Source && self.generation == claim.generation;
        is_there && self.migration == claim.id && !self.settled
    }

    /// The guest runs that was claimed: says so, unless the record has changed since.
    pub fn settle_claim(&mut self, claim: Migration) {
        if self.is_claim(claim) {
            self.ask(&self.real().settle());
        }
    }

    /// The record is asked for the guest that has come to the source; whether it names it then.
    pub fn names_source(&mut self, guards: Guards) -> bool {
        self.arrives(Party::Source, BEFORE, &[CAME], guards) == Reply::Won
    }

    /// The record is asked for a copy of the guest that has come to a third process by mistake.
    pub fn names_third(&mut self, through: &[Passed], guards: Guards) {
        self.arrives(Party::Third, ELSEWHERE, through, guards);
    }

    /// What a process that boots the guest may ask of the record as it is now; none if that is
    /// refused.
    #[must_use]
    pub fn boot(&self, take: bool, guards: Guards) -> Option<Swap> {
        match custody::boot(Some(&self.real()), &guest(), &owner(Party::Third), take, guards) {
            Ok(Boot::Swap(change)) => {
                Some(Swap { generation: self.generation, owner: self.owner, settled: change.expected.settled })
            }
            _ => None,
        }
    }

    /// Whether a boot that has read the record gets it.
    pub fn boots(&mut self, swap: Swap) -> bool {
        let reign = ownership::Expected::reign(swap.generation.into(), owner(swap.owner));
        let expected = ownership::Expected { settled: swap.settled, ..reign };
        let there = self.real();
        let record = ownership::Record {
            generation: u64::from(swap.generation) + 1,
            owner: owner(Party::Third),
            settled: true,
            migration_id: 0,
            ..there
        };
        self.ask(&Change { expected, record }) == Reply::Won
    }

    /// A process to which the guest has come without a claim, in the migration `id`, asks for the
    /// record; `through`: what the guest says that it has come through.
    pub fn arrives(&mut self, party: Party, id: u8, through: &[Passed], guards: Guards) -> Reply {
        let (me, there) = (owner(party), self.real());
        let through: Vec<Handover> = through.iter().map(|(from, of)| handover(*from, *of)).collect();
        match custody::arrived(Some(&there), (&guest(), &me), id.into(), &through, guards) {
            Ok(Arrival::Swap { change, .. }) => self.ask(&change),
            Ok(_) => Reply::Won,
            Err(_) => Reply::Taken,
        }
    }

    fn ask(&mut self, change: &Change) -> Reply {
        match judge(&self.real(), &change.expected, &change.record) {
            Ok(Verdict::Write) => {
                self.put(&change.record);
                Reply::Won
            }
            Ok(Verdict::Repeat) => Reply::Won,
            Ok(Verdict::Lost) => Reply::Lost,
            Err(error) => panic!("{error}: {change:?}"),
        }
    }

    fn real(&self) -> ownership::Record {
        ownership::Record {
            vm: guest(),
            generation: self.generation.into(),
            owner: owner(self.owner),
            migration_id: self.migration.into(),
            settled: self.settled,
            nonce: 0,
            partner: None,
        }
    }

    fn put(&mut self, record: &ownership::Record) {
        self.generation = u8::try_from(record.generation).expect("generations of an exploration are small");
        self.owner = Party::ALL[record.owner.id as usize];
        self.settled = record.settled;
        self.migration = u8::try_from(record.migration_id).expect("so are the ids of its migrations");
    }

    fn take_lock(&mut self, kind: Kind) -> Reply {
        let (party, other) = match kind {
            Kind::TakeBack => (Party::Source, Party::Destination),
            _ => (Party::Destination, Party::Source),
        };
        match kind {
            Kind::Announce | Kind::SettleSource | Kind::Settle => {}
            Kind::GiveBack => self.lock = None,
            _ if self.lock == Some(other) => return Reply::Lost,
            _ => self.lock = Some(party),
        }
        Reply::Won
    }
}

/// What a boot has read, and expects when it changes the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Swap {
    generation: u8,
    owner: Party,
    settled: Option<bool>,
}

/// As the runtime answers its source when a change was not won.
fn answer_to_source(handover: &Handover, there: &ownership::Record) -> Reply {
    match handover.standing(&owner(Party::Source), Some(there)) {
        Standing::Mine => Reply::Won,
        _ if handover.is_claimed(there) => Reply::Claimed,
        _ if there.migration_id == handover.migration_id() => Reply::Lost,
        _ => Reply::Taken,
    }
}

fn handover(from: Party, of: Migration) -> Handover {
    let handover = Handover::new(guest(), of.id.into(), of.generation.into(), owner(from));
    handover.expect("generations of an exploration are small")
}

fn guest() -> Name {
    Name::try_from("vm").expect("a good name")
}

fn owner(party: Party) -> OwnerId {
    OwnerId { id: party as u128, label: guest() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIGRATION: Migration = Migration { generation: 7, id: 1 };

    fn ask(record: &mut Record, kind: Kind) -> Reply {
        record.carry_out(kind.of(MIGRATION))
    }

    #[test]
    fn of_two_swaps_one_wins() {
        for (first, second) in [(Kind::Claim, Kind::TakeBack), (Kind::TakeBack, Kind::Claim)] {
            let mut record = Record::new(Arbiter::Record, 7);
            ask(&mut record, Kind::Announce);
            assert_eq!(ask(&mut record, first), Reply::Won);
            assert_ne!(ask(&mut record, second), Reply::Won);
            assert_eq!(ask(&mut record, first), Reply::Won, "a repeat is won");
        }
    }

    #[test]
    fn what_is_claimed_can_be_given_back_and_what_is_settled_not_lost() {
        let mut record = Record::new(Arbiter::Record, 7);
        ask(&mut record, Kind::Claim);
        assert_eq!(ask(&mut record, Kind::TakeBack), Reply::Claimed);
        let mut settled = record;
        ask(&mut settled, Kind::Settle);
        assert_eq!(ask(&mut settled, Kind::TakeBack), Reply::Lost);
        ask(&mut record, Kind::GiveBack);
        assert_eq!(ask(&mut record, Kind::TakeBack), Reply::Won);
        assert_eq!(ask(&mut record, Kind::Claim), Reply::Lost);
    }

    #[test]
    fn a_boot_is_refused_by_an_announced_migration_and_then_tells_the_source() {
        let mut record = Record::new(Arbiter::Record, 7);
        let read = record.boot(false, Guards::all()).expect("the record is settled");
        ask(&mut record, Kind::Announce);
        assert_eq!(record.boot(false, Guards::all()), None);
        assert!(!record.boots(read), "the record has changed since it was read");
        let taken = record.boot(true, Guards::all()).expect("the operator says so");
        assert!(record.boots(taken));
        assert_eq!(ask(&mut record, Kind::TakeBack), Reply::Taken);
        assert_eq!(record.run_again(1, Guards::all()), None);
    }

    #[test]
    fn a_claimed_guest_is_said_to_be_here_when_it_runs_and_not_after_the_next_announcement() {
        let mut record = Record::new(Arbiter::Record, 7);
        ask(&mut record, Kind::Announce);
        let claim = record.run_again(1, Guards::all()).expect("it names the source");
        assert!(!record.settled && record.boot(false, Guards::all()).is_none());
        let mut next = record;
        next.carry_out(Kind::Announce.of(Migration { generation: claim.generation, id: 2 }));
        next.settle_claim(claim);
        assert!(!next.settled);
        record.settle_claim(claim);
        assert!(record.settled && record.generation == 8);
    }

    #[test]
    fn a_lock_is_had_by_the_next_that_comes() {
        let mut record = Record { lock: None, ..Record::new(Arbiter::DiskLock, 7) };
        assert_eq!(ask(&mut record, Kind::Claim), Reply::Won);
        assert_eq!(ask(&mut record, Kind::TakeBack), Reply::Lost);
        record.lock = None;
        assert_eq!(ask(&mut record, Kind::TakeBack), Reply::Won);
    }
}
