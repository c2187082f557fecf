//! Thousands of migrations in which much goes wrong: every one keeps the promises and, once
//! mended, ends well.

use std::collections::BTreeMap;

use ferry_migration::guards::{Guard, Guards};
use ferry_tests::simulator::{run, run_with};

const SEEDS: u64 = 100_000;

#[test]
fn every_seed_keeps_the_promises_and_ends_well() {
    let first = std::env::var("FERRY_SIM_FIRST").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let count = std::env::var("FERRY_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS);
    let mut endings: BTreeMap<String, u64> = BTreeMap::new();
    let mut refused_frames = 0;
    for seed in first..first + count {
        match run(seed, None) {
            Ok(ending) => {
                let key = format!("source {:?}, guest at the destination: {}", ending.source, ending.at_destination);
                refused_frames += u64::from(ending.refused_frames);
                *endings.entry(key).or_default() += 1;
            }
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{count} seeds, {refused_frames} spoilt frames refused: {endings:#?}");
    assert!(refused_frames > count / 100, "only {refused_frames} spoilt frames were refused");
    let seen = |text: &str| endings.keys().any(|key| key.contains(text));
    for wanted in
        ["Completed), guest at the destination: true", "Failed), guest at the destination: false", "Cancelled"]
    {
        assert!(count < SEEDS || seen(wanted), "no seed ended with {wanted}: {endings:#?}");
    }
}

#[test]
fn one_seed() {
    let Some(seed) = std::env::var("FERRY_SIM_SEED").ok().and_then(|text| text.parse().ok()) else { return };
    let mut log = Vec::new();
    let result = run(seed, Some(&mut log));
    for line in log {
        println!("{line}");
    }
    println!("{result:?}");
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

#[test]
fn a_seed_always_tells_the_same_story() {
    for seed in 0..20 {
        let mut stories = [Vec::new(), Vec::new()];
        for story in &mut stories {
            run(seed, Some(story)).unwrap();
        }
        assert_eq!(stories[0], stories[1], "seed {seed}");
        assert!(stories[0].len() > 5);
    }
}

#[test]
fn a_missing_guard_is_noticed() {
    for guard in [
        Guard::StaysStoppedAfterPermit,
        Guard::TakeBackLostStaysStopped,
        Guard::ClaimedIsNotSettled,
        Guard::WindingWaits,
        Guard::LinkEndIsNotDrained,
        Guard::StartNeedsClaim,
        Guard::LoadNeedsMarker,
    ] {
        let noticed = (0..SEEDS).find(|seed| run_with(*seed, Guards::without(guard), None).is_err());
        assert!(noticed.is_some(), "{SEEDS} seeds run well without {guard}");
    }
}
