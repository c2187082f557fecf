//! A guest that is protected thousands of times in a row while much goes wrong: the observer
//! outside sees one history, no page is lost, and once everything is mended the guest is
//! protected.

use ferry_migration::protection::{Rule, Rules};
use ferry_tests::protection::simulator::{run, run_with};

/// Epochs of one seed, as the machine's limits are to be met in one run.
const EPOCHS: u64 = 100_000;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn every_seed_shows_one_history_and_ends_protected() {
    let first = number("FERRY_SIM_FIRST", 0);
    let (mut takeovers, mut deposed, mut repeated) = (0, 0, 0);
    for seed in first..first + number("FERRY_PROTECTION_SEEDS", 3) {
        let ending = run(seed, number("FERRY_PROTECTION_EPOCHS", EPOCHS)).unwrap_or_else(|failure| panic!("{failure}"));
        println!("seed {seed}: {ending:?}");
        assert!(ending.most_waiting < 1_000, "queues grow: {ending:?}");
        takeovers += ending.takeovers;
        deposed += ending.deposed;
        repeated += ending.repeated;
    }
    assert!(takeovers > 100 && deposed > 10 && repeated > 100, "{takeovers} takeovers, {deposed} deposed, {repeated}");
}

/// What a simulation without disks, boots and mistakes of the record cannot show, and what needs
/// more luck than a short one has: the explorer shows it.
const LEFT_TO_THE_EXPLORER: [Rule; 12] = [
    Rule::FailedReleasesNothing,
    Rule::UnansweredEnrolmentMayBe,
    Rule::SoloIsASwap,
    Rule::AppliesAfterCommit,
    // The swap itself expects the name that was read.
    Rule::ReadsItsName,
    Rule::EntersApplied,
    Rule::KeepsJournal,
    Rule::TakesDiskFirst,
    Rule::LostReplyIsReadBack,
    Rule::IgnoresLateCommit,
    Rule::DeposedIsSilent,
    Rule::BootNeedsUnprotected,
];

/// The oracles see a planted defect.
#[test]
fn without_any_other_rule_some_seed_fails() {
    for rule in Rule::ALL.into_iter().filter(|rule| !LEFT_TO_THE_EXPLORER.contains(rule)) {
        let fails = (0..6).any(|seed| run_with(seed, 2_000, Rules::without(rule)).is_err());
        assert!(fails, "without {rule} every seed is green");
    }
}
