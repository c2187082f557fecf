//! A guest that arrives without a claim: from which process its record is taken.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use ferry_devices::fault::{Direction, FaultControl};
use ferry_migration::ownership::custody::Again;
use ferry_migration::source::TakeBack;

use crate::faulty::{Fault, Faulty, Plan, Strikes};
use crate::file::FileRecord;
use tempfile::TempDir;

use super::*;

/// Longer than any of this takes.
const LONG: Duration = Duration::from_secs(20);

/// A folder with the record of a guest.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Place(tempfile::tempdir().expect("a folder for a test"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("guest.owner")
    }

    fn process(&self) -> Arc<OwnRecord> {
        let faults = Arc::new(FaultControl::new(Direction::Incoming));
        let file = FileRecord::new(self.path(), LONG, faults);
        Arc::new(OwnRecord::new(Arc::new(file), "vm").expect("an identity"))
    }

    /// A process that has booted the guest, and still lives or has died.
    fn booted(&self, lives: bool) -> Arc<OwnRecord> {
        let own = self.process();
        let boot = own.look_at_boot(false).expect("nothing is in the way");
        own.take_at_boot(&boot).expect("the guest is free");
        if !lives {
            own.guest_has_gone();
        }
        own
    }
}

fn there(own: &OwnRecord) -> Record {
    own.backend.read().expect("the file is there").expect("a record")
}

/// One try of a process to which the guest has come.
fn arrives(own: &OwnRecord, from: Option<&Handover>) -> Result<(), RecordError> {
    own.take_at_arrival(7, from.map_or(&[], std::slice::from_ref), own.stay())
}

fn is_twice(result: Result<(), RecordError>, wanted: Twice) -> bool {
    matches!(result, Err(RecordError::Twice { why, .. }) if why == wanted)
}

#[test]
fn a_guest_that_arrives_gets_a_first_record_and_the_one_of_its_source() {
    let place = Place::new();
    let first = place.process();
    arrives(&first, None).unwrap();
    assert_eq!((there(&first).generation, there(&first).settled, first.generation()), (1, true, 1));
    let outgoing = first.outgoing(8).unwrap();
    outgoing.announce().unwrap();
    let next = place.process();
    // The source shows that it has the guest until it has heard that it runs here.
    arrives(&next, Some(outgoing.handover())).unwrap();
    assert_eq!((there(&next).owner, there(&next).settled, next.generation()), (next.me.clone(), true, 2));
    arrives(&next, Some(outgoing.handover())).unwrap();
    assert_eq!(next.generation(), 2, "a repeat changes nothing");
}

#[test]
fn a_record_of_the_process_itself_is_named_anew_in_the_next_generation() {
    let place = Place::new();
    let own = place.booted(true);
    own.outgoing(8).unwrap().announce().unwrap();
    arrives(&own, None).unwrap();
    assert_eq!((there(&own).generation, there(&own).settled), (2, true));
}

#[test]
fn a_record_that_tells_of_the_hand_over_of_another_process_is_left_alone() {
    let place = Place::new();
    let (other, own) = (place.booted(false), place.process());
    other.outgoing(8).unwrap().announce().unwrap();
    let before = there(&other);
    let result = arrives(&own, None);
    let text = result.as_ref().unwrap_err().to_string();
    let names = text.contains("guest.owner") && text.contains(&before.owner.to_string());
    assert!(names && text.contains("end one of them"), "{text}");
    assert!(is_twice(result, Twice::InHandover));
    assert_eq!((there(&own), own.generation()), (before, 0));
    assert_eq!(own.info().owned_here, Some(false));
}

#[test]
fn a_settled_record_of_another_process_is_taken_once_no_process_shows_that_it_has_the_guest() {
    let place = Place::new();
    let (other, own) = (place.booted(true), place.process());
    // As from the greeting on.
    own.show_presence(false, own.stay()).unwrap();
    let before = there(&other);
    let result = arrives(&own, None);
    assert!(result.as_ref().is_err_and(RecordError::may_pass), "the other process may end");
    assert!(is_twice(result, Twice::IsPresent));
    assert_eq!(there(&own), before);
    drop(other);
    arrives(&own, None).unwrap();
    assert_eq!((there(&own).generation, own.generation()), (2, 2));
}

#[test]
fn the_record_of_another_guest_is_left_alone() {
    let place = Place::new();
    let other = place.booted(false);
    let faults = Arc::new(FaultControl::new(Direction::Incoming));
    let file = FileRecord::new(place.path(), LONG, faults);
    let own = OwnRecord::new(Arc::new(file), "another").unwrap();
    let text = arrives(&own, None).unwrap_err().to_string();
    assert!(text.contains("guest.owner") && text.contains("guest 'vm'"), "{text}");
    assert_eq!(there(&own), there(&other));
}

