//! Which processes may own a guest outside of a claim: one that boots it, one that resumes it after
//! a failed migration, and one to which it came without the record.
//!
//! ```text
//!   a boot      reads the record ─► takes the disk's lock ─► swaps it as it was read ─► runs
//!   `cont`      takes the disk's lock ─► makes the record name this process ─► runs ─► settles it
//!   an arrival  takes the disk's lock ─► runs ─► reads the record ─► swaps it as it was read
//! ```
//!
//! Each holds the disk's lock while it changes the record, so of two processes the second sees the
//! first one's change. The runtime carries these changes out; the explorer does so too, and shows
//! what breaks without each rule. It covers neither the creation of a record nor an arrival that
//! must be alone (unit tests here and in the runtime do), and only some chains of several
//! hand-overs: `docs/explorer.md` says which.

use crate::guards::{Guard, Guards};
use crate::ownership::{Change, Expected, Handover, Name, OwnerId, Record, RuleError, Standing};

/// Why a process may not run the guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A process that is stopped and holds no lock may have the newest state of the guest.
    #[error("a migration of the guest is under way, or ended without an answer")]
    InHandover(Box<Record>),
    /// A second process holds a checkpoint of the guest, and may take it over.
    #[error("it names an owner and a partner that may take the guest over")]
    Protected(Box<Record>),
    /// Another process owns the guest.
    #[error("it names another process")]
    NamesAnother(Box<Record>),
    /// The record is about another guest, or its generations have run out.
    #[error(transparent)]
    Rule(#[from] RuleError),
}

/// The change that a process requests to boot the guest, once it holds the disk's lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// There is no record: this is the first.
    Create(Record),
    /// The record that was read is replaced with this one.
    Swap(Change),
}

/// Whether `me` may boot the guest `vm` over the record that it has read, before it takes or
/// changes anything. `even_in_handover`: the operator asserts that every other process of the guest
/// has ended.
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
    let Some(there) = there else { return Ok(Boot::Create(settled(vm, 1, me, 0))) };
    same_guest(there, vm)?;
    if !there.settled && !even_in_handover && guards.has(Guard::BootNeedsSettled) {
        return Err(Refusal::InHandover(Box::new(there.clone())));
    }
    if there.partner.is_some() && !even_in_handover {
        return Err(Refusal::Protected(Box::new(there.clone())));
    }
    let expected = match guards.has(Guard::BootSwapsWhatItRead) {
        true => Expected::as_read(there),
        false => Expected::reign(there.generation, there.owner.clone()),
    };
    Ok(Boot::Swap(Change { expected, record: settled(vm, next(there.generation)?, me, 0) }))
}

/// The change requested by a process to which a guest has come without a claim. The process has the
/// guest and its disk already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Nothing: the record names this process already, in this generation.
    Named(u64),
    /// There is no record: this is the first.
    Create(Record),
    /// The record that was read is replaced with this one.
    Swap {
        /// From what was read.
        change: Change,
        /// Only while no other process shows its presence: the record names an unrelated one.
        alone: bool,
    },
}

/// The change that `me` requests for the guest `vm`, which the migration `migration_id` has brought
/// without a claim (by the handshake `setup` or a weaker one). `through`: the announced hand-overs
/// through which the guest has come, this one included.
///
/// The guest runs here already, even if the record names another process. That must not hide that
/// another process may still run it: the record of an unrelated process is taken only under the
/// conditions of a boot.
///
/// # Errors
/// When the record is about another guest, or announces a hand-over of another process. The guest
/// may then run twice, and the record must not be changed.
pub fn arrived(
    there: Option<&Record>,
    (vm, me): (&Name, &OwnerId),
    migration_id: u128,
    through: &[Handover],
    guards: Guards,
) -> Result<Arrival, Refusal> {
    let Some(there) = there else { return Ok(Arrival::Create(settled(vm, 1, me, migration_id))) };
    same_guest(there, vm)?;
    if there.partner.is_some() {
        return Err(Refusal::Protected(Box::new(there.clone())));
    }
    let is_named = there.owner == *me;
    if is_named && there.settled {
        return Ok(Arrival::Named(there.generation));
    }
    // A source that the guest has left does not settle the record any more. A source that has been
    // named again since, or has settled the record, has its guest back.
    let is_open = |from: &Handover| {
        let tells = !there.settled && there.migration_id == from.migration_id();
        match guards.has(Guard::ArrivalTakesItsHandover) {
            true => tells && from.standing(me, Some(there)) == Standing::Open,
            false => from.take_back().record.owner == there.owner,
        }
    };
    // The next generation fences a process that is about to take it over.
    let is_part = is_named || through.iter().any(is_open);
    if !is_part && !there.settled && guards.has(Guard::ArrivalLeavesHandovers) {
        return Err(Refusal::InHandover(Box::new(there.clone())));
    }
    let record = settled(vm, next(there.generation)?, me, migration_id);
    let change = Change { expected: Expected::as_read(there), record };
    Ok(Arrival::Swap { change, alone: !is_part })
}

