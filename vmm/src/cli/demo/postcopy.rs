//! The guest moves by postcopy: it runs at the destination while its memory follows, and waits for
//! the pages that it needs first.

use ferry_migration::{MigrationInfo, Status};

use serde_json::json;

use super::cast::{self, Plan};
use super::child::FerryRun;
use super::guest_log::Account;
use super::stage::Stage;
use crate::cli::style::{Style, bar};
use crate::cli::{CliError, units};

/// Bytes a second of the first round.
const FAST: u64 = 128 << 20;
/// Bytes a second while the guest runs there: fewer than it touches, so that it has to wait for
/// some.
const SLOW: u64 = 4 << 20;
/// Cells of the longest bar.
const BAR_WIDTH: u64 = 24;

const STORY: &str = "\
A failed migration leaves nothing behind. This one copies the memory once, then lets the guest run there. What it
changed meanwhile follows, over a link made slower than the guest; a page that it touches too early overtakes the rest.";

/// Plays the act; returns the process that the guest has moved to.
pub(super) fn play(stage: &mut Stage, mut source: FerryRun) -> Result<(FerryRun, Account), CliError> {
    stage.act("It moves before its memory does: postcopy", STORY);
    let mut destination = cast::start_destination(stage, "third", &[])?;
    let to = destination.listens_at()?;
    cast::begin(&mut source, &to, Plan { postcopy: true, rehearsal: true, max_bandwidth: FAST })?;
    stage.follow_until(&mut source, Status::PostcopyActive)?;
    source.client.execute("migrate-set-parameters", json!({ "max-bandwidth": SLOW }))?;
    stage.follow_guest(&destination)?;
    let info = stage.follow_migration(&mut source)?;
    cast::expect(&info, Status::Completed)?;
    stage.line("the source:", &source.statuses()?);
    cast::tell_moved(stage, &info);
    let arrived = destination.ended_well(stage)?;
    stage.text(&waits(&arrived, stage.style()));
    let account = cast::leave(stage, source, &mut destination)?;
    Ok((destination, account))
}

/// The destination's numbers about missing pages.
fn waits(info: &MigrationInfo, style: Style) -> String {
    let Some(stats) = &info.x_ferry_postcopy else { return String::new() };
    let waits = stats.waits.clone().unwrap_or_default();
    let mut text = format!(
        "  {} {} pages came after the guest; it had to wait for {} of them",
        style.dim("postcopy  "),
        units::count(stats.received_pages),
        style.bold(&units::count(waits.count)),
    );
    if let Some(mean) = waits.total_us.checked_div(waits.count) {
        let (mean, longest) = (units::micros(mean), units::micros(waits.longest_us));
        text.push_str(&format!(": {mean} on average, {longest} at most"));
    }
    text.push('\n');
    let dist = info.postcopy_latency_dist.as_deref().unwrap_or_default();
    let most = dist.iter().copied().max().unwrap_or_default();
    let shown = dist.iter().enumerate().filter(|(_, count)| **count > 0);
    for (power, count) in shown {
        let from = units::micros(1 << power.min(63));
        text.push_str(&format!(
            "    from {from:<8} {:>9}  {}\n",
            units::count(*count),
            style.accent(&bar(*count, most, BAR_WIDTH))
        ));
    }
    text
}
