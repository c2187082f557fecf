//! Every guard of the state machines is needed: without it the explorer finds a way to break a
//! promise, and with it none.
//!
//! The shortest way is kept as a snapshot, so that a review sees what each guard is for.

use ferry_migration::guards::Guard;
use ferry_migration::message::Handshake;
use ferry_tests::explorer::bounds::Fault;
use ferry_tests::explorer::invariants::Invariant;
use ferry_tests::explorer::mutants::what_it_is_for;
use ferry_tests::explorer::{Limits, Scenario, explore};

const MOST_WORLDS: usize = 200_000;

#[test]
fn without_a_guard_a_promise_breaks() {
    for guard in Guard::ALL {
        let (scenario, invariant) = what_it_is_for(guard);
        let report = explore(&scenario.without(guard), Limits::until(invariant, MOST_WORLDS));
        let Some(finding) = report.findings.get(&invariant) else {
            panic!("without {guard}, \"{}\" holds in all {} worlds", invariant.name(), report.worlds);
        };
        let text = format!("without {guard}: \"{}\" is broken\n{}\n\n{}", invariant.name(), finding.why, finding.trace);
        insta::assert_snapshot!(guard.to_string(), text);
    }
}

/// The sign is no guard of the state machines: each side shows it where it cannot hold the lock.
#[test]
fn without_the_sign_of_either_side_a_boot_past_the_record_breaks_a_promise() {
    let bare = Scenario::new(Handshake::Owned, false).with(Fault::BootPast, 1);
    let of_source = (bare, [false, true], Invariant::Kept);
    let of_destination = (bare.with(Fault::SourceCrash, 1), [true, false], Invariant::StaleRun);
    for (name, (scenario, signs, invariant)) in [("source", of_source), ("destination", of_destination)] {
        let report = explore(&scenario, Limits::whole(MOST_WORLDS));
        assert!(report.is_complete && report.findings.is_empty(), "{name}: {:?}", report.findings);
        let report = explore(&Scenario { signs, ..scenario }, Limits::until(invariant, MOST_WORLDS));
        let finding = report.findings.get(&invariant).expect("a promise breaks without the sign");
        let text = format!(
            "without the {name}'s sign: \"{}\" is broken\n{}\n\n{}",
            invariant.name(),
            finding.why,
            finding.trace
        );
        insta::assert_snapshot!(format!("sign_of_the_{name}"), text);
    }
}

#[test]
fn with_every_guard_the_same_scenarios_are_clean() {
    for guard in Guard::ALL {
        let (scenario, invariant) = what_it_is_for(guard);
        let report = explore(&scenario, Limits::whole(MOST_WORLDS));
        assert!(report.is_complete, "{guard}: more than {MOST_WORLDS} worlds");
        if let Some(finding) = report.findings.get(&invariant) {
            panic!("{guard} is in force, and all the same: {}\n{}", finding.why, finding.trace);
        }
    }
}