/// Whether a guest may be migrated. `arriving`: it has come here without a claim, and the record
/// does not name this process yet. The change that does so would settle the record in the middle of
/// a migration.
#[must_use]
pub fn may_migrate(arriving: bool, guards: Guards) -> bool {
    !(arriving && guards.has(Guard::ArrivalNamesFirst))
}

/// Why a guest runs again after its disk may have been released in a failed switchover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Its operator has issued `cont`.
    Cont,
    /// A further migration of it has failed.
    Resume,
}

/// Whether a guest must be claimed with [`run_again`] before it runs. `let_go`: its disk was
/// released, and another process may have run the guest since.
#[must_use]
pub fn must_claim(let_go: bool, again: Again, guards: Guards) -> bool {
    let guard = match again {
        Again::Cont => Guard::ContAsksRecord,
        Again::Resume => Guard::ResumeClaimsFirst,
    };
    let_go && guards.has(guard)
}

/// Whether it may be claimed now. `announced`: the record announces a migration of it that goes on.
/// The claim would remove the announcement: a booting process would not see the migration, which
/// would still stop the guest.
#[must_use]
pub fn may_claim(announced: bool, again: Again, guards: Guards) -> bool {
    !(announced && again == Again::Cont && guards.has(Guard::ContWaitsForMigration))
}

/// Whether a process keeps the disk of its stopped guest when running it is refused: only if it had
/// the disk before (`held`).
#[must_use]
pub fn keeps_disk(held: bool, guards: Guards) -> bool {
    held && guards.has(Guard::RefusedContKeeps)
}

/// Whether a source whose migration has ended here settles the record. `let_go` as in
/// [`must_claim`]: a further migration of such a guest may end before it takes the disk. If the
/// present one could not take the disk back, its state machine does not settle either.
#[must_use]
pub fn may_settle(let_go: bool, guards: Guards) -> bool {
    !(let_go && guards.has(Guard::SettleNeedsDisk) && guards.has(Guard::SettlesOnlyWhatItHolds))
}

/// The change that `me` requests before it resumes a guest whose disk it has released. Once it is
/// won, the record names `me` in a new generation, so that another process's change to the old one
/// is lost. The record stays unsettled until the guest runs: a guest that cannot run loses its disk
/// again, and a settled record would allow a boot over its newest state.
///
/// # Errors
/// When the record names another process: it may have run the guest.
pub fn run_again(there: &Record, me: &OwnerId, migration_id: u128, guards: Guards) -> Result<Change, Refusal> {
    if there.owner != *me {
        return Err(Refusal::NamesAnother(Box::new(there.clone())));
    }
    if there.partner.is_some() {
        return Err(Refusal::Protected(Box::new(there.clone())));
    }
    let (generation, settled) = (next(there.generation)?, !guards.has(Guard::SettlesWhenItRuns));
    let record = Record { migration_id, settled, nonce: 0, generation, partner: None, ..there.clone() };
    let expected = Expected { partner: Some(None), ..Expected::reign(there.generation, me.clone()) };
    Ok(Change { expected, record })
}

/// The change that a source requests if its operator knows that the destination, which may have
/// claimed the guest, never ran it.
///
/// # Errors
/// When the record's generations have run out.
pub fn seize(there: &Record, me: &OwnerId) -> Result<Change, RuleError> {
    let generation = next(there.generation)?;
    let record = Record { generation, owner: me.clone(), settled: false, nonce: 0, partner: None, ..there.clone() };
    Ok(Change { expected: Expected::as_read(there), record })
}

fn same_guest(there: &Record, vm: &Name) -> Result<(), RuleError> {
    if there.vm == *vm {
        return Ok(());
    }
    Err(RuleError::OtherGuest { found: there.vm.clone(), wanted: vm.clone() })
}

