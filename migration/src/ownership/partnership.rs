//! One protection as data: the changes of the record that a primary and its secondary may request,
//! and what the record means to the secondary.
//!
//! ```text
//!                                     ┌─ solo ─────► {g+1, P}
//!   {g, P} ── enrol ──► {g, P, S} ────┤
//!                                     └─ take over ► {g+1, S}
//! ```
//!
//! Both ways out expect generation g of P, so one of them loses. Only a swap to a new generation
//! removes the partner ([`judge`](crate::ownership::judge)): a secondary that has read its own
//! name there may rely on it until its swap is decided.

use serde::{Deserialize, Serialize};

use crate::ownership::{Change, Expected, Name, OwnerId, Record, RuleError};

/// What both sides of one protection know about its ownership.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Partnership {
    vm: Name,
    protection_id: u128,
    generation: u64,
    primary: OwnerId,
}

/// What a record means to the secondary of a protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reading {
    /// It names the primary, and this secondary as its partner: the secondary may take over.
    Partner,
    /// It names the primary in the protection's generation, without a partner: the secondary is
    /// not enrolled, and may still be.
    NoPartner,
    /// Anything else: the primary has gone solo, or another process has the guest. The secondary
    /// is out for good.
    Other,
}

impl Partnership {
    /// The protection of `vm`, which `primary` owns in `generation`.
    ///
    /// # Errors
    /// When the generation leaves no room for the change that may follow.
    pub fn new(vm: Name, protection_id: u128, generation: u64, primary: OwnerId) -> Result<Self, RuleError> {
        if generation == u64::MAX {
            return Err(RuleError::Exhausted { generation });
        }
        Ok(Partnership { vm, protection_id, generation, primary })
    }

    /// The generation in which the primary owns the guest.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The primary's change after the first commit: `secondary` may take over from now on. The
    /// record is settled with it, as no hand-over is under way any more.
    #[must_use]
    pub fn enrol(&self, secondary: &OwnerId) -> Change {
        let expected = Expected { partner: Some(None), ..Expected::reign(self.generation, self.primary.clone()) };
        let record = Record { partner: Some(secondary.clone()), ..self.record(self.generation, &self.primary) };
        Change { expected, record }
    }

    /// The primary's change to go on without a partner. Once won, the secondary is fenced.
    #[must_use]
    pub fn solo(&self) -> Change {
        self.swap(&self.primary)
    }

    /// The secondary's change: it owns the guest.
    #[must_use]
    pub fn take_over(&self, secondary: &OwnerId) -> Change {
        let mut change = self.swap(secondary);
        change.expected.partner = Some(Some(secondary.clone()));
        change
    }

    /// Whether `me` owns the guest by a record on which its own change was lost: a later
    /// generation that names `me` is `me`'s, however it came to be.
    #[must_use]
    pub fn is_mine(&self, me: &OwnerId, record: &Record) -> bool {
        record.vm == self.vm && record.owner == *me && record.generation > self.generation
    }

    /// What `record` means to `secondary`.
    #[must_use]
    pub fn reading(&self, secondary: &OwnerId, record: Option<&Record>) -> Reading {
        let ours = |record: &&Record| {
            record.vm == self.vm && record.generation == self.generation && record.owner == self.primary
        };
        match record.filter(ours).map(|record| (&record.partner, record.migration_id == self.protection_id)) {
            // An earlier protection by the same process has older checkpoints.
            Some((Some(partner), true)) if partner == secondary => Reading::Partner,
            Some((None, _)) => Reading::NoPartner,
            _ => Reading::Other,
        }
    }

    fn swap(&self, owner: &OwnerId) -> Change {
        let expected = Expected::reign(self.generation, self.primary.clone());
        Change { expected, record: self.record(self.generation + 1, owner) }
    }

    fn record(&self, generation: u64, owner: &OwnerId) -> Record {
        Record {
            vm: self.vm.clone(),
            generation,
            owner: owner.clone(),
            migration_id: self.protection_id,
            settled: true,
            nonce: 0,
            partner: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::tests::{name, owner, record};
    use crate::ownership::{Verdict, judge};

    const P: u128 = 1;
    const S: u128 = 2;
    const OTHER: u128 = 3;

    fn partnership() -> Partnership {
        Partnership::new(name("vm"), 7, 5, owner(P)).unwrap()
    }

    fn asked(current: &Record, change: &Change) -> Verdict {
        judge(current, &change.expected, &change.record).unwrap()
    }

    #[test]
    fn of_solo_and_takeover_one_wins_and_a_lost_reply_is_read_back() {
        let p = partnership();
        let settled = Record { settled: true, ..record(5, P) };
        let enrolled = p.enrol(&owner(S)).record;
        assert_eq!(asked(&settled, &p.enrol(&owner(S))), Verdict::Write);
        let (solo, taken) = (p.solo(), p.take_over(&owner(S)));
        for (first, second) in [(&solo, &taken), (&taken, &solo)] {
            assert_eq!(asked(&enrolled, first), Verdict::Write);
            assert_eq!(asked(&first.record, second), Verdict::Lost);
            assert_eq!(asked(&first.record, first), Verdict::Repeat);
            assert_eq!(first.record.partner, None);
        }
    }

    #[test]
    fn enrolment_follows_the_announcement_and_loses_to_a_boot_and_to_solo() {
        let enrol = partnership().enrol(&owner(S));
        // As the greeting has left it.
        assert_eq!(asked(&Record { nonce: 3, ..record(5, P) }, &enrol), Verdict::Write);
        assert_eq!(asked(&enrol.record, &enrol), Verdict::Repeat);
        // The guest was booted elsewhere; the primary has gone solo.
        for there in [record(6, OTHER), partnership().solo().record] {
            assert_eq!(asked(&there, &enrol), Verdict::Lost, "{there:?}");
        }
        let other = partnership().enrol(&owner(OTHER)).record;
        assert!(judge(&other, &enrol.expected, &enrol.record).is_ok_and(|verdict| verdict == Verdict::Lost));
    }

    #[test]
    fn what_a_record_means_to_the_secondary() {
        let p = partnership();
        let enrolled = p.enrol(&owner(S)).record;
        let table = [
            (Some(enrolled.clone()), Reading::Partner),
            (Some(record(5, P)), Reading::NoPartner),
            (Some(p.enrol(&owner(OTHER)).record), Reading::Other),
            (Some(Record { migration_id: 8, ..enrolled.clone() }), Reading::Other),
            (Some(p.solo().record), Reading::Other),
            (Some(record(6, OTHER)), Reading::Other),
            (Some(Record { vm: name("other"), ..enrolled }), Reading::Other),
            (None, Reading::Other),
        ];
        for (there, reading) in table {
            assert_eq!(p.reading(&owner(S), there.as_ref()), reading, "{there:?}");
        }
    }

    #[test]
    fn a_later_generation_that_names_a_process_is_its_own() {
        let p = partnership();
        assert!(p.is_mine(&owner(P), &record(6, P)) && p.is_mine(&owner(P), &record(9, P)));
        for there in [record(5, P), record(6, S), Record { vm: name("other"), ..record(6, P) }] {
            assert!(!p.is_mine(&owner(P), &there), "{there:?}");
        }
    }

    #[test]
    fn the_last_generation_protects_nothing() {
        let last = Partnership::new(name("vm"), 7, u64::MAX, owner(P));
        assert_eq!(last, Err(RuleError::Exhausted { generation: u64::MAX }));
    }
}
