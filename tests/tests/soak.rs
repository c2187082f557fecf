//! A few seconds of what `ferry-soak --postcopy` and `ferry-loops` do for as long as one likes.

use std::time::{Duration, Instant};

use ferry_tests::loops::Loops;
use ferry_tests::{Lab, soak};

/// New runs begin for so long.
const LASTS: Duration = Duration::from_secs(8);

#[test]
fn postcopies_that_break_at_random_lose_nothing() {
    let Some(lab) = Lab::new() else { return };
    let began = Instant::now();
    for seed in 1.. {
        println!("ferry-soak --postcopy --seed {seed} 1");
        println!("    {}", soak::postcopy(&lab, seed));
        if began.elapsed() >= LASTS {
            break;
        }
    }
}

#[test]
fn plain_runs_beside_migrations_that_are_killed_leave_one_history_on_the_disk() {
    println!("ferry-loops 6 --seed 1");
    let Some(mut loops) = Loops::begin(1) else { return };
    (0..6).for_each(|_| loops.step());
    let summary = loops.end();
    println!("    {summary}");
    assert!(summary.refused > 0, "{summary}");
}
