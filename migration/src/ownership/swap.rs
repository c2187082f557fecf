//! The rules of the compare-and-swap, the same for every backend.
//!
//! A backend reads the record, calls [`judge`], and writes or not, all under its lock. Lost replies
//! are handled here as well: a change that was applied already is won when it is requested again.

use serde::{Deserialize, Serialize};

use crate::ownership::{Name, OwnerId, Record};

/// The condition on the record for a change to be applied.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Expected {
    /// The generation before the change.
    pub generation: u64,
    /// The owner before the change.
    pub owner: OwnerId,
    /// Whether the record must be settled, or must not be. A boot expects the value that it has
    /// read: a migration that has begun since then changes only this.
    pub settled: Option<bool>,
    /// The partner before the change, or that there was none, for a change that relies on it.
    pub partner: Option<Option<OwnerId>>,
}

impl Expected {
    /// This generation of this owner, settled or not, with a partner or without.
    #[must_use]
    pub fn reign(generation: u64, owner: OwnerId) -> Self {
        Expected { generation, owner, settled: None, partner: None }
    }

    /// The record as it was read, except for its migration and nonce.
    #[must_use]
    pub fn as_read(record: &Record) -> Self {
        Expected {
            settled: Some(record.settled),
            partner: Some(record.partner.clone()),
            ..Expected::reign(record.generation, record.owner.clone())
        }
    }

    fn matches(&self, current: &Record) -> bool {
        current.generation == self.generation
            && current.owner == self.owner
            && self.settled.is_none_or(|settled| settled == current.settled)
            && self.partner.as_ref().is_none_or(|partner| *partner == current.partner)
    }
}

/// One compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Change {
    /// The condition on the present record.
    pub expected: Expected,
    /// The new record.
    pub record: Record,
}

/// How a compare-and-swap ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Swap {
    /// The record is as requested, and durable.
    Won,
    /// Another process changed the record first. A retry cannot win.
    Lost(Record),
}

/// What a backend must do with a compare-and-swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Write the new record; then it is won.
    Write,
    /// This very change was applied before and its reply was lost: make the present record durable;
    /// then it is won.
    Repeat,
    /// Write nothing; it is lost.
    Lost,
}

/// Why a change can never be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The generation must grow by one with a change of the owner, and may stay only with the same
    /// owner.
    #[error("a change from generation {from} to {to}: it must grow by one, or stay with the same owner")]
    Generation {
        /// Before.
        from: u64,
        /// After.
        to: u64,
    },
    /// The record is about another guest.
    #[error("the record is about guest '{found}', not '{wanted}'")]
    OtherGuest {
        /// The record's guest.
        found: Name,
        /// The change's guest.
        wanted: Name,
    },
    /// A partner may take the guest over as long as the record names it, so only a new generation
    /// removes it.
    #[error("the guest is protected by {partner}: end that first")]
    Partner {
        /// The partner.
        partner: OwnerId,
    },
    /// Generations have run out, which only a forged number can cause.
    #[error("generation {generation} leaves none to hand the guest over with")]
    Exhausted {
        /// The generation.
        generation: u64,
    },
}

/// What a backend whose newest record is `current` must do with `expected → new`.
///
/// A generation that grows by one is a swap, even if the owner stays the same (that fences a
/// destination). A generation that stays is an update of `settled`, nonce and migration id by the
/// owner, or adds a partner.
///
/// # Errors
/// When no series of records may contain such a step; nothing may be written then.
pub fn judge(current: &Record, expected: &Expected, new: &Record) -> Result<Verdict, RuleError> {
    let update = new.generation == expected.generation && new.owner == expected.owner;
    let swap = expected.generation.checked_add(1) == Some(new.generation);
    if !update && !swap {
        return Err(RuleError::Generation { from: expected.generation, to: new.generation });
    }
    same_guest(current, new)?;
    if let (true, true, Some(partner)) = (update, expected.matches(current), &current.partner)
        && new.partner.as_ref() != Some(partner)
    {
        return Err(RuleError::Partner { partner: partner.clone() });
    }
    Ok(if expected.matches(current) { Verdict::Write } else { judge_repeat(current, new) })
}

/// What a backend that holds `current` already must do when asked to create `new`: never
/// [`Verdict::Write`].
///
/// # Errors
/// When the record is about another guest.
pub fn judge_create(current: &Record, new: &Record) -> Result<Verdict, RuleError> {
    same_guest(current, new)?;
    Ok(judge_repeat(current, new))
}

fn judge_repeat(current: &Record, new: &Record) -> Verdict {
    let named = new.partner.is_none() || current.partner == new.partner;
    let applied = named
        && current.generation == new.generation
        && current.owner == new.owner
        && current.migration_id == new.migration_id;
    if applied { Verdict::Repeat } else { Verdict::Lost }
}

