//! Each fault does what it says to the call that it strikes, and to no other.

use ferry_migration::ownership::{Handover, Name, OwnerId};

use super::*;
use crate::{Sign, Stays};

/// A backend in memory: it counts what reaches it.
#[derive(Debug)]
struct Inner {
    record: Mutex<Option<Record>>,
    torn: Mutex<Option<usize>>,
}

impl Ownership for Inner {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn read(&self) -> Result<Option<Record>, OwnershipError> {
        Ok(self.record.lock().unwrap().clone())
    }

    fn create(&self, record: &Record) -> Result<Swap, OwnershipError> {
        *self.record.lock().unwrap() = Some(record.clone());
        Ok(Swap::Won)
    }

    fn swap(&self, _: &Expected, record: &Record) -> Result<Swap, OwnershipError> {
        self.create(record)
    }

    fn stay(&self) -> Stay {
        Stays::default().present()
    }

    fn show_presence(&self, _: bool, _: Stay) -> Result<(), OwnershipError> {
        Ok(())
    }

    fn end_presence(&self) -> Sign {
        Sign(None)
    }
}

impl Tear for Inner {
    fn tear_next_write(&self, bytes: usize) {
        *self.torn.lock().unwrap() = Some(bytes);
    }
}

fn faulty() -> Faulty<Inner> {
    Faulty::new(Inner { record: Mutex::default(), torn: Mutex::default() })
}

fn record() -> Record {
    let owner = OwnerId { id: 1, label: Name::try_from("host:1").unwrap() };
    Handover::new(Name::try_from("vm").unwrap(), 7, 1, owner).unwrap().announce(3).record
}

fn once(strikes: Strikes, fault: Fault) -> Option<Plan> {
    Some(Plan { strikes, fault, times: Some(1) })
}

#[test]
fn without_a_plan_nothing_fails() {
    let backend = faulty();
    assert_eq!(backend.create(&record()).unwrap(), Swap::Won);
    assert_eq!(backend.read().unwrap(), Some(record()));
    assert_eq!((backend.struck(), backend.place()), (0, "memory".to_owned()));
}

#[test]
fn each_fault_applies_and_tells_what_it_says() {
    for (fault, applied, maybe_applied) in
        [(Fault::Unreachable, false, false), (Fault::RequestLost, false, true), (Fault::ReplyLost, true, true)]
    {
        let backend = faulty();
        backend.set(once(Strikes::Writes, fault));
        let error = backend.create(&record()).unwrap_err();
        assert_eq!((error.is_unreachable(), error.maybe_applied()), (true, maybe_applied), "{fault:?}");
        assert_eq!(backend.read().unwrap().is_some(), applied, "{fault:?}");
        assert_eq!(backend.create(&record()).unwrap(), Swap::Won, "only once");
        assert_eq!(backend.struck(), 1);
    }
}

#[test]
fn a_fault_strikes_only_its_calls() {
    let backend = faulty();
    backend.set(Some(Plan { strikes: Strikes::Reads, fault: Fault::Unreachable, times: None }));
    for _ in 0..3 {
        assert!(backend.create(&record()).is_ok());
        assert!(!backend.read().unwrap_err().maybe_applied());
    }
    backend.set(once(Strikes::Everything, Fault::Unreachable));
    assert!(backend.create(&record()).is_err());
    assert!(backend.read().is_ok());
}

#[test]
fn a_torn_write_is_passed_on() {
    let backend = faulty();
    backend.set(once(Strikes::Writes, Fault::Torn(17)));
    let _ = backend.create(&record());
    assert_eq!(*backend.inner.torn.lock().unwrap(), Some(17));
}

#[test]
fn slow_waits_and_ends_with_the_plan() {
    let backend = faulty();
    backend.set(once(Strikes::Reads, Fault::Slow(Duration::from_millis(20))));
    let began = Instant::now();
    assert!(backend.read().is_ok());
    assert!(began.elapsed() >= Duration::from_millis(20));

    backend.set(once(Strikes::Reads, Fault::Slow(Duration::from_secs(600))));
    let deadline = Instant::now() + Duration::from_secs(30);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| backend.read());
        while backend.struck() < 2 {
            assert!(Instant::now() < deadline, "the call was not struck");
            std::thread::yield_now();
        }
        backend.set(None);
        assert!(reader.join().unwrap().is_ok());
    });
    assert!(began.elapsed() < Duration::from_secs(600));
}