fn settled(vm: &Name, generation: u64, owner: &OwnerId, migration_id: u128) -> Record {
    let (vm, owner) = (vm.clone(), owner.clone());
    Record { vm, generation, owner, migration_id, settled: true, nonce: 0, partner: None }
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
    const D: u128 = 2;
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
    fn a_protected_guest_boots_and_arrives_nowhere_else() {
        let there = Record { settled: true, partner: Some(owner(D)), ..record(5, S) };
        assert!(matches!(boots(&there, false), Err(Refusal::Protected(_))));
        let Ok(Boot::Swap(change)) = boots(&there, true) else { panic!("the operator says so") };
        assert_eq!(judge(&there, &change.expected, &change.record), Ok(Verdict::Write));
        assert_eq!(change.record.partner, None);
        assert!(matches!(arrives(Some(&there), false), Err(Refusal::Protected(_))));
        // One that has read the record before the enrolment.
        let Ok(Boot::Swap(early)) = boots(&Record { partner: None, ..there.clone() }, false) else { panic!() };
        assert_eq!(judge(&there, &early.expected, &early.record), Ok(Verdict::Lost));
    }

    #[test]
    fn a_boot_loses_to_a_migration_that_has_begun_since_it_read_the_record() {
        let read = Record { settled: true, ..record(5, S) };
        let Ok(Boot::Swap(change)) = boots(&read, false) else { panic!("the record is settled") };
        assert_eq!(judge(&read, &change.expected, &change.record), Ok(Verdict::Write));
        assert_eq!(judge(&record(5, S), &change.expected, &change.record), Ok(Verdict::Lost));
    }

    #[test]
    fn a_guest_whose_disk_was_let_go_of_is_claimed_first_and_not_called_safe() {
        let all = Guards::all();
        for again in [Again::Cont, Again::Resume] {
            assert!(must_claim(true, again, all) && !must_claim(false, again, all));
            assert!(may_claim(false, again, all));
        }
        assert!(!may_claim(true, Again::Cont, all) && may_claim(true, Again::Resume, all));
        assert!(may_settle(false, all) && !may_settle(true, all));
        assert!(keeps_disk(true, all) && !keeps_disk(false, all));
        assert!(may_migrate(false, all) && !may_migrate(true, all));
    }

    #[test]
    fn a_guest_runs_again_only_where_the_record_names_its_process() {
        let change = run_again(&record(5, S), &owner(S), 9, Guards::all()).unwrap();
        assert_eq!(judge(&record(5, S), &change.expected, &change.record), Ok(Verdict::Write));
        assert_eq!((change.record.generation, change.record.settled), (6, false));
        assert!(matches!(run_again(&record(6, T), &owner(S), 9, Guards::all()), Err(Refusal::NamesAnother(_))));
        assert_eq!(judge(&record(6, T), &change.expected, &change.record), Ok(Verdict::Lost));
    }

    /// A guest comes to D; S has announced its hand-over in generation 5, if it has a record.
    fn arrives(there: Option<&Record>, announced: bool) -> Result<Arrival, Refusal> {
        let from = announced.then(|| Handover::new(name("vm"), 7, 5, owner(S)).unwrap());
        arrived(there, (&name("vm"), &owner(D)), 7, from.as_slice(), Guards::all())
    }

    #[test]
    fn a_guest_that_comes_back_takes_the_record_that_it_has_left_untold() {
        // From S through T, which has no record, to D; S has announced it.
        let through = [Handover::new(name("vm"), 7, 5, owner(S)).unwrap()];
        let comes = |there: &Record| arrived(Some(there), (&name("vm"), &owner(D)), 8, &through, Guards::all());
        let Ok(Arrival::Swap { change, alone: false }) = comes(&record(5, S)) else { panic!("the guest left S") };
        assert_eq!((change.record.generation, change.record.migration_id), (6, 8));
        // S has its guest back, or hands it over in another migration.
        for there in [record(6, S), Record { migration_id: 9, ..record(5, S) }] {
            assert!(matches!(comes(&there), Err(Refusal::InHandover(_))), "{there:?}");
        }
    }

    fn taken(there: &Record, alone: bool) -> Result<Arrival, Refusal> {
        let record = Record { settled: true, ..record(there.generation + 1, D) };
        Ok(Arrival::Swap { change: Change { expected: Expected::as_read(there), record }, alone })
    }

    #[test]
    fn a_guest_that_arrives_takes_a_record_from_its_source_and_from_itself() {
        let first = Record { settled: true, ..record(1, D) };
        assert_eq!(arrives(None, true), Ok(Arrival::Create(first)));
        assert_eq!(arrives(Some(&record(5, S)), true), taken(&record(5, S), false));
        assert_eq!(arrives(Some(&record(8, D)), false), taken(&record(8, D), false));
        let named = Record { settled: true, ..record(8, D) };
        assert_eq!(arrives(Some(&named), false), Ok(Arrival::Named(8)));
    }

    #[test]
    fn from_any_other_process_it_takes_the_record_only_as_a_boot_would() {
        let settled = |there: Record| Record { settled: true, ..there };
        // The last: the source has been named again since it handed the guest over.
        for there in [record(9, T), record(5, T), record(4, S), record(6, S)] {
            assert!(matches!(arrives(Some(&there), true), Err(Refusal::InHandover(_))), "{there:?}");
            assert_eq!(arrives(Some(&settled(there.clone())), true), taken(&settled(there), true));
        }
        // The source says that the guest is there.
        assert_eq!(arrives(Some(&settled(record(5, S))), true), taken(&settled(record(5, S)), true));
        // A source that has no record, or another one, announces no hand-over here.
        assert!(matches!(arrives(Some(&record(5, S)), false), Err(Refusal::InHandover(_))));
        let other = Record { vm: name("other"), ..settled(record(5, S)) };
        assert!(matches!(arrives(Some(&other), true), Err(Refusal::Rule(RuleError::OtherGuest { .. }))));
        let last = settled(record(u64::MAX, T));
        assert!(matches!(arrives(Some(&last), true), Err(Refusal::Rule(RuleError::Exhausted { .. }))));
    }

    #[test]
    fn an_arrival_loses_to_what_has_changed_since_it_read_the_record() {
        let read = Record { settled: true, ..record(9, T) };
        let Ok(Arrival::Swap { change, .. }) = arrives(Some(&read), false) else { panic!("the record is settled") };
        assert_eq!(judge(&read, &change.expected, &change.record), Ok(Verdict::Write));
        assert_eq!(judge(&record(9, T), &change.expected, &change.record), Ok(Verdict::Lost));
    }
}
