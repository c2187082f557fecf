//! `ferry demo`: the whole story on one machine, with nothing to prepare. A guest boots, moves while it works, survives a
//! destination that cannot take it, and moves again; it watches itself all the time and has the last word.
//!
//! Everything is done as a user would do it: `ferry run` processes, driven by QMP.

mod child;
mod guest_log;
mod stage;

use std::fs::File;
use std::time::{Duration, Instant};

use clap::Args;
use ferry_guest::Workload;
use ferry_guest::workload::Rate;
use ferry_migration::{MigrationInfo, Status};
use serde_json::json;

use self::child::FerryRun;
use self::guest_log::Account;
use self::stage::Stage;
use super::{CliError, say, summary, units};

/// vCPUs of the demo's guest.
const CPUS: u32 = 2;
/// Guest memory, as `--memory` takes it.
const MEMORY: &str = "256M";
/// Bytes of memory that the guest works in.
const WORKING_SET: u64 = 96 << 20;
/// Bytes of pages that it rewrites a second.
const RATE: u64 = 48 << 20;
/// Bytes of the disk image.
const DISK_SIZE: u64 = 16 << 20;
/// Between two reports of the guest.
const REPORT_MS: u64 = 250;
/// How long the guest is watched between two acts.
const WATCH: Duration = Duration::from_millis(1500);

/// The options of `ferry demo`: none, it is for looking.
#[derive(Args, Debug)]
pub struct Options {}

/// Runs `ferry demo`.
pub fn run(_: &Options) -> Result<(), CliError> {
    let began = Instant::now();
    let mut stage = Stage::new()?;
    say(&stage.style().bold("A guest moves between processes while it works."));
    say(&stage.style().dim("This takes less than half a minute and leaves nothing behind."));
    let (first, booted) = boot(&mut stage)?;
    let (second, _) = move_it(&mut stage, first, "second", MOVE)?;
    let second = fail(&mut stage, second)?;
    let (_third, last) = move_it(&mut stage, second, "third", MOVE_AGAIN)?;
    stage.watch_guest(WATCH)?;
    let end = stage.guest_goes_on(CPUS as usize, &last)?;
    account(&stage, &booted, &end, began);
    Ok(())
}

const BOOT: &str = "\
The built-in guest has 2 vCPUs, 256 MiB of memory and a disk. It rewrites 96 MiB of memory over and over,
checks every page before it does, writes to its disk and reads back. It reports what it finds, and its longest
gap: the time by which a page came later than it should, whoever made it wait.";
const MOVE: &str = "\
A second process waits for it. The memory is copied while the guest changes it; what it changed is copied again,
until so little is left that the guest can be stopped, handed over and started there in a few milliseconds.";
const FAIL: &str = "\
Another process has a device that fails after it has loaded its state. Ferry tries the device state on the
destination while the guest still runs, so the failure costs the guest nothing.";
const MOVE_AGAIN: &str = "\
A failed migration leaves nothing behind: the next one, to a process that is well, succeeds.";

fn boot(stage: &mut Stage) -> Result<(FerryRun, Account), CliError> {
    stage.act("A guest boots", BOOT);
    let disk = stage.file("disk.img");
    let made = File::create(&disk).and_then(|file| file.set_len(DISK_SIZE));
    made.map_err(|error| CliError::failed("cannot make a disk image", error))?;
    let began = Instant::now();
    let first = start(stage, "first", &[])?;
    follow_guest(stage, &first)?;
    stage.wait_until("the guest's first line", |stage| Ok((stage.log.lines() > 0).then_some(())))?;
    stage
        .good(&format!("it runs, {} after its process was started", units::millis(began.elapsed().as_millis() as u64)));
    stage.wait_until("a guest at work", |stage| Ok((stage.log.ready() == CPUS as usize).then_some(())))?;
    stage.watch_guest(WATCH)?;
    let account = stage.guest_goes_on(CPUS as usize, &Account::default())?;
    stage.guest_says(&account);
    Ok((first, account))
}