fn same_guest(current: &Record, new: &Record) -> Result<(), RuleError> {
    if current.vm == new.vm {
        return Ok(());
    }
    Err(RuleError::OtherGuest { found: current.vm.clone(), wanted: new.vm.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::tests::{name, owner, record};

    const S: u128 = 1;
    const D: u128 = 2;

    fn expected(generation: u64, owner_id: u128) -> Expected {
        Expected::reign(generation, owner(owner_id))
    }

    #[test]
    fn of_two_swaps_from_one_record_one_wins() {
        let before = record(5, S);
        let (commit, take_back) = (record(6, D), record(6, S));
        assert_eq!(judge(&before, &expected(5, S), &commit), Ok(Verdict::Write));
        assert_eq!(judge(&before, &expected(5, S), &take_back), Ok(Verdict::Write));
        assert_eq!(judge(&commit, &expected(5, S), &take_back), Ok(Verdict::Lost));
        assert_eq!(judge(&take_back, &expected(5, S), &commit), Ok(Verdict::Lost));
    }

    #[test]
    fn a_repeated_change_is_won_and_keeps_what_came_after_it() {
        let settled = Record { settled: true, ..record(6, D) };
        assert_eq!(judge(&settled, &expected(5, S), &record(6, D)), Ok(Verdict::Repeat));
        let other_migration = Record { migration_id: 8, ..record(6, D) };
        assert_eq!(judge(&other_migration, &expected(5, S), &record(6, D)), Ok(Verdict::Lost));
        assert_eq!(judge(&record(7, D), &expected(5, S), &record(6, D)), Ok(Verdict::Lost));
    }

    #[test]
    fn a_change_that_expects_a_settled_record_loses_to_a_migration_that_has_begun() {
        let settled = Record { settled: true, ..record(5, S) };
        let expected = Expected::as_read(&settled);
        assert_eq!(judge(&settled, &expected, &record(6, D)), Ok(Verdict::Write));
        assert_eq!(judge(&record(5, S), &expected, &record(6, D)), Ok(Verdict::Lost));
        let enrolled = Record { partner: Some(owner(D)), ..settled.clone() };
        assert_eq!(judge(&enrolled, &expected, &record(6, 9)), Ok(Verdict::Lost), "nor to an enrolment");
        assert_eq!(judge(&settled, &Expected::as_read(&record(5, S)), &record(6, D)), Ok(Verdict::Lost));
    }

    #[test]
    fn an_update_keeps_generation_and_owner() {
        let update = Record { settled: true, nonce: 9, migration_id: 8, ..record(5, S) };
        assert_eq!(judge(&record(5, S), &expected(5, S), &update), Ok(Verdict::Write));
        assert_eq!(judge(&record(6, D), &expected(5, S), &update), Ok(Verdict::Lost));
    }

    #[test]
    fn only_a_swap_removes_a_partner() {
        let with = |id: u128| Record { partner: Some(owner(id)), settled: true, ..record(5, S) };
        let expected = expected(5, S);
        assert_eq!(judge(&record(5, S), &expected, &with(D)), Ok(Verdict::Write));
        assert_eq!(judge(&with(D), &expected, &with(D)), Ok(Verdict::Write), "the reply was lost");
        let unnamed = Expected { partner: Some(None), ..expected.clone() };
        assert_eq!(judge(&record(5, S), &unnamed, &with(D)), Ok(Verdict::Write));
        assert_eq!(judge(&with(D), &unnamed, &with(D)), Ok(Verdict::Repeat), "the same");
        let of_boot = Expected { settled: Some(true), ..expected.clone() };
        assert_eq!(judge(&record(5, S), &of_boot, &with(D)), Ok(Verdict::Lost), "it names no partner");
        for other in [with(9), record(5, S)] {
            assert_eq!(judge(&with(D), &expected, &other), Err(RuleError::Partner { partner: owner(D) }));
        }
        assert_eq!(judge(&with(D), &expected, &record(6, S)), Ok(Verdict::Write));
        assert_eq!(judge(&record(6, S), &expected, &with(D)), Ok(Verdict::Lost), "enrolled too late");
    }

    #[test]
    fn what_breaks_a_rule_is_refused_whatever_is_there() {
        for new in [record(5, D), record(7, D), record(7, S), record(4, S), record(0, S)] {
            let error = judge(&record(5, S), &expected(5, S), &new).unwrap_err();
            assert!(matches!(error, RuleError::Generation { from: 5, .. }), "{error}");
        }
        let end = judge(&record(u64::MAX, S), &expected(u64::MAX, S), &record(0, D));
        assert!(matches!(end, Err(RuleError::Generation { .. })));
        let other = Record { vm: name("other"), ..record(6, D) };
        assert!(matches!(judge(&record(5, S), &expected(5, S), &other), Err(RuleError::OtherGuest { .. })));
        assert!(matches!(judge_create(&record(5, S), &other), Err(RuleError::OtherGuest { .. })));
    }

    #[test]
    fn a_record_is_created_once() {
        assert_eq!(judge_create(&record(1, S), &record(1, S)), Ok(Verdict::Repeat));
        assert_eq!(judge_create(&record(1, S), &record(1, D)), Ok(Verdict::Lost));
        assert_eq!(judge_create(&record(2, S), &record(1, S)), Ok(Verdict::Lost));
    }
}
