//! One hand-over as data: the changes that its two sides may request, and what a record means to
//! each of them.
//!
//! ```text
//!                 ┌─ commit ────► {g+1, D} ── give_back ─► {g+2, S}
//!   {g, S} ───────┤
//!                 └─ take_back ─► {g+1, S}
//! ```
//!
//! Both ways out of `{g, S}` expect the same record, so one of them loses. The state machines
//! request these changes; the explorer uses the same type to check that no process runs a guest
//! that the record gives to another.

use serde::{Deserialize, Serialize};

use crate::ownership::{Change, Expected, Name, OwnerId, Record, RuleError};

/// What both sides of one migration know about its ownership.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Handover {
    vm: Name,
    migration_id: u128,
    generation: u64,
    source: OwnerId,
}

/// What a record means to one side of a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Undecided: the record names the source, as before the hand-over. A side may run only once it
    /// has won a swap; before the permit, the source may run without one.
    Open,
    /// Decided for this side: it may run the guest.
    Mine,
    /// Decided for another process: this side must not run the guest in this hand-over any more.
    Theirs,
    /// Not a record of this hand-over: another guest, an earlier generation, or none. Decides
    /// nothing; no side runs on it.
    Unrelated,
}

impl Handover {
    /// The hand-over of `vm` by `source`, which owns it in `generation`.
    ///
    /// # Errors
    /// When the generation, which a peer may have sent, leaves no room for the two changes that
    /// may follow.
    pub fn new(vm: Name, migration_id: u128, generation: u64, source: OwnerId) -> Result<Self, RuleError> {
        if generation > u64::MAX - 2 {
            return Err(RuleError::Exhausted { generation });
        }
        Ok(Handover { vm, migration_id, generation, source })
    }

    /// The generation in which the source owns the guest.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The migration's id.
    #[must_use]
    pub fn migration_id(&self) -> u128 {
        self.migration_id
    }

    /// The source's change before `Hello`: a hand-over is under way, with the nonce that the
    /// destination must read back.
    #[must_use]
    pub fn announce(&self, nonce: u64) -> Change {
        let expected = Expected::reign(self.generation, self.source.clone());
        Change { expected, record: Record { nonce, ..self.record(0, &self.source) } }
    }

    /// The destination's change after the permit: it owns the guest. Once won, this is the commit.
    #[must_use]
    pub fn commit(&self, destination: &OwnerId) -> Change {
        self.change(0, &self.source, destination)
    }

    /// The source's change after the permit: it keeps the guest. Once won, the destination is
    /// fenced.
    #[must_use]
    pub fn take_back(&self) -> Change {
        self.change(0, &self.source, &self.source)
    }

    /// The destination's change if it has committed and cannot start.
    #[must_use]
    pub fn give_back(&self, destination: &OwnerId) -> Change {
        self.change(1, destination, &self.source)
    }

    /// What `record` means to `me`, one of the two sides.
    #[must_use]
    pub fn standing(&self, me: &OwnerId, record: Option<&Record>) -> Standing {
        let Some(record) = record.filter(|r| r.vm == self.vm && r.generation >= self.generation) else {
            return Standing::Unrelated;
        };
        match (record.generation == self.generation, &record.owner) {
            (true, owner) if *owner == self.source => Standing::Open,
            // Another owner in the source's own generation: the source was never the owner that it
            // claimed to be.
            (true, _) => Standing::Unrelated,
            (false, owner) if owner == me => Standing::Mine,
            (false, _) => Standing::Theirs,
        }
    }

    /// Whether `record` is this hand-over's claim by the destination, which has not settled it yet
    /// and may still give the guest back.
    #[must_use]
    pub fn is_claimed(&self, record: &Record) -> bool {
        let claim = self.generation + 1 == record.generation && record.migration_id == self.migration_id;
        claim && record.vm == self.vm && record.owner != self.source && !record.settled
    }

    fn change(&self, steps: u64, from: &OwnerId, to: &OwnerId) -> Change {
        let expected = Expected::reign(self.generation + steps, from.clone());
        Change { expected, record: self.record(steps + 1, to) }
    }

    fn record(&self, steps: u64, owner: &OwnerId) -> Record {
        Record {
            vm: self.vm.clone(),
            generation: self.generation + steps,
            owner: owner.clone(),
            migration_id: self.migration_id,
            settled: false,
            nonce: 0,
            partner: None,
        }
    }
}

