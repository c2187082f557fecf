//! The sign of a process that has the guest: a lock that the kernel drops with the process.
//!
//! The lock of a writable disk keeps a second boot away. A guest without one, or with a device
//! that two hosts see, has only its record; and a record that is settled does not say whether its
//! owner lives. The two sides of a hand-over have the guest at the same time, so the sign is
//! shared; a boot wants to be alone.

use std::fs::File;

use super::FileRecord;
use super::lock::{self, Kind};
use crate::ownership::{Ownership, OwnershipError};

impl FileRecord {
    pub(super) fn take_presence(&self, alone: bool) -> Result<(), OwnershipError> {
        let mut presence = self.presence();
        let file = match &*presence {
            Some(_) => return Ok(()),
            // A file of its own: one that is closed after an operation must not end the sign.
            None => self.open()?.ok_or_else(|| OwnershipError::Missing { at: self.place() })?,
        };
        self.check_in_place(&file)?;
        let kind = if alone { Kind::Exclusive } else { Kind::Shared };
        if !self.set_presence(&file, kind)? || alone && !self.set_presence(&file, Kind::Shared)? {
            return Err(OwnershipError::Present { at: self.place() });
        }
        *presence = Some(file);
        Ok(())
    }

    pub(super) fn drop_presence(&self) {
        *self.presence() = None;
    }

    fn set_presence(&self, file: &File, kind: Kind) -> Result<bool, OwnershipError> {
        lock::show_presence(file, kind).map_err(|error| self.unreachable("locking it", false, error))
    }

    fn presence(&self) -> std::sync::MutexGuard<'_, Option<File>> {
        self.presence.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Folder, created};
    use crate::ownership::{Ownership, OwnershipError};

    #[test]
    fn the_sides_of_a_hand_over_are_present_together_and_a_boot_only_alone() {
        let folder = Folder::new();
        assert!(matches!(folder.opener().show_presence(true), Err(OwnershipError::Missing { .. })));
        let (source, destination, boot) = (created(&folder), folder.opener(), folder.opener());
        source.show_presence(true).unwrap();
        source.show_presence(false).unwrap();
        destination.show_presence(false).unwrap();
        assert!(matches!(boot.show_presence(true), Err(OwnershipError::Present { .. })));
        source.end_presence();
        assert!(matches!(boot.show_presence(true), Err(OwnershipError::Present { .. })));
        assert!(boot.read().unwrap().is_some(), "what is read is not locked by it");
        drop(destination);
        boot.show_presence(true).unwrap();
        assert!(matches!(source.show_presence(true), Err(OwnershipError::Present { .. })));
        source.show_presence(false).expect("a boot that is alone lets the other side of a hand-over come");
    }

    #[test]
    fn a_record_in_the_place_of_another_shows_no_presence_there() {
        let folder = Folder::new();
        let (first, second) = (created(&folder), folder.opener());
        first.show_presence(true).unwrap();
        assert!(first.read().unwrap().is_some());
        std::fs::rename(folder.path(), folder.0.join("aside")).unwrap();
        std::fs::copy(folder.0.join("aside"), folder.path()).unwrap();
        assert!(matches!(first.read(), Err(OwnershipError::Replaced { .. })));
        second.show_presence(true).expect("it is another file");
    }
}
