//! A few seconds of what `ferry-soak --postcopy` does for as long as one likes.

use std::time::{Duration, Instant};

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