/// Moves the guest to a new process, which is returned.
fn move_it(stage: &mut Stage, mut source: FerryRun, name: &str, story: &str) -> Result<(FerryRun, Account), CliError> {
    stage.act(if story == MOVE { "It moves while it works" } else { "It moves again" }, story);
    let mut destination = start(stage, name, &["--incoming".into(), "tcp:127.0.0.1:0".into()])?;
    let info = migrate(stage, &mut source, &mut destination)?;
    if info.status != Some(Status::Completed) {
        let why = info.error_desc.as_deref().unwrap_or("no reason was given");
        return Err(CliError::Failed(format!("the migration should have succeeded: {why}")));
    }
    let took = info.total_time.map(units::millis).unwrap_or_default();
    stage.good(&format!("moved in {took}; the process it left can go"));
    let mut numbers = String::new();
    summary::numbers(&mut numbers, &info, stage.style());
    say(&numbers);
    source.client.execute("quit", json!({}))?;
    stage.wait_until("the end of the source's process", |_| source.ended())?;
    follow_guest(stage, &destination)?;
    let before = stage.log.account();
    let after = stage.guest_goes_on(CPUS as usize, &before)?;
    stage.guest_says(&after);
    Ok((destination, after))
}

/// Tries to move the guest to a process that cannot take it; it stays where it is.
fn fail(stage: &mut Stage, mut source: FerryRun) -> Result<FerryRun, CliError> {
    stage.act("A destination fails", FAIL);
    let fault = "fault,at=post_load,do=fail,in=incoming";
    let arguments = ["--incoming", "tcp:127.0.0.1:0", "--device", fault].map(str::to_owned);
    let mut destination = start(stage, "broken", &arguments)?;
    let before = stage.log.account();
    let info = migrate(stage, &mut source, &mut destination)?;
    if info.status != Some(Status::Failed) {
        return Err(CliError::Failed("the migration to a broken destination should have failed".into()));
    }
    stage.bad(&format!("the source says: {}", info.error_desc.as_deref().unwrap_or("no reason was given")));
    stage.wait_until("the end of the broken process", |_| destination.ended())?;
    stage.bad(&format!("the destination says: {}", destination.last_words()));
    let after = stage.guest_goes_on(CPUS as usize, &before)?;
    stage.good("the guest runs on where it was");
    stage.guest_says(&after);
    Ok(source)
}

fn account(stage: &Stage, booted: &Account, end: &Account, began: Instant) {
    say(&format!("\n{}", stage.style().bold("In short")));
    let seconds = units::millis(end.uptime_ms);
    stage.good(&format!("the guest ran for {seconds} in three processes, one after the other, never in two"));
    let work = format!("{} pages and {} disk requests", units::count(end.pages), units::count(end.disk_requests));
    stage.good(&format!("it checked {work} and found {} errors", end.errors));
    let gap = |account: &Account| units::micros(account.worst_gap_us);
    let before = stage.style().dim(&format!("(and {} before it ever moved)", gap(booted)));
    stage.good(&format!("its longest gap was {} {before}", stage.style().bold(&gap(end))));
    let took = units::millis(began.elapsed().as_millis() as u64);
    let by_hand = stage.style().dim(&format!("All this took {took}. By hand: ferry run --help, ferry migrate --help"));
    say(&format!("\n{by_hand}"));
}

fn start(stage: &Stage, name: &str, arguments: &[String]) -> Result<FerryRun, CliError> {
    let workload = Workload {
        cpus: CPUS,
        working_set: WORKING_SET,
        rate: Rate::BytesPerSecond(RATE),
        report_ms: REPORT_MS,
        ..Workload::default()
    };
    let options = [
        ("--name", "demo".to_owned()),
        ("--memory", MEMORY.to_owned()),
        ("--cpus", CPUS.to_string()),
        ("--disk", stage.file("disk.img").display().to_string()),
        ("--cmdline", workload.to_cmdline()),
    ];
    let mut all: Vec<String> = options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
    all.extend_from_slice(arguments);
    FerryRun::start(stage.dir(), name, &all)
}

fn follow_guest(stage: &mut Stage, process: &FerryRun) -> Result<(), CliError> {
    stage.log.follow(&process.serial).map_err(|error| CliError::failed("cannot read what the guest prints", error))
}

fn migrate(stage: &mut Stage, source: &mut FerryRun, destination: &mut FerryRun) -> Result<MigrationInfo, CliError> {
    let to = destination.listens_at()?;
    source.client.execute("migrate", json!({ "uri": to }))?;
    stage.follow_migration(source)
}
