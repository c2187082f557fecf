//! The ownership record of an exploration: the product's own rules on small numbers.

use ferry_migration::guards::Guards;
use ferry_migration::ownership::custody::{self, Boot};
use ferry_migration::ownership::partnership::Reading;
use ferry_migration::ownership::{self, Change, Name, OwnerId, Partnership, Verdict, judge};
use ferry_migration::protection::{Answer, Rule, Rules};

use super::Side;

/// The generation in which the primary owns the guest.
pub const GENERATION: u64 = 5;
const PROTECTION: u128 = 7;

/// Who may run the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The primary.
    Primary,
    /// The secondary.
    Secondary,
    /// A third process, which has booted it.
    Third,
}

/// A change that a side asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Name the secondary as partner.
    Enrol,
    /// Go on without a partner.
    Solo,
    /// Take the guest over.
    TakeOver,
}

/// The record, and which side can reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Which run of the guest this is.
    pub generation: u8,
    /// Who may run it.
    pub owner: Owner,
    /// The secondary is named as partner.
    pub partner: bool,
    /// Who can reach it; the primary's first.
    pub seen: [bool; 2],
}

impl Record {
    /// As the greeting leaves it.
    #[must_use]
    pub fn new() -> Self {
        Record { generation: GENERATION as u8, owner: Owner::Primary, partner: false, seen: [true; 2] }
    }

    /// Whether `side` can reach it.
    #[must_use]
    pub fn is_seen_by(&self, side: Side) -> bool {
        self.seen[side as usize]
    }

    /// Carries out a change and answers.
    ///
    /// # Panics
    /// When a side asks for what no series of records may contain.
    pub fn carry_out(&mut self, operation: Operation, rules: Rules) -> Answer {
        let partnership = partnership();
        let change = match operation {
            Operation::Enrol => partnership.enrol(&owner(Owner::Secondary)),
            Operation::Solo if !rules.has(Rule::SoloIsASwap) => return self.drop_partner(),
            Operation::Solo => partnership.solo(),
            Operation::TakeOver => {
                let mut change = partnership.take_over(&owner(Owner::Secondary));
                // The swap itself expects the name that was read, and guards both rules again.
                if !rules.has(Rule::SoloIsASwap) || !rules.has(Rule::ReadsItsName) {
                    change.expected.partner = None;
                }
                change
            }
        };
        let me = owner(if operation == Operation::TakeOver { Owner::Secondary } else { Owner::Primary });
        match self.ask(&change) {
            Verdict::Write => Answer::Won,
            Verdict::Lost if operation != Operation::Enrol && partnership.is_mine(&me, &self.real()) => Answer::Won,
            Verdict::Repeat if rules.has(Rule::LostReplyIsReadBack) => Answer::Won,
            Verdict::Repeat | Verdict::Lost => Answer::Lost,
        }
    }

    /// A solo that keeps the generation: what [`Rule::SoloIsASwap`] forbids.
    fn drop_partner(&mut self) -> Answer {
        if self.owner != Owner::Primary {
            return Answer::Lost;
        }
        self.partner = false;
        Answer::Won
    }

    /// What it means to the secondary.
    #[must_use]
    pub fn reading(&self) -> Reading {
        partnership().reading(&owner(Owner::Secondary), Some(&self.real()))
    }

    /// A third process that has the disk boots the guest if the record allows it. Whether it does.
    pub fn boot(&mut self, rules: Rules) -> bool {
        let past = !rules.has(Rule::BootNeedsUnprotected);
        match custody::boot(Some(&self.real()), &guest(), &owner(Owner::Third), past, Guards::all()) {
            Ok(Boot::Swap(change)) => self.ask(&change) == Verdict::Write,
            _ => false,
        }
    }

    fn ask(&mut self, change: &Change) -> Verdict {
        let verdict = judge(&self.real(), &change.expected, &change.record);
        let verdict = verdict.unwrap_or_else(|error| panic!("{error}: {change:?}"));
        if verdict == Verdict::Write {
            let record = &change.record;
            self.generation = u8::try_from(record.generation).expect("generations of an exploration are small");
            self.owner = [Owner::Primary, Owner::Secondary, Owner::Third][record.owner.id as usize];
            self.partner = record.partner.is_some();
        }
        verdict
    }

    fn real(&self) -> ownership::Record {
        ownership::Record {
            vm: guest(),
            generation: self.generation.into(),
            owner: owner(self.owner),
            migration_id: PROTECTION,
            settled: true,
            nonce: 0,
            partner: self.partner.then(|| owner(Owner::Secondary)),
        }
    }
}

impl Default for Record {
    fn default() -> Self {
        Self::new()
    }
}

fn partnership() -> Partnership {
    let made = Partnership::new(guest(), PROTECTION, GENERATION, owner(Owner::Primary));
    made.expect("generations of an exploration are small")
}

fn guest() -> Name {
    Name::try_from("vm").expect("a good name")
}

fn owner(owner: Owner) -> OwnerId {
    OwnerId { id: owner as u128, label: guest() }
}
