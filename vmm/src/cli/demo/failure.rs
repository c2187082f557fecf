//! A destination that cannot load the guest: detected in postcopy's switchover, and with the
//! rehearsal long before it.

use ferry_migration::{MigrationInfo, Status};

use super::cast::{self, Plan};
use super::child::FerryRun;
use super::guest_log::Account;
use super::stage::Stage;
use crate::cli::CliError;

const STORY: &str = "\
Another process has a device that fails after it has loaded its state. In this postcopy no rehearsal tries that beforehand:
the guest is stopped and its devices are sent when it shows. The destination has no permit yet: the guest stays here.";

/// Plays the act; the guest stays where it is.
pub(super) fn play(stage: &mut Stage, mut source: FerryRun) -> Result<(FerryRun, Account), CliError> {
    stage.act("A device fails at the worst moment", STORY);
    let blind = Plan { postcopy: true, rehearsal: false, max_bandwidth: 0 };
    let (info, last_words) = fail(stage, &mut source, "broken", blind)?;
    stage.line("the source:", &source.statuses()?);
    stage.bad(&format!("the source says: {}", cast::reason(&info)));
    stage.bad(&format!("the destination says: {last_words}"));
    stage.good("the guest runs on where it was, with all of its memory");
    let account = cast::goes_on(stage, &mut source)?;
    fail(stage, &mut source, "rehearsing", Plan { rehearsal: true, ..blind })?;
    let walk = source.statuses()?;
    stage.good(&format!("with the rehearsal, the default, it would not even have stopped: {walk}"));
    Ok((source, account))
}

/// Migrates to a process with a broken device; returns the result, and the last line that the
/// process printed.
fn fail(
    stage: &mut Stage,
    source: &mut FerryRun,
    name: &'static str,
    plan: Plan,
) -> Result<(MigrationInfo, String), CliError> {
    let broken = ["--device", "fault,at=post_load,do=fail,in=incoming"];
    let mut destination = cast::start_destination(stage, name, &broken)?;
    let to = destination.listens_at()?;
    let info = cast::migrate(stage, source, &to, plan)?;
    cast::expect(&info, Status::Failed)?;
    stage.wait_until("the end of the broken process", |_| destination.ended())?;
    Ok((info, destination.last_words()))
}
