//! What is explored: pairs of faults, with all rules in force.

use super::{Fault, Scenario};

/// A name, and what is explored under it.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// For people.
    pub name: String,
    /// What is explored.
    pub scenario: Scenario,
}

/// Every fault of a small exploration.
const FAULTS: [Fault; 15] = [
    Fault::Break,
    Fault::Silence,
    Fault::PrimaryDeath,
    Fault::SecondaryDeath,
    Fault::FalseTimeout,
    Fault::Outage,
    Fault::LostReply,
    Fault::CaptureFailure,
    Fault::VerifyFailure,
    Fault::ReloadFailure,
    Fault::TrialFailure,
    Fault::Unprotect,
    Fault::LostHeartbeat,
    Fault::Failover,
    Fault::Shutdown,
];

/// Every pair of faults in a few epochs, and every pair beside a third process that boots.
#[must_use]
pub fn small() -> Vec<Campaign> {
    let mut campaigns = Vec::new();
    for (at, first) in FAULTS.into_iter().enumerate() {
        for second in &FAULTS[at..] {
            let times = if *second == first { 2 } else { 1 };
            let scenario = Scenario::new(2).with(first, 1).with(*second, times);
            campaigns.push(Campaign { name: format!("{first:?} and {second:?}"), scenario });
            let name = format!("{first:?} and {second:?}, no disk");
            campaigns.push(Campaign { name, scenario: scenario.diskless() });
        }
    }
    let tolerated = [
        ("nothing goes wrong", Scenario::new(4)),
        ("a refused checkpoint", Scenario::new(4).with(Fault::VerifyFailure, 1)),
        (
            "a failed capture and a refused checkpoint",
            Scenario::new(4).with(Fault::CaptureFailure, 1).with(Fault::VerifyFailure, 1),
        ),
        ("a failover", Scenario::new(3).with(Fault::Failover, 2)),
        ("a failover that fails", Scenario::new(3).with(Fault::Failover, 2).with(Fault::TrialFailure, 1)),
        ("a failover that fails early", Scenario::new(3).with(Fault::Failover, 1).with(Fault::VerifyFailure, 1)),
        ("a late answer to the enrolment", Scenario::new(3).with(Fault::LostReply, 2).with(Fault::Outage, 1)),
    ];
    for (name, scenario) in tolerated {
        campaigns.push(Campaign { name: format!("{name}, tolerated"), scenario: scenario.tolerating() });
        let name = format!("{name}, no disk, tolerated");
        campaigns.push(Campaign { name, scenario: scenario.diskless().tolerating() });
    }
    for fault in FAULTS {
        let scenario = Scenario { stops_isolated: true, ..Scenario::new(2).with(fault, 1).with(Fault::Outage, 2) };
        let scenario = scenario.with(Fault::Silence, 1);
        campaigns.push(Campaign { name: format!("{fault:?}, isolated primaries stop"), scenario: scenario.diskless() });
        let scenario = Scenario::new(2).with(fault, 1).with(Fault::PrimaryDeath, 1).with(Fault::Boot, 1);
        campaigns.push(Campaign { name: format!("{fault:?}, a death, and a boot"), scenario });
    }
    campaigns
}

/// The same in more epochs, and several faults at a time.
#[must_use]
pub fn large() -> Vec<Campaign> {
    let all = |scenario: Scenario| {
        FAULTS.into_iter().filter(|fault| *fault != Fault::FalseTimeout).fold(scenario, |s, fault| s.with(fault, 1))
    };
    let mut campaigns = small();
    for campaign in &mut campaigns {
        campaign.scenario.epochs = 4;
    }
    let three = |name: &str, scenario| Campaign { name: name.to_owned(), scenario };
    let record = Scenario::new(3).with(Fault::Outage, 2).with(Fault::LostReply, 2);
    campaigns.extend([
        three("the record and breaks", record.with(Fault::Break, 1).with(Fault::FalseTimeout, 1)),
        three("the record and breaks, no disk", record.with(Fault::Break, 1).with(Fault::FalseTimeout, 1).diskless()),
        three("the record and deaths", record.with(Fault::PrimaryDeath, 1).with(Fault::SecondaryDeath, 1)),
        three(
            "the record, isolated primaries stop",
            Scenario { stops_isolated: true, ..record.with(Fault::Break, 1).with(Fault::Failover, 1) },
        ),
        three("one of everything", all(Scenario::new(2))),
        three("one of everything, no disk", all(Scenario::new(2)).diskless()),
    ]);
    campaigns
}