impl Record {
    /// The change by which its owner, which runs the guest, records that no hand-over is under way.
    #[must_use]
    pub fn settle(&self) -> Change {
        let expected =
            Expected { partner: Some(self.partner.clone()), ..Expected::reign(self.generation, self.owner.clone()) };
        Change { expected, record: Record { settled: true, nonce: 0, ..self.clone() } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::swap::{Verdict, judge};
    use crate::ownership::tests::{name, owner, record};

    const G: u64 = 5;
    const S: u128 = 1;
    const D: u128 = 2;
    const OTHER: u128 = 3;

    fn handover() -> Handover {
        Handover::new(name("vm"), 7, G, owner(S)).unwrap()
    }

    fn changes() -> Vec<Change> {
        let h = handover();
        let committed = h.commit(&owner(D)).record;
        vec![
            h.announce(9),
            h.announce(9).record.settle(),
            h.commit(&owner(D)),
            h.take_back(),
            h.give_back(&owner(D)),
            committed.settle(),
            h.take_back().record.settle(),
        ]
    }

    #[test]
    fn what_a_record_means_to_each_side() {
        use Standing::{Mine, Open, Theirs, Unrelated};
        let renamed = Record { vm: name("other"), ..record(G + 1, D) };
        let table = [
            (Some(record(G, S)), Open, Open),
            (Some(record(G + 1, D)), Theirs, Mine),
            (Some(record(G + 1, S)), Mine, Theirs),
            (Some(record(G + 2, S)), Mine, Theirs),
            (Some(record(G + 1, OTHER)), Theirs, Theirs),
            (Some(record(G + 9, OTHER)), Theirs, Theirs),
            (Some(record(G - 1, S)), Unrelated, Unrelated),
            (Some(record(G, D)), Unrelated, Unrelated),
            (Some(renamed), Unrelated, Unrelated),
            (None, Unrelated, Unrelated),
        ];
        for (record, to_source, to_destination) in table {
            let found = [S, D].map(|side| handover().standing(&owner(side), record.as_ref()));
            assert_eq!(found, [to_source, to_destination], "{record:?}");
        }
    }

    /// Every record that a hand-over can lead to, in any order of its changes and however often
    /// they come.
    fn reachable() -> Vec<Record> {
        let mut seen = vec![Record { settled: true, migration_id: 1, ..record(G, S) }];
        let mut next = 0;
        while next < seen.len() {
            for change in changes() {
                let verdict = judge(&seen[next], &change.expected, &change.record).unwrap();
                if verdict == Verdict::Write && !seen.contains(&change.record) {
                    seen.push(change.record);
                }
            }
            next += 1;
        }
        seen
    }

    #[test]
    fn no_record_gives_the_guest_to_both() {
        let reachable = reachable();
        let owners: Vec<_> = reachable.iter().map(|r| (r.generation, r.owner.id, r.settled)).collect();
        for wanted in [(G, S, false), (G + 1, D, false), (G + 1, D, true), (G + 1, S, true), (G + 2, S, false)] {
            assert!(owners.contains(&wanted), "{wanted:?} not in {owners:?}");
        }
        for record in reachable {
            let [to_source, to_destination] = [S, D].map(|side| handover().standing(&owner(side), Some(&record)));
            assert!(!(to_source == Standing::Mine && to_destination == Standing::Mine), "{record:?}");
            assert_eq!(to_source == Standing::Open, to_destination == Standing::Open, "{record:?}");
        }
    }

    #[test]
    fn a_decided_record_stays_decided_against_the_loser() {
        let h = handover();
        let lost = |current: &Record, change: Change| judge(current, &change.expected, &change.record).unwrap();
        assert_eq!(lost(&h.commit(&owner(D)).record, h.take_back()), Verdict::Lost);
        assert_eq!(lost(&h.take_back().record, h.commit(&owner(D))), Verdict::Lost);
        assert_eq!(lost(&h.take_back().record, h.give_back(&owner(D))), Verdict::Lost);
        assert_eq!(lost(&h.give_back(&owner(D)).record, h.commit(&owner(D))), Verdict::Lost);
        assert_eq!(lost(&h.commit(&owner(D)).record, h.announce(3)), Verdict::Lost);
    }

    #[test]
    fn a_forged_generation_is_refused() {
        let at = |generation| Handover::new(name("vm"), 7, generation, owner(S));
        assert_eq!(at(u64::MAX - 1), Err(RuleError::Exhausted { generation: u64::MAX - 1 }));
        let last = at(u64::MAX - 2).unwrap().give_back(&owner(D));
        assert_eq!(last.record.generation, u64::MAX);
    }
}