#[test]
fn nothing_is_written_for_a_guest_that_has_gone_on_meanwhile() {
    let place = Place::new();
    let other = place.booted(true);
    let own = place.process();
    // It cannot have the record while the other process lives, and asks again and again.
    own.assert_ownership(7, vec![]);
    own.guest_has_gone();
    let began = Instant::now();
    own.wait_written(LONG);
    assert!(began.elapsed() < LONG, "it asks no more");
    assert_eq!((there(&other).owner, there(&own).generation), (other.me.clone(), 1));
}

#[test]
fn a_guest_on_its_way_elsewhere_is_not_claimed_for_cont() {
    let place = Place::new();
    let own = place.booted(false);
    let outgoing = own.outgoing(8).unwrap();
    outgoing.announce().unwrap();
    assert!(matches!(own.claim_again(Again::Cont, &AtomicBool::new(false)), Err(RecordError::Announced)));
    assert_eq!(there(&own).generation, 1);
    // As for the guest that runs again at the end of it.
    assert_eq!(own.claim_again(Again::Resume, &AtomicBool::new(false)).unwrap().generation, 2);
    outgoing.end();
    assert_eq!(own.claim_again(Again::Cont, &AtomicBool::new(false)).unwrap().generation, 3);
    assert!(matches!(outgoing.announce(), Err(RecordError::Over)), "what comes late announces nothing");
    own.claim_again(Again::Cont, &AtomicBool::new(false)).unwrap();
}

#[test]
fn a_guest_that_arrives_where_no_record_can_be_made_goes_without_and_may_migrate_on() {
    let nowhere = || {
        let faults = Arc::new(FaultControl::new(Direction::Incoming));
        // No process may make a file there.
        OwnRecord::new(Arc::new(FileRecord::new("/sys/guest.owner".into(), LONG, faults)), "vm").unwrap()
    };
    let own = Arc::new(nowhere().optional());
    own.assert_ownership(7, vec![]);
    assert!(own.is_named_or_without(LONG));
    assert_eq!(own.generation(), 0);
    // A record that its operator has named is tried again: the folder may be opened to it.
    let named = Arc::new(nowhere());
    named.assert_ownership(7, vec![]);
    assert!(!named.is_named_or_without(INSIST_AGAIN * 2));
    // Ends its thread.
    named.guest_has_gone();
}

/// A process that has booted the guest, and the storage of its record, which can be made to fail.
fn booted_on_faulty(place: &Place) -> (Arc<OwnRecord>, Arc<Faulty<FileRecord>>) {
    let faults = Arc::new(FaultControl::new(Direction::Incoming));
    let faulty = Arc::new(Faulty::new(FileRecord::new(place.path(), LONG, faults)));
    let own = Arc::new(OwnRecord::new(faulty.clone(), "vm").expect("an identity"));
    let boot = own.look_at_boot(false).expect("nothing is in the way");
    own.take_at_boot(&boot).expect("the guest is free");
    (own, faulty)
}

#[test]
fn hand_overs_that_end_while_storage_hangs_are_told_by_one_thread() {
    let place = Place::new();
    let (own, faulty) = booted_on_faulty(&place);
    let first = own.outgoing(8).unwrap();
    first.announce().unwrap();
    faulty.set(Some(Plan { strikes: Strikes::Reads, fault: Fault::Slow(LONG * 10), times: None }));
    first.settle();
    let until = Instant::now() + LONG;
    while faulty.struck() == 0 {
        assert!(Instant::now() < until, "the thread has begun");
        std::thread::yield_now();
    }
    // Of further ones, which were never announced, the record cannot tell.
    for migration in 9..200 {
        own.outgoing(migration).unwrap().settle();
    }
    assert!(!own.is_behind());
    for migration in 200..300 {
        own.settle(own.outgoing(migration).unwrap().handover());
    }
    assert_eq!((faulty.struck(), own.background.count()), (1, 1), "one thread for all");
    assert!(own.is_behind());
    faulty.set(None);
    own.wait_written(LONG);
    assert!(there(&own).settled);
    // The next one is told again.
    let next = own.outgoing(20).unwrap();
    next.announce().unwrap();
    assert!(!there(&own).settled);
    next.settle();
    own.wait_written(LONG);
    assert!(there(&own).settled);
}

#[test]
fn a_late_answer_that_names_the_source_is_settled_only_where_the_guest_is_back() {
    for is_back in [true, false] {
        let place = Place::new();
        let own = place.booted(true);
        let outgoing = own.outgoing(8).unwrap();
        outgoing.announce().unwrap();
        if is_back {
            outgoing.settle();
            own.wait_written(LONG);
        } else {
            // Its guest runs elsewhere, with a handshake that the record does not decide.
            own.guest_has_gone();
        }
        assert_eq!(outgoing.take_back(), TakeBack::Won);
        own.wait_written(LONG);
        assert_eq!((there(&own).settled, there(&own).generation), (is_back, 2));
    }
}

