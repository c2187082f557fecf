//! Who may run a guest outside of a switchover: a process that boots it, and one that lets it run
//! again after a failed migration.
//!
//! ```text
//!   a boot   reads the record ─► takes the disk's lock ─► swaps the record as it was read ─► runs
//!   `cont`   takes the disk's lock ─► makes the record name this process ─► runs ─► settles it
//! ```
//!
//! Both hold the disk's lock while they change the record, so of two that want the guest one sees
//! what the other has done. The runtime carries these changes out; the explorer does so too, and
//! shows what breaks without each rule.

use crate::guards::{Guard, Guards};
use crate::ownership::{Change, Expected, Name, OwnerId, Record, RuleError};

/// Why a process may not run the guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A process that is stopped and holds no lock may have the newest state of the guest.
    #[error("a migration of the guest is under way, or ended without an answer")]
    InHandover(Box<Record>),
    /// The guest is another process's.
    #[error("it names another process")]
    NamesAnother(Box<Record>),
    /// The record is about another guest, or its generations have run out.
    #[error(transparent)]
    Rule(#[from] RuleError),
}

/// What a process that boots the guest asks of the record, once it holds the disk's lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// There is no record: this is the first.
    Create(Record),
    /// The record as it was read gives way to this one.
    Swap(Change),
}

/// Whether `me` may boot the guest `vm` over the record that it has read, before it takes or
/// changes anything. `even_in_handover` is the operator's word that every other process of the
/// guest has ended.
///
/// # Errors
/// When another process may have the guest's newest state.
pub fn boot(
    there: Option<&Record>,
    vm: &Name,
    me: &OwnerId,
    even_in_handover: bool,
    guards: Guards,
) -> Result<Boot, Refusal> {
    let Some(there) = there else { return Ok(Boot::Create(settled(vm, 1, me))) };
    if there.vm != *vm {
        return Err(RuleError::OtherGuest { found: there.vm.clone(), wanted: vm.clone() }.into());
    }
    if !there.settled && !even_in_handover && guards.has(Guard::BootNeedsSettled) {
        return Err(Refusal::InHandover(Box::new(there.clone())));
    }
    let expected = match guards.has(Guard::BootSwapsWhatItRead) {
        true => Expected::as_read(there),
        false => Expected::reign(there.generation, there.owner.clone()),
    };
    Ok(Boot::Swap(Change { expected, record: settled(vm, next(there.generation)?, me) }))
}

/// What `me` asks of the record before it lets a guest run again whose disk it has let go of. Won,
/// the record names it in a new generation, so that a change which another process has asked for in
/// the old one is lost.
///
/// # Errors
/// When the record names another process: it may have run the guest.
pub fn run_again(there: &Record, me: &OwnerId, migration_id: u128) -> Result<Change, Refusal> {
    if there.owner != *me {
        return Err(Refusal::NamesAnother(Box::new(there.clone())));
    }
    let record =
        Record { migration_id, settled: false, nonce: 0, generation: next(there.generation)?, ..there.clone() };
    Ok(Change { expected: Expected::reign(there.generation, me.clone()), record })
}

/// What a source asks of the record whose operator knows that the destination, which may have claimed
/// the guest, never ran it.
///
/// # Errors
/// When the record's generations have run out.
pub fn seize(there: &Record, me: &OwnerId) -> Result<Change, RuleError> {
    let generation = next(there.generation)?;
    let record = Record { generation, owner: me.clone(), settled: false, nonce: 0, ..there.clone() };
    Ok(Change { expected: Expected::as_read(there), record })
}

fn settled(vm: &Name, generation: u64, owner: &OwnerId) -> Record {
    Record { vm: vm.clone(), generation, owner: owner.clone(), migration_id: 0, settled: true, nonce: 0 }
}

fn next(generation: u64) -> Result<u64, RuleError> {
    generation.checked_add(1).ok_or(RuleError::Exhausted { generation })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::tests::{name, owner, record};
    use crate::ownership::{Verdict, judge};

    const S: u128 = 1;
    const T: u128 = 3;

    fn boots(there: &Record, take: bool) -> Result<Boot, Refusal> {
        boot(Some(there), &name("vm"), &owner(T), take, Guards::all())
    }

    #[test]
    fn a_boot_is_refused_while_a_migration_may_have_left_the_guest_in_a_stopped_process() {
        assert!(matches!(boots(&record(5, S), false), Err(Refusal::InHandover(_))));
        assert!(boots(&record(5, S), true).is_ok());
        assert!(boots(&Record { settled: true, ..record(5, S) }, false).is_ok());
        let first = boot(None, &name("vm"), &owner(T), false, Guards::all()).unwrap();
        assert_eq!(first, Boot::Create(Record { settled: true, migration_id: 0, ..record(1, T) }));
        let other = boot(Some(&record(5, S)), &name("other"), &owner(T), true, Guards::all());
        assert!(matches!(other, Err(Refusal::Rule(RuleError::OtherGuest { .. }))));
    }

    #[test]
    fn a_boot_loses_to_a_migration_that_has_begun_since_it_read_the_record() {
        let read = Record { settled: true, ..record(5, S) };
        let Ok(Boot::Swap(change)) = boots(&read, false) else { panic!("the record is settled") };
        assert_eq!(judge(&read, &change.expected, &change.record), Ok(Verdict::Write));
        assert_eq!(judge(&record(5, S), &change.expected, &change.record), Ok(Verdict::Lost));
    }

    #[test]
    fn a_guest_runs_again_only_where_the_record_names_its_process() {
        let change = run_again(&record(5, S), &owner(S), 9).unwrap();
        assert_eq!(judge(&record(5, S), &change.expected, &change.record), Ok(Verdict::Write));
        assert_eq!((change.record.generation, change.record.settled), (6, false));
        assert!(matches!(run_again(&record(6, T), &owner(S), 9), Err(Refusal::NamesAnother(_))));
        assert_eq!(judge(&record(6, T), &change.expected, &change.record), Ok(Verdict::Lost));
    }
}
