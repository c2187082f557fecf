//! What each rule is for: without it, this scenario breaks that promise.

use ferry_migration::protection::Rule;

use super::{Fault, Promise, Scenario};

/// The scenario that shows what `rule` is for, with the rule in force, and the promise that breaks
/// without it; `None` for a rule whose absence breaks nothing.
#[must_use]
pub fn what_it_is_for(rule: Rule) -> (Scenario, Option<Promise>) {
    let epochs = Scenario::new(3);
    // What is on its way is lost with it.
    let dies = epochs.with(Fault::PrimaryDeath, 1).with(Fault::Silence, 1);
    // The primary lives, and cannot reach its secondary: both ask the record.
    let breaks = epochs.with(Fault::Silence, 1).diskless();
    let (scenario, promise) = match rule {
        Rule::ReleasesOnCommit => (dies, Promise::ShownIsKept),
        Rule::ReleasesAfterSolo => (breaks, Promise::ShownIsKept),
        Rule::FailedReleasesNothing => (dies.with(Fault::VerifyFailure, 1), Promise::ShownIsKept),
        Rule::LostSoloReleasesNothing => {
            (breaks.with(Fault::PrimaryDeath, 1).with(Fault::LostReply, 1), Promise::ShownIsKept)
        }
        Rule::UnansweredSoloReleasesNothing => (breaks.with(Fault::Outage, 1), Promise::ShownIsKept),
        Rule::HoldsFirst => (dies, Promise::ShownIsKept),
        Rule::EnrolsAfterCommit => (epochs, Promise::Told),
        Rule::UnansweredEnrolmentMayBe => (dies.with(Fault::LostReply, 1), Promise::ShownIsKept),
        Rule::SoloIsASwap => (breaks, Promise::ShownIsKept),
        Rule::KeepsHarvest => (epochs.with(Fault::VerifyFailure, 1), Promise::Pages),
        Rule::AcknowledgesWhole => (dies, Promise::ShownIsKept),
        Rule::AcknowledgesVerified => (dies.with(Fault::VerifyFailure, 1), Promise::ShownIsKept),
        Rule::AppliesAfterCommit => (dies.with(Fault::VerifyFailure, 1), Promise::Whole),
        Rule::ReadsItsName => (breaks, Promise::OneVisible),
        Rule::TakesOverByRecord => (breaks, Promise::OneVisible),
        Rule::UnansweredTakeoverIsNone => (breaks.with(Fault::Outage, 1), Promise::OneVisible),
        Rule::LostTakeoverIsNone => (breaks, Promise::OneVisible),
        Rule::TrialIsSilent => (breaks, Promise::OneVisible),
        Rule::TriesBeforeClaim => (dies.with(Fault::TrialFailure, 1), Promise::Served),
        Rule::EntersApplied => (dies, Promise::Whole),
        Rule::DeafOnceSuspicious => (epochs.with(Fault::FalseTimeout, 1).diskless(), Promise::ShownIsKept),
        Rule::KeepsJournal => (dies, Promise::Whole),
        // The primary is slow, and writes out later what is committed.
        Rule::TakesDiskFirst => (epochs.with(Fault::FalseTimeout, 1), Promise::Whole),
        Rule::LostReplyIsReadBack => (breaks.with(Fault::LostReply, 1), Promise::Served),
        Rule::IgnoresLateCommit | Rule::DeposedIsSilent => {
            let all = breaks.with(Fault::PrimaryDeath, 1).with(Fault::FalseTimeout, 1).with(Fault::LostReply, 1);
            return (all, None);
        }
        Rule::BootNeedsUnprotected => (dies.with(Fault::Boot, 1), Promise::ShownIsKept),
    };
    (scenario, Some(promise))
}
