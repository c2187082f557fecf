//! Moves one guest to and fro, with kills, cuts and cancels that a seed chooses, while plain
//! `ferry run`s of the same guest are started one after the other; ends with status 1 at the first
//! promise that is broken. `ci/matrix --loops N` calls it.

use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use ferry_tests::loops::Loops;

/// Migrations of one guest on one disk; then comes the next guest, with the next seed.
const ON_ONE_DISK: u64 = 100;

/// Plain runs beside migrations that break at random, and one history on every disk.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// How many migrations.
    #[arg(default_value_t = ON_ONE_DISK)]
    migrations: u64,
    /// What chance begins with; the clock when left out.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    // Everything that goes wrong is a panic of the harness, with the processes' last lines.
    match std::panic::catch_unwind(|| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(options: &Options) {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (first, began) = (options.seed.unwrap_or_else(clock), Instant::now());
    let mut left = options.migrations;
    for seed in first.. {
        let share = left.min(ON_ONE_DISK);
        // Said first, for the case that it does not come back.
        println!("ferry-loops {share} --seed {seed}");
        let Some(mut loops) = Loops::begin(seed) else { return };
        (0..share).for_each(|_| loops.step());
        println!("    {}", loops.end());
        left -= share;
        if left == 0 {
            break;
        }
    }
    let (migrations, seconds) = (options.migrations, began.elapsed().as_secs_f64());
    println!("{migrations} migrations in {seconds:.0} s, and one history on every disk");
}
