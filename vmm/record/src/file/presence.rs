//! The sign of a process that has the guest: a lock that the kernel releases when the process ends.
//!
//! The lock of a writable disk prevents a second boot. A guest without such a disk, or with a
//! device that two hosts see, has only its record; and a settled record does not say whether its
//! owner lives. The two sides of a hand-over have the guest at the same time, so the sign is
//! shared; a boot requires it to be exclusive.

use std::fs::File;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::FileRecord;
use super::lock::{self, Kind};
use crate::{Ownership, OwnershipError, Sign, Stay};

impl FileRecord {
    /// Only reads and changes of `presence` are made under its lock: the end of a stay must not
    /// wait for storage.
    pub(super) fn take_presence(&self, alone: bool, stay: Stay) -> Result<(), OwnershipError> {
        let _showing = self.showing.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = self.presence().clone();
        if let Some(shown) = shown {
            return if alone { self.set_presence(&shown, true) } else { Ok(()) };
        }
        // A file of its own: closing the file of an operation must not end the sign.
        let file = self.open()?.ok_or_else(|| OwnershipError::Missing { at: self.place() })?;
        self.check_in_place(&file)?;
        self.set_presence(&file, alone)?;
        let mut presence = self.presence();
        if self.stays.present() == stay {
            *presence = Some(Arc::new(file));
        }
        Ok(())
    }

    pub(super) fn give_up_presence(&self) -> Sign {
        let mut presence = self.presence();
        self.stays.end();
        Sign(presence.take())
    }

    /// Takes the lock shared; with `alone`, exclusive first. A lock that is shared already stays so
    /// if that fails.
    fn set_presence(&self, file: &File, alone: bool) -> Result<(), OwnershipError> {
        let set = |kind| lock::show_presence(file, kind).map_err(|error| self.unreachable("locking it", false, error));
        if (!alone || set(Kind::Exclusive)?) && set(Kind::Shared)? {
            return Ok(());
        }
        Err(OwnershipError::Present { at: self.place() })
    }

    fn presence(&self) -> MutexGuard<'_, Option<Arc<File>>> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Folder, created};
    use crate::file::FileRecord;
    use crate::{Ownership, OwnershipError};

    fn show(file: &FileRecord, alone: bool) -> Result<(), OwnershipError> {
        file.show_presence(alone, file.stay())
    }

    fn is_refused(file: &FileRecord) -> bool {
        matches!(show(file, true), Err(OwnershipError::Present { .. }))
    }

    #[test]
    fn the_sides_of_a_hand_over_are_present_together_and_a_boot_only_alone() {
        let folder = Folder::new();
        assert!(matches!(show(&folder.opener(), true), Err(OwnershipError::Missing { .. })));
        let (source, destination, boot) = (created(&folder), folder.opener(), folder.opener());
        show(&source, true).unwrap();
        show(&source, false).unwrap();
        show(&destination, false).unwrap();
        assert!(is_refused(&boot));
        source.end_presence();
        assert!(is_refused(&boot));
        assert!(boot.read().unwrap().is_some(), "what is read is not locked by it");
        drop(destination);
        show(&boot, true).unwrap();
        assert!(is_refused(&source));
        show(&source, false).expect("a boot that is alone lets the other side of a hand-over come");
    }

    #[test]
    fn a_process_that_is_present_already_can_ask_whether_it_is_alone() {
        let folder = Folder::new();
        let (source, destination) = (created(&folder), folder.opener());
        show(&source, true).unwrap();
        show(&destination, false).unwrap();
        assert!(is_refused(&destination));
        source.end_presence();
        assert!(is_refused(&source), "the one that was refused is present as before");
        show(&destination, true).unwrap();
        show(&source, false).expect("afterwards it is present together with others");
    }

    #[test]
    fn what_is_shown_for_a_guest_that_has_gone_meanwhile_ends_with_it() {
        let folder = Folder::new();
        let (process, boot) = (created(&folder), folder.opener());
        let gone = process.stay();
        process.end_presence();
        process.show_presence(false, gone).expect("there is nothing to show");
        show(&boot, true).expect("no process has the guest");
        boot.end_presence();
        let next = process.stay();
        process.show_presence(false, next).unwrap();
        assert!(is_refused(&boot), "the next guest's stay is another");
        process.show_presence(false, gone).expect("an old call ends no later stay");
        assert!(is_refused(&boot));
    }

    #[test]
    fn a_record_in_the_place_of_another_shows_no_presence_there() {
        let folder = Folder::new();
        let (first, second) = (created(&folder), folder.opener());
        show(&first, true).unwrap();
        assert!(first.read().unwrap().is_some());
        std::fs::rename(folder.path(), folder.0.join("aside")).unwrap();
        std::fs::copy(folder.0.join("aside"), folder.path()).unwrap();
        assert!(matches!(first.read(), Err(OwnershipError::Replaced { .. })));
        show(&second, true).expect("it is another file");
    }
}
