//! Moves one loaded guest to and fro many times and prints what each move cost; ends with status 1
//! at the first error.
//!
//! For whoever wants to trust Ferry for longer than a test runs: `cargo run --release -p
//! ferry-tests --bin ferry-soak 1000`. With `--postcopy` every move is a postcopy of a new guest,
//! with breaks and recoveries that a seed chooses.

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use ferry_guest::workload::{Order, Rate};
use ferry_tests::migration::move_guest;
use ferry_tests::procfs::Holdings;
use ferry_tests::{GuestLog, Lab, Spec, disk, soak};

/// Migrations when the command line names no number.
const DEFAULT_MOVES: u64 = 100;

/// The costs of all moves, for the summary.
#[derive(Default)]
struct Costs {
    total_ms: Vec<u64>,
    downtime_us: Vec<u64>,
    gap_us: Vec<u64>,
}

/// Moves one guest to and fro, or with --postcopy one guest after the other, with breaks on the
/// way.
#[derive(Debug, Parser)]
struct Options {
    /// How many.
    #[arg(default_value_t = DEFAULT_MOVES)]
    moves: u64,
    /// Move by postcopy, and break and recover it at random.
    #[arg(long)]
    postcopy: bool,
    /// What chance begins with; the clock when left out. The run after it has the next seed.
    #[arg(long, requires = "postcopy")]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let Some(lab) = Lab::new() else { return ExitCode::SUCCESS };
    // Everything that goes wrong is a panic of the harness, with the processes' last lines.
    let run = || if options.postcopy { postcopies(&lab, &options) } else { soak(&lab, options.moves) };
    match std::panic::catch_unwind(AssertUnwindSafe(run)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn postcopies(lab: &Lab, options: &Options) {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let first = options.seed.unwrap_or_else(clock);
    let began = Instant::now();
    let (mut breaks, mut postcopies, mut compared, mut resolved) = (0, 0, 0, 0);
    for seed in (first..).take(options.moves as usize) {
        // Said first, for the case that it does not come back.
        println!("ferry-soak --postcopy --seed {seed} 1");
        let summary = soak::postcopy(lab, seed);
        println!("    {summary}");
        breaks += summary.breaks;
        postcopies += u64::from(summary.postcopy);
        compared += u64::from(summary.compared);
        resolved += u64::from(summary.resolved);
    }
    println!(
        "\n{} moves in {:.1} s, no error of a guest: {postcopies} by postcopy, {breaks} breaks, {resolved} ends by the \
         operator's word, memory compared {compared} times",
        options.moves,
        began.elapsed().as_secs_f64()
    );
}

fn soak(lab: &Lab, moves: u64) {
    let image = disk::image(lab, "disk.img", 64 << 20);
    let spec = Spec::new().cpus(2).memory("256M").disk(&image).workload(|load| {
        load.working_set = 64 << 20;
        load.rate = Rate::BytesPerSecond(64 << 20);
        load.order = Order::Rand;
    });
    let mut here = lab.start(&spec);
    let mut guest = GuestLog::new(&here, spec.cpus);
    guest.wait_ready();
    guest.wait_reports(1);
    let began = Instant::now();
    let at_start = Holdings::of(here.pid());
    let mut at_first = None;
    let mut costs = Costs::default();
    println!("move  total ms  downtime µs  guest's gap µs  process");
    for number in 1..=moves {
        let mut there = lab.start_destination(&spec);
        let info = move_guest(&mut here, &mut there, &mut guest);
        here.quit();
        here = there;
        let (total_ms, downtime_us) = (info.total_time.unwrap_or(0), info.x_ferry_downtime_us.unwrap_or(0));
        let gap_us = guest.take_recent_gap_us();
        let held = Holdings::of(here.pid());
        println!("{number:>4}  {total_ms:>8}  {downtime_us:>11}  {gap_us:>14}  {held}");
        costs.total_ms.push(total_ms);
        costs.downtime_us.push(downtime_us);
        costs.gap_us.push(gap_us);
        at_first.get_or_insert(held);
    }
    guest.assert_ran_in_one_place();
    println!("\n{moves} moves in {:.1} s, no error of the guest", began.elapsed().as_secs_f64());
    println!("total ms        {}", spread(costs.total_ms));
    println!("downtime µs     {}", spread(costs.downtime_us));
    println!("guest's gap µs  {}", spread(costs.gap_us));
    println!("at the start    {at_start}");
    if let Some(first) = at_first {
        println!("after 1 move    {first}");
    }
    println!("at the end      {}", Holdings::of(here.pid()));
    let errors: u64 = (0..spec.cpus).map(|cpu| guest.newest(cpu).errors).sum();
    assert_eq!(errors, 0, "the guest counted errors");
    here.quit();
}

fn spread(mut values: Vec<u64>) -> String {
    values.sort_unstable();
    let at = |percent: usize| values.get((values.len().saturating_sub(1)) * percent / 100).copied().unwrap_or(0);
    format!("least {}, median {}, 90 % {}, most {}", at(0), at(50), at(90), at(100))
}
