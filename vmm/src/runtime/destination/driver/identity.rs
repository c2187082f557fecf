//! Whether the source means the same guest and the same disk as this destination.

use ferry_migration::Identity;
use ferry_migration::destination::Input;
use ferry_migration::greeting::Announced;
use ferry_migration::identity::IdentityError;

use super::Driver;
use crate::machine::DiskFile;
use crate::runtime::destination::Event;

/// What the source has announced of the storage that both sides see.
#[derive(Debug)]
pub(super) struct Shared {
    /// The number that the disk must show, if there is anything to prove.
    pub(super) nonce: Option<u64>,
    /// The ownership record's part.
    pub(super) record: Option<Announced>,
}

impl Driver {
    /// Compares what the guest boots, and takes over its command line; returns what its disk must
    /// show. A source of an older version says nothing of either.
    pub(super) fn check_identity(&self, identity: Option<Identity>) -> Result<Option<u64>, IdentityError> {
        if let Some(identity) = &identity {
            identity.check_form()?;
            identity.boot.check(&self.machine.boot_identity())?;
        }
        let nonce = match self.machine.writable_disk() {
            Some(disk) => Identity::proof_of(identity.as_ref(), (disk.instance(), &disk.path()), self.disk)?,
            None => None,
        };
        self.machine.set_command_line(identity.map(|identity| identity.boot.command_line));
        Ok(nonce)
    }

    /// Looks whether the disk is the source's, then at the record; on a thread of its own, since
    /// storage may take its time, or hang: the time for `Hello` bounds that.
    pub(super) fn look_at_disk(&mut self, shared: Shared) {
        let Some(disk) = self.machine.writable_disk() else {
            return self.disk_seen(Ok(shared.record));
        };
        let events = self.events.clone();
        let look = move || {
            let seen = shared.nonce.map_or(Ok(()), |nonce| look_for(&disk, nonce)).map_err(|error| error.to_string());
            if seen.is_ok() {
                disk.begin_handover();
            }
            // A driver that has given up needs no answer.
            let _ = events.send(Event::DiskSeen(seen.map(|()| shared.record)));
        };
        if let Err(error) = crate::runtime::spawn(self.machine.faults(), "ferry-dst-disk", look) {
            self.disk_seen(Err(format!("no thread to look at the disk can be started: {error}")));
        }
    }

    /// What came of it.
    pub(super) fn disk_seen(&mut self, result: Result<Option<Announced>, String>) {
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
