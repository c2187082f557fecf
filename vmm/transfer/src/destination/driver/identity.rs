//! Checks that the source has the same guest and the same disk as this destination.

use std::time::{Duration, Instant};

use ferry_machine::DiskFile;
use ferry_migration::Identity;
use ferry_migration::destination::Input;
use ferry_migration::greeting::Announced;
use ferry_migration::identity::IdentityError;

use super::Driver;
use super::state::Shared;
use crate::destination::events::Event;

/// How long the disk check of an earlier migration may take before it counts as hung. The driver
/// waits for it.
const EARLIER_LOOK: Duration = Duration::from_millis(100);

impl Driver {
    /// Compares the boot images, and adopts the command line; returns the nonce that the disk must
    /// show. A source of an older version sends neither.
    pub(super) fn check_identity(&self, identity: Option<Identity>) -> Result<Option<u64>, IdentityError> {
        if let Some(identity) = &identity {
            identity.check_form()?;
            identity.boot.check(&self.machine.boot_identity())?;
        }
        let nonce = match self.machine.writable_disk() {
            Some(disk) => Identity::proof_of(identity.as_ref(), (disk.instance(), &disk.path()), self.record.disk)?,
            None => None,
        };
        self.machine.set_command_line(identity.map(|identity| identity.boot.command_line));
        Ok(nonce)
    }

    /// Checks whether the disk is the source's, then the record; on a thread of its own, since
    /// storage may be slow, or hang. The check has the greater part of the time for `Hello`: the
    /// source receives the reason before its own timer runs out.
    pub(super) fn look_at_disk(&mut self, shared: Shared) {
        let Some(disk) = self.machine.writable_disk() else {
            return self.disk_seen(Ok(shared.record));
        };
        let Some(open) = disk.looking().begin(EARLIER_LOOK) else { return self.disk_is_late() };
        self.record.disk_look = Some(Instant::now() + self.timers.durations.setup * 3 / 4);
        let events = self.events.clone();
        // Here, not on the thread: that may run only after the migration has failed.
        disk.expect_handover();
        let look = move || {
            let seen = shared.nonce.map_or(Ok(()), |nonce| look_for(&disk, nonce)).map_err(|error| error.to_string());
            if seen.is_ok() {
                disk.follow_handover();
            }
            drop(open);
            // A driver that has given up needs no answer.
            let _ = events.send(Event::DiskSeen(seen.map(|()| shared.record)));
        };
        if let Err(error) = self.machine.faults().spawn("ferry-dst-disk", look) {
            self.disk_seen(Err(format!("no thread to look at the disk can be started: {error}")));
        }
    }

    /// The disk's storage hangs: the source keeps its guest, and both sides name the image.
    pub(super) fn disk_is_late(&mut self) {
        let Some(disk) = self.machine.writable_disk() else { return };
        let reason = format!(
            "disk virtio-blk/{}: the storage of the destination's image {} gives no answer, so that whether it is the \
             source's file is not known: see on the destination's host what keeps it, then try again",
            disk.instance(),
            disk.path()
        );
        tracing::warn!("{reason}");
        self.disk_seen(Err(reason));
    }

    /// Handles the result of the check.
    pub(super) fn disk_seen(&mut self, result: Result<Option<Announced>, String>) {
        self.record.disk_look = None;
        if result.is_ok() {
            self.show_presence();
        }
        match result {
            Ok(Some(announced)) => self.look_for(announced),
            Ok(None) => self.input(Input::Checked(Ok(false))),
            Err(reason) => self.input(Input::Checked(Err(reason))),
        }
    }
}

fn look_for(disk: &DiskFile, nonce: u64) -> Result<(), IdentityError> {
    match disk.sees(nonce) {
        Ok(true) => Ok(()),
        Ok(false) => Err(IdentityError::other_file(disk.instance(), &disk.path())),
        Err(error) => Err(IdentityError::unknown_file(disk.instance(), &disk.path(), &error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use ferry_link::listener::Listener;
    use ferry_machine::testing::with_hanging_disk;
    use ferry_migration::Parameters;
    use ferry_observe::events::Events;

    use super::*;
    use crate::progress::{Direction, Progress};
    use crate::threads::of_this_process;

    #[test]
    fn while_a_look_at_the_disk_hangs_a_later_migration_is_refused_and_starts_no_thread() {
        let Some((machine, _image)) = with_hanging_disk() else { return };
        for waits in [true, false, false] {
            let listener = Listener::bind(&"tcp:127.0.0.1:0".parse().unwrap()).unwrap();
            let (events, _inbox) = channel();
            let progress = Progress::new(Direction::Incoming, 0, Arc::new(Events::default()));
            let parameters = Parameters::default();
            let driver = Driver::new(machine.clone(), listener, &parameters, progress, events, None);
            let mut driver = driver.unwrap();
            driver.look_at_disk(Shared { nonce: Some(5), record: None });
            assert_eq!(driver.record.disk_look.is_some(), waits);
            assert!(of_this_process("ferry-dst-disk") <= 1);
        }
        machine.faults().clear();
    }
}
