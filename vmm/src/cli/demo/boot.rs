//! A guest boots, and its disk gets a record that names its owner.

use std::fs::File;
use std::time::Instant;

use super::WATCH;
use super::cast::{self, CPUS};
use super::child::FerryRun;
use super::guest_log::Account;
use super::stage::Stage;
use crate::cli::{CliError, units};

/// Bytes of the disk image.
const DISK_SIZE: u64 = 16 << 20;

const STORY: &str = "\
The built-in guest has 2 vCPUs, 256 MiB of memory and a disk. It rewrites 96 MiB of memory over and over,
checks every page before it does, writes to its disk and reads back. It reports what it finds, and its longest
gap: the time by which a page came later than it should, for any reason.
A file beside the disk, the ownership record, names the one process that may run it.";

/// Plays the act; returns the process that runs the guest.
pub(super) fn play(stage: &mut Stage) -> Result<(FerryRun, Account), CliError> {
    stage.act("A guest boots", STORY);
    let made = File::create(stage.file("disk.img")).and_then(|file| file.set_len(DISK_SIZE));
    made.map_err(|error| CliError::failed("cannot make a disk image", error))?;
    let began = Instant::now();
    let mut first = cast::start(stage, "first", &[])?;
    stage.follow_guest(&first)?;
    stage.wait_until("the guest's first line", |stage| Ok((stage.log.lines() > 0).then_some(())))?;
    let took = units::millis(began.elapsed().as_millis() as u64);
    stage.good(&format!("it runs, {took} after its process was started"));
    stage.wait_until("a guest at work", |stage| Ok((stage.log.ready() == CPUS).then_some(())))?;
    stage.watch_guest(WATCH)?;
    let account = cast::goes_on(stage, &mut first)?;
    Ok((first, account))
}
