//! Continuous checkpoints in every interleaving within bounds: every promise holds with all rules,
//! each rule is needed, and the shortest way to break a promise without it is kept as a snapshot.

use ferry_migration::protection::Rule;
use ferry_tests::protection::campaigns::small;
use ferry_tests::protection::mutants::what_it_is_for;
use ferry_tests::protection::{Fault, Limits, Scenario, explore};

const MOST_WORLDS: usize = 3_000_000;

#[test]
fn every_promise_holds_with_every_pair_of_faults() {
    let mut broken = Vec::new();
    let (mut worlds, mut takeovers) = (0, 0);
    for campaign in small() {
        let report = explore(&campaign.scenario, Limits { worlds: MOST_WORLDS, until: None });
        assert!(report.is_complete, "{}: more than {MOST_WORLDS} worlds", campaign.name);
        (worlds, takeovers) = (worlds + report.worlds, takeovers + report.takeovers);
        if let Some((promise, finding)) = report.findings.first_key_value() {
            broken.push(format!("{}: \"{}\": {}\n{}", campaign.name, promise.name(), finding.why, finding.trace));
        }
    }
    println!("{worlds} worlds, the secondary's guest live in {takeovers} of them");
    assert!(broken.is_empty(), "{} campaigns break a promise; the first: {}", broken.len(), broken[0]);
    assert!(takeovers > 0);
}

#[test]
fn a_planned_failover_moves_the_guest() {
    for scenario in [Scenario::new(2), Scenario::new(2).diskless()] {
        let report = explore(&scenario.with(Fault::Failover, 1), Limits { worlds: MOST_WORLDS, until: None });
        assert!(report.is_complete && report.findings.is_empty() && report.moved > 0, "{report:?}");
    }
}

#[test]
fn without_a_rule_a_promise_breaks() {
    let mut unneeded = Vec::new();
    for rule in Rule::ALL {
        let (scenario, promise) = what_it_is_for(rule);
        let Some(promise) = promise else { continue };
        let report = explore(&scenario.without(rule), Limits { worlds: MOST_WORLDS, until: Some(promise) });
        let Some(finding) = report.findings.get(&promise) else {
            unneeded.push(format!("without {rule}, \"{}\" holds in all {} worlds", promise.name(), report.worlds));
            continue;
        };
        let text = format!("without {rule}: \"{}\" is broken\n{}\n\n{}", promise.name(), finding.why, finding.trace);
        insta::assert_snapshot!(rule.to_string(), text);
    }
    assert!(unneeded.is_empty(), "{unneeded:#?}");
}

#[test]
fn with_every_rule_the_same_scenarios_are_clean() {
    for rule in Rule::ALL {
        let (scenario, _) = what_it_is_for(rule);
        let report = explore(&scenario, Limits { worlds: MOST_WORLDS, until: None });
        assert!(report.is_complete, "{rule}: more than {MOST_WORLDS} worlds");
        if let Some((promise, finding)) = report.findings.first_key_value() {
            panic!("{rule} is in force, and all the same \"{}\": {}\n{}", promise.name(), finding.why, finding.trace);
        }
    }
}

/// A late acknowledgement and a late output are part of what the survivor goes on from.
#[test]
fn the_two_rules_for_tidiness_are_harmless() {
    for rule in Rule::ALL {
        let (scenario, None) = what_it_is_for(rule) else { continue };
        let report = explore(&scenario.without(rule), Limits { worlds: MOST_WORLDS, until: None });
        assert!(report.is_complete && report.takeovers > 0, "{rule}: {} worlds", report.worlds);
        if let Some((promise, finding)) = report.findings.first_key_value() {
            panic!("without {rule} \"{}\": {}\n{}", promise.name(), finding.why, finding.trace);
        }
    }
}
