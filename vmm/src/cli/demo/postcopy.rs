//! The guest moves by postcopy: it runs at the destination while its memory follows, and waits for the pages that it needs first.

use ferry_migration::{MigrationInfo, Status};

use super::cast::{self, Plan};
use super::child::FerryRun;
use super::guest_log::Account;
use super::stage::Stage;
use crate::cli::style::{Style, bar};
use crate::cli::{CliError, units};

/// Cells of the longest bar.
const BAR_WIDTH: u64 = 24;

const STORY: &str = "\
A failed migration leaves nothing behind. This one copies the memory once, over a link that is hardly faster than the guest,
then lets the guest run there. What it touches before it has come is asked for, and overtakes the rest.";

/// Plays the act; returns the process that the guest has moved to.
pub fn play(stage: &mut Stage, mut source: FerryRun) -> Result<(FerryRun, Account), CliError> {
    stage.act("It moves before its memory does: postcopy", STORY);
    let mut destination = cast::start_destination(stage, "third", &[])?;
    let to = destination.listens_at()?;
    let info =
        cast::migrate(stage, &mut source, &to, Plan { postcopy: true, rehearsal: true, max_bandwidth: 64 << 20 })?;
    cast::expect(&info, Status::Completed)?;
    stage.line("the source:", &source.statuses()?);
    cast::tell_moved(stage, &info);
    let arrived = destination.ended_well(stage)?;
    stage.text(&waits(&arrived, stage.style()));
    let account = cast::leave(stage, source, &mut destination)?;
    Ok((destination, account))
}

/// What the destination says of missing pages.
fn waits(info: &MigrationInfo, style: Style) -> String {
    let Some(stats) = &info.x_ferry_postcopy else { return String::new() };
    let waits = stats.waits.clone().unwrap_or_default();
    let mean = waits.total_us.checked_div(waits.count).map(units::micros).unwrap_or_default();
    let mut text = format!(
        "  {} {} pages came after the guest; it waited for {} of them, {mean} each, {} at most\n",
        style.dim("postcopy  "),
        units::count(stats.received_pages),
        style.bold(&units::count(waits.count)),
        units::micros(waits.longest_us),
    );
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
