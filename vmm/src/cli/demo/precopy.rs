//! The guest moves by precopy, to a process without faults.

use ferry_migration::Status;

use super::cast::{self, PRECOPY};
use super::child::FerryRun;
use super::guest_log::Account;
use super::stage::Stage;
use crate::cli::CliError;

const STORY: &str = "\
A second process waits for it. The memory is copied while the guest changes it; what it changed is copied again,
until so little is left that the guest can be stopped, handed over and started there in a few milliseconds.";

/// Plays the act; returns the process that the guest has moved to.
pub(super) fn play(stage: &mut Stage, mut source: FerryRun) -> Result<(FerryRun, Account), CliError> {
    stage.act("It moves while it works: precopy", STORY);
    let mut destination = cast::start_destination(stage, "second", &[])?;
    let to = destination.listens_at()?;
    let info = cast::migrate(stage, &mut source, &to, PRECOPY)?;
    cast::expect(&info, Status::Completed)?;
    cast::tell_moved(stage, &info);
    let account = cast::leave(stage, source, &mut destination)?;
    Ok((destination, account))
}
