//! `ferry demo`: the whole story on one machine, with nothing to prepare. A guest boots, moves by
//! precopy and by postcopy, survives a destination that cannot load it, a network that is cut and a
//! hand-over in doubt; it checks itself all the time and its account is printed at the end.
//!
//! Everything is done as by a user: `ferry run` processes, driven by QMP. Each act is a module,
//! whose `play` takes the process that runs the guest and returns the one that runs it afterwards.

mod boot;
mod cast;
mod child;
mod failure;
mod guest_log;
mod ownership;
mod postcopy;
mod precopy;
mod recovery;
mod relay;
mod stage;

use std::time::{Duration, Instant};

use clap::Args;

use self::guest_log::Account;
use self::stage::Stage;
use super::{CliError, say, units};

/// How long the guest is watched before and after it moves.
const WATCH: Duration = Duration::from_millis(1500);

/// The options of `ferry demo`: none, it is for looking.
#[derive(Args, Debug)]
pub(super) struct Options {}

/// Runs `ferry demo`.
pub(super) fn run(_: &Options) -> Result<(), CliError> {
    let began = Instant::now();
    let mut stage = Stage::new()?;
    say(&stage.style().bold("A guest moves between processes while it works."));
    say(&stage.style().dim("This takes less than half a minute and leaves nothing behind."));
    let (first, booted) = boot::play(&mut stage)?;
    let (second, moved) = precopy::play(&mut stage, first)?;
    let (second, _) = failure::play(&mut stage, second)?;
    let (third, postcopied) = postcopy::play(&mut stage, second)?;
    let (fourth, recovered) = recovery::play(&mut stage, third)?;
    let (_fifth, last) = ownership::play(&mut stage, fourth)?;
    stage.watch_guest(WATCH)?;
    let end = stage.guest_goes_on(cast::CPUS, &last)?;
    let gaps =
        [("at rest", booted), ("in precopy", moved), ("in postcopy", postcopied), ("with the network cut", recovered)];
    account(&stage, &gaps, &end, began);
    Ok(())
}

fn account(stage: &Stage, gaps: &[(&str, Account)], end: &Account, began: Instant) {
    say(&format!("\n{}", stage.style().bold("In short")));
    let seconds = units::millis(end.uptime_ms);
    stage.good(&format!("the guest ran for {seconds} in five processes, one after the other, never in two"));
    let work = format!("{} pages and {} disk requests", units::count(end.pages), units::count(end.disk_requests));
    stage.good(&format!("it checked {work} and found {} errors", end.errors));
    let gap =
        |(when, account): &(&str, Account)| format!("{} {when}", stage.style().bold(&units::micros(account.gap_us)));
    let gaps: Vec<String> = gaps.iter().map(gap).collect();
    stage.good(&format!("its longest gap was {}", gaps.join(", ")));
    let took = units::millis(began.elapsed().as_millis() as u64);
    let by_hand = stage.style().dim(&format!("All this took {took}. By hand: ferry run --help, ferry migrate --help"));
    say(&format!("\n{by_hand}"));
}
