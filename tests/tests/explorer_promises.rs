//! The handshakes that are used keep every promise in every interleaving within small bounds;
//! `ci/explore` has larger ones.

use ferry_tests::explorer::campaigns::small;
use ferry_tests::explorer::{Limits, explore};

const MOST_WORLDS: usize = 1_000_000;

#[test]
fn setup_and_owned_keep_every_promise() {
    let mut broken = Vec::new();
    for campaign in small() {
        for rehearse in [false, true] {
            let scenario = ferry_tests::explorer::Scenario { rehearse, ..campaign.scenario };
            let report = explore(&scenario, Limits::whole(MOST_WORLDS));
            assert!(report.is_complete, "{}: more than {MOST_WORLDS} worlds", campaign.name);
            println!("{}, rehearsal {rehearse}: {} worlds in {:?}", campaign.name, report.worlds, report.elapsed);
            if let Some((invariant, finding)) = report.findings.first_key_value() {
                broken.push(format!("{}: \"{}\": {}\n{}", campaign.name, invariant.name(), finding.why, finding.trace));
            }
        }
    }
    assert!(broken.is_empty(), "{} campaigns break a promise:\n{}", broken.len(), broken.join("\n"));
}
