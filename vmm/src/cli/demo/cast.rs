//! The processes of the demo, all with the same machine, and the steps that the acts share.

use ferry_guest::Workload;
use ferry_guest::workload::Rate;
use ferry_migration::{MigrationInfo, Status};
use serde_json::json;

use super::child::FerryRun;
use super::guest_log::Account;
use super::relay::Relay;
use super::stage::Stage;
use crate::cli::{CliError, summary, units};

/// vCPUs of the demo's guest.
pub(super) const CPUS: usize = 2;
/// Guest memory, as `--memory` takes it.
const MEMORY: &str = "256M";
/// Bytes of memory that the guest works in.
const WORKING_SET: u64 = 96 << 20;
/// Bytes of pages that it rewrites a second.
const RATE: u64 = 48 << 20;
/// Between two reports of the guest.
const REPORT_MS: u64 = 250;

/// The settings of a migration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// After the first round the guest runs at the destination, and the rest of its memory
    /// follows.
    pub postcopy: bool,
    /// Try the device state on the destination while the guest still runs.
    pub rehearsal: bool,
    /// Bytes a second; 0 is no limit.
    pub max_bandwidth: u64,
}

/// The defaults.
pub(super) const PRECOPY: Plan = Plan { postcopy: false, rehearsal: true, max_bandwidth: 0 };

/// Starts a process that boots the guest, or with `--incoming` waits for it.
pub(super) fn start(stage: &Stage, name: &'static str, arguments: &[&str]) -> Result<FerryRun, CliError> {
    let workload = Workload {
        cpus: CPUS as u32,
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
    all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    FerryRun::start(stage.dir(), name, &all)
}

/// Starts a process that waits for the guest.
pub(super) fn start_destination(stage: &Stage, name: &'static str, arguments: &[&str]) -> Result<FerryRun, CliError> {
    start(stage, name, &[&["--incoming", "tcp:127.0.0.1:0"], arguments].concat())
}

/// A network of its own between a source and `destination`.
pub(super) fn relay_to(destination: &mut FerryRun, cut_at: Option<&'static str>) -> Result<Relay, CliError> {
    let at = destination.listens_at()?;
    Relay::new(&at, cut_at).map_err(|error| CliError::failed("cannot make a relay on loopback", error))
}

/// Begins a migration from `source` to the address `to`.
pub(super) fn begin(source: &mut FerryRun, to: &str, plan: Plan) -> Result<(), CliError> {
    source.client.take_events();
    let allow = json!([{ "capability": "postcopy-ram", "state": plan.postcopy }]);
    source.client.execute("migrate-set-capabilities", json!({ "capabilities": allow }))?;
    let parameters = json!({
        "x-ferry-postcopy-when": if plan.postcopy { "first-round" } else { "manual" },
        // Postcopy even where precopy would converge.
        "downtime-limit": if plan.postcopy { 0 } else { 300 },
        "x-ferry-rehearsal": plan.rehearsal,
        "max-bandwidth": plan.max_bandwidth,
    });
    source.client.execute("migrate-set-parameters", parameters)?;
    source.client.execute("migrate", json!({ "uri": to }))?;
    Ok(())
}

/// Migrates from `source` to the address `to`, and returns how that ended.
pub(super) fn migrate(
    stage: &mut Stage,
    source: &mut FerryRun,
    to: &str,
    plan: Plan,
) -> Result<MigrationInfo, CliError> {
    begin(source, to, plan)?;
    stage.follow_migration(source)
}

/// The migration must have ended with the status `wanted`.
pub(super) fn expect(info: &MigrationInfo, wanted: Status) -> Result<(), CliError> {
    if info.status == Some(wanted) {
        return Ok(());
    }
    let (status, why) = (info.status.unwrap_or_default().as_str(), reason(info));
    Err(CliError::Failed(format!("the migration should have {}, and is {status}: {why}", wanted.as_str())))
}

/// Why a migration ended as it did.
pub(super) fn reason(info: &MigrationInfo) -> &str {
    info.error_desc.as_deref().unwrap_or("no reason was given")
}

/// Prints a completed migration, with its numbers.
pub(super) fn tell_moved(stage: &Stage, info: &MigrationInfo) {
    let took = info.total_time.map(units::millis).unwrap_or_default();
    stage.good(&format!("moved in {took}; the process it left can go"));
    let mut numbers = String::new();
    summary::numbers(&mut numbers, info, stage.style());
    stage.text(&numbers);
}

/// The guest has moved to `destination`: ends the source's process, and checks that the guest goes
/// on.
pub(super) fn leave(stage: &mut Stage, mut source: FerryRun, destination: &mut FerryRun) -> Result<Account, CliError> {
    source.client.execute("quit", json!({}))?;
    stage.wait_until("the end of the source's process", |_| source.ended())?;
    stage.follow_guest(destination)?;
    goes_on(stage, destination)
}

/// Checks that the guest runs in `process`, and that the record names it.
pub(super) fn goes_on(stage: &mut Stage, process: &mut FerryRun) -> Result<Account, CliError> {
    let before = stage.log.account();
    let after = stage.guest_goes_on(CPUS, &before)?;
    stage.guest_says(&after);
    tell_owner(stage, process)?;
    Ok(after)
}

/// Shows the record, which must name `process`.
pub(super) fn tell_owner(stage: &mut Stage, process: &mut FerryRun) -> Result<(), CliError> {
    let record = stage.wait_until("a settled ownership record", |_| {
        Ok(Some(process.ownership()?).filter(|record| record.settled == Some(true)))
    })?;
    let (name, owner) = (process.name(), record.owner.unwrap_or_default());
    if record.owned_here != Some(true) {
        return Err(CliError::Failed(format!("the ownership record names {owner}, not the {name} process")));
    }
    let generation = record.generation.unwrap_or_default();
    stage.line("the record:", &format!("generation {generation}, owned by the {name} process, {owner}"));
    Ok(())
}