#[test]
fn a_take_back_whose_answer_is_lost_keeps_no_later_migration_away() {
    for is_back_first in [false, true] {
        let place = Place::new();
        let (own, faulty) = booted_on_faulty(&place);
        let outgoing = own.outgoing(8).unwrap();
        outgoing.announce().unwrap();
        let lose_answer = || {
            faulty.set(Some(Plan { strikes: Strikes::Writes, fault: Fault::ReplyLost, times: Some(1) }));
            assert_eq!(outgoing.take_back(), TakeBack::Unreachable);
        };
        if is_back_first {
            outgoing.settle();
            own.wait_written(LONG);
            lose_answer();
        } else {
            lose_answer();
            outgoing.settle();
        }
        own.wait_written(LONG);
        assert_eq!((there(&own).settled, there(&own).generation, own.generation()), (true, 2, 2));
        own.outgoing(9).unwrap().announce().expect("the guest can migrate");
    }
}

#[test]
fn a_record_that_its_operator_has_put_back_is_told_of_the_end_at_last() {
    let place = Place::new();
    let own = place.booted(true);
    let outgoing = own.outgoing(8).unwrap();
    outgoing.announce().unwrap();
    let aside = place.0.path().join("aside");
    std::fs::rename(place.path(), &aside).unwrap();
    std::fs::copy(&aside, place.path()).unwrap();
    outgoing.settle();
    own.wait_written(LONG);
    std::fs::rename(&aside, place.path()).unwrap();
    assert!(!there(&own).settled);
    // As at the end of the process.
    own.wait_written(LONG);
    assert!(there(&own).settled);
}

#[test]
fn what_the_record_may_tell_of_is_never_forgotten_and_no_more_is_announced_at_last() {
    let place = Place::new();
    let (own, faulty) = booted_on_faulty(&place);
    let first = own.outgoing(8).unwrap();
    first.announce().unwrap();
    faulty.set(Some(Plan { strikes: Strikes::Everything, fault: Fault::RequestLost, times: None }));
    first.settle();
    let refused = (9..1000).find(|migration| {
        let next = own.outgoing(*migration).unwrap();
        let error = next.announce().unwrap_err();
        next.settle();
        matches!(error, RecordError::Behind { .. })
    });
    assert!(refused.is_some_and(|migration| migration > 20), "{refused:?}");
    faulty.set(None);
    own.wait_written(LONG);
    assert!(there(&own).settled, "also the first");
    own.outgoing(1000).unwrap().announce().unwrap();
}

/// A record whose storage hangs when it is read, and what counts the reads.
fn hanging(place: &Place) -> (Arc<OwnRecord>, Arc<Faulty<FileRecord>>) {
    let (own, faulty) = booted_on_faulty(place);
    faulty.set(Some(Plan { strikes: Strikes::Reads, fault: Fault::Slow(LONG * 10), times: None }));
    (own, faulty)
}

#[test]
fn while_a_call_hangs_over_the_record_the_same_question_starts_no_other() {
    let place = Place::new();
    let (own, faulty) = hanging(&place);
    let outgoing = own.outgoing(8).unwrap();
    for _ in 0..3 {
        assert!(own.info().error.is_some_and(|error| error.contains("see what keeps it")));
        outgoing.allows().expect("as when it does not answer at once");
        let refused = own.claim(Again::Resume).map(drop).unwrap_err().to_string();
        assert!(refused.contains("did not answer within 2 s"), "{refused}");
    }
    assert_eq!(faulty.struck(), 3, "one of each");
    faulty.set(None);
}

#[test]
fn a_client_reads_that_the_guest_may_run_twice_for_as_long_as_that_holds() {
    let place = Place::new();
    let (other, own) = (place.booted(false), place.process());
    other.outgoing(8).unwrap().announce().unwrap();
    assert_eq!(own.info().may_run_twice, None);
    own.assert_ownership(7, vec![]);
    own.wait_written(LONG);
    let told = own.info().may_run_twice.expect("it is asked no more");
    assert!(told.contains("may run twice") && told.contains(&other.me.to_string()), "{told}");
    let aside = place.0.path().join("aside");
    std::fs::rename(place.path(), &aside).unwrap();
    assert!(own.info().may_run_twice.is_some(), "a record that does not answer changes nothing");
    std::fs::rename(&aside, place.path()).unwrap();
    let taken = other.look_at_boot(true).unwrap();
    other.take_at_boot(&taken).unwrap();
    assert_eq!(own.info().may_run_twice, None, "the record is another since");
    own.assert_ownership(7, vec![]);
    own.guest_has_gone();
    own.wait_written(LONG);
    assert_eq!(own.info().may_run_twice, None, "the guest is not here");
}
