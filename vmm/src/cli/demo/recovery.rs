//! The network breaks while the guest's memory is on two sides, and comes back.

use std::time::{Duration, Instant};

use ferry_migration::Status;
use serde_json::json;

use super::cast::{self, Plan};
use super::child::FerryRun;
use super::guest_log::Account;
use super::stage::Stage;
use crate::cli::{CliError, units};

/// Time for the guest to request the pages that it needs all the time, before the cut.
const SETTLE: Duration = Duration::from_millis(400);
/// Bytes a second of the background stream: so few that most pages are still missing at the cut.
const TRICKLE: u64 = 2 << 20;

const STORY: &str = "\
Postcopy again, through a network of the demo's own. It is cut when the guest runs there and part of its memory is
still here: neither side is whole by itself, so both keep what they have and wait to be connected again.";

/// Plays the act; returns the process that the guest has moved to.
pub(super) fn play(stage: &mut Stage, mut source: FerryRun) -> Result<(FerryRun, Account), CliError> {
    stage.act("The network is cut, and comes back", STORY);
    let mut destination = cast::start_destination(stage, "fourth", &[])?;
    let relay = cast::relay_to(&mut destination, None)?;
    cast::begin(&mut source, &relay.uri(), Plan { postcopy: true, rehearsal: true, max_bandwidth: 128 << 20 })?;
    stage.follow_until(&mut source, Status::PostcopyActive)?;
    source.client.execute("migrate-set-parameters", json!({ "max-bandwidth": TRICKLE }))?;
    stage.follow_guest(&destination)?;
    stage.watch_guest(SETTLE)?;

    let before = stage.log.account();
    relay.cut();
    let cut = Instant::now();
    tell_paused(stage, &mut source, &mut destination)?;
    wait_for_pages(stage, &mut destination, &before)?;

    destination.client.execute("migrate-recover", json!({ "uri": "tcp:127.0.0.1:0" }))?;
    let to = destination.listens_at()?;
    source.client.execute("migrate", json!({ "uri": to, "resume": true }))?;
    source.client.execute("migrate-set-parameters", json!({ "max-bandwidth": 0 }))?;
    let info = stage.follow_migration(&mut source)?;
    cast::expect(&info, Status::Completed)?;
    let took = units::millis(cut.elapsed().as_millis() as u64);
    stage.good(&format!(
        "reconnected: migrate-recover there, migrate with resume here; all memory is there {took} after the cut"
    ));
    stage.line("the source:", &source.statuses()?);
    destination.ended_well(stage)?;
    let account = cast::leave(stage, source, &mut destination)?;
    Ok((destination, account))
}

fn tell_paused(stage: &mut Stage, source: &mut FerryRun, destination: &mut FerryRun) -> Result<(), CliError> {
    for process in [source, destination] {
        let info = stage.wait_until("a paused postcopy", |_| {
            Ok(Some(process.client.query_migrate()?).filter(|info| info.status == Some(Status::PostcopyPaused)))
        })?;
        let missing = info.x_ferry_postcopy.as_ref().map(|stats| stats.missing_pages).unwrap_or_default();
        let missing = units::count(missing);
        // The remedy, which follows the reason, is what this act does.
        let why = cast::reason(&info).split(';').next().unwrap_or_default();
        stage.bad(&format!("the {} process: postcopy-paused, {missing} pages to go: {why}", process.name()));
    }
    Ok(())
}

/// The guest goes on until it needs missing pages.
fn wait_for_pages(stage: &mut Stage, destination: &mut FerryRun, before: &Account) -> Result<(), CliError> {
    let waits = stage.wait_until("a guest that needs missing pages", |_| {
        let stats = destination.client.query_migrate()?.x_ferry_postcopy;
        let pending = stats.and_then(|stats| stats.waits).map(|waits| waits.pending);
        Ok(pending.filter(|pending| *pending >= cast::CPUS as u64))
    })?;
    let pages = units::count(stage.log.account().pages.saturating_sub(before.pages));
    stage.good(&format!("the guest went on for {pages} pages more; now it waits for {waits} that are missing"));
    Ok(())
}
