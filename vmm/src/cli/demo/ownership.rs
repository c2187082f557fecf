//! The link breaks in the switchover's one moment of doubt, and the ownership record decides.

use ferry_migration::{MigrationInfo, Status};

use super::cast::{self, PRECOPY};
use super::child::FerryRun;
use super::guest_log::Account;
use super::stage::Stage;
use crate::cli::CliError;

const STORY: &str = "\
The destination runs the guest only with the source's permit; the source, once that is out, only if it got lost. A link
that breaks just there leaves it in doubt. It does not guess: each side asks the record to name it, and only one wins.";

/// Plays the act; returns the process that the guest has moved to.
pub(super) fn play(stage: &mut Stage, source: FerryRun) -> Result<(FerryRun, Account), CliError> {
    stage.act("The link breaks when the permit passes", STORY);
    let source = lose_permit(stage, source)?;
    lose_answer(stage, source)
}

/// The permit does not arrive: the source takes the guest back, by the record.
fn lose_permit(stage: &mut Stage, mut source: FerryRun) -> Result<FerryRun, CliError> {
    let mut destination = cast::start_destination(stage, "unlucky", &[])?;
    let info = migrate_until_cut(stage, &mut source, &mut destination, "Permit")?;
    cast::expect(&info, Status::Failed)?;
    stage.wait_until("the end of the process without a permit", |_| destination.ended())?;
    stage.bad(&format!("the permit was lost; the destination says: {}", destination.last_words()));
    stage.good("the record names the source anew, so an old permit is worth nothing: the guest runs on here");
    cast::goes_on(stage, &mut source)?;
    Ok(source)
}

/// The permit arrives, the answer does not: the source finds that the record names the
/// destination.
fn lose_answer(stage: &mut Stage, mut source: FerryRun) -> Result<(FerryRun, Account), CliError> {
    let mut destination = cast::start_destination(stage, "fifth", &[])?;
    let info = migrate_until_cut(stage, &mut source, &mut destination, "Started")?;
    cast::expect(&info, Status::Completed)?;
    stage.bad("next time the permit arrived, and the answer was lost");
    stage.good("the record names the destination: the source, which has heard nothing, lets go");
    let account = cast::leave(stage, source, &mut destination)?;
    Ok((destination, account))
}

fn migrate_until_cut(
    stage: &mut Stage,
    source: &mut FerryRun,
    destination: &mut FerryRun,
    message: &'static str,
) -> Result<MigrationInfo, CliError> {
    let relay = cast::relay_to(destination, Some(message))?;
    let info = cast::migrate(stage, source, &relay.uri(), PRECOPY)?;
    if relay.is_cut() {
        Ok(info)
    } else {
        Err(CliError::Failed(format!("{message} never passed: {}", cast::reason(&info))))
    }
}
