//! A record in a real file: what is kept, what is refused, and what every failure leaves behind.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

use ferry_devices::fault::Direction;
use ferry_migration::ownership::file::FILE_LEN;
use ferry_migration::ownership::{Handover, Name, OwnerId};

use super::*;
use crate::Change;

/// Storage that does what it can.
fn no_faults() -> Arc<FaultControl> {
    Arc::new(FaultControl::new(Direction::Incoming))
}

/// A folder of its own for a test, removed at its end.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ferry-ownership-{}-{count}", std::process::id()));
        fs::create_dir(&path).expect("the name is this test's own");
        Folder(path)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.join("disk.owner")
    }

    /// Another opener of the same record, as another process would be.
    pub(super) fn opener(&self) -> FileRecord {
        FileRecord::new(self.path(), Duration::from_secs(30), no_faults())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn owner(id: u128) -> OwnerId {
    OwnerId { id, label: Name::try_from(format!("host:{id}")).unwrap() }
}

/// A hand-over by owner 1 of its generation 1.
pub(super) fn handover() -> Handover {
    Handover::new(Name::try_from("vm").unwrap(), 7, 1, owner(1)).unwrap()
}

pub(super) fn created(folder: &Folder) -> FileRecord {
    let file = folder.opener();
    assert_eq!(file.create(&handover().announce(0).record).unwrap(), Swap::Won);
    file
}

pub(super) fn ask(backend: &dyn Ownership, change: &Change) -> Result<Swap, OwnershipError> {
    backend.swap(&change.expected, &change.record)
}

#[test]
fn a_new_record_is_held_by_its_own_name_and_no_other_is_left() {
    let folder = Folder::new();
    let file = created(&folder);
    let held = file.held().as_ref().unwrap().as_raw_fd();
    // What names the holders of a lock reads it there.
    assert_eq!(fs::read_link(format!("/proc/self/fd/{held}")).unwrap(), folder.path());
    let names: Vec<_> =
        fs::read_dir(folder.path().parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names, [folder.path()]);
}

#[test]
fn a_record_is_created_once_and_read_by_others() {
    let folder = Folder::new();
    let record = handover().announce(0).record;
    assert_eq!(folder.opener().read().unwrap(), None);
    assert_eq!(folder.opener().create(&record).unwrap(), Swap::Won);
    assert_eq!(folder.opener().create(&record).unwrap(), Swap::Won, "a repeat");
    assert_eq!(folder.opener().read().unwrap(), Some(record.clone()));
    let other = Record { owner: owner(2), ..record.clone() };
    assert_eq!(folder.opener().create(&other).unwrap(), Swap::Lost(record));
    let metadata = fs::metadata(folder.path()).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o777, metadata.len()), (0o600, FILE_LEN as u64));
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "no draft is left");
}

#[test]
fn of_commit_and_take_back_one_wins() {
    let folder = Folder::new();
    let source = created(&folder);
    let destination = folder.opener();
    let commit = handover().commit(&owner(2));
    assert_eq!(ask(&destination, &commit).unwrap(), Swap::Won);
    assert_eq!(ask(&source, &handover().take_back()).unwrap(), Swap::Lost(commit.record.clone()));
    assert_eq!(ask(&destination, &commit).unwrap(), Swap::Won, "a repeat");
    assert_eq!(ask(&destination, &commit.record.settle()).unwrap(), Swap::Won);
    assert_eq!(ask(&destination, &commit).unwrap(), Swap::Won, "a late repeat");
    assert!(source.read().unwrap().unwrap().settled, "a late repeat takes nothing back");
}

#[test]
fn without_a_record_there_is_nothing_to_swap() {
    let folder = Folder::new();
    let error = ask(&folder.opener(), &handover().take_back()).unwrap_err();
    assert!(matches!(error, OwnershipError::Missing { .. }), "{error}");
    assert!(error.to_string().contains("disk.owner"), "{error}");
}

#[test]
fn a_rule_that_would_be_broken_writes_nothing() {
    let folder = Folder::new();
    let file = created(&folder);
    let before = fs::read(folder.path()).unwrap();
    let mut change = handover().commit(&owner(2));
    change.record.generation += 1;
    assert!(matches!(ask(&file, &change).unwrap_err(), OwnershipError::Rule { .. }));
    assert_eq!(fs::read(folder.path()).unwrap(), before);
}

/// A crash after any number of bytes of a write: the record before it is read, and the same swap
/// wins.
#[test]
fn a_crash_in_a_write_leaves_the_record_before_it() {
    let folder = Folder::new();
    created(&folder);
    let commit = handover().commit(&owner(2));
    for cut in [0, 1, 7, 8, 9, 16, 100, 256, 500, 508, 511] {
        let before = folder.opener().read().unwrap();
        let crashing = folder.opener();
        crashing.tear_next_write(cut);
        let error = ask(&crashing, &commit).unwrap_err();
        assert!(error.maybe_applied(), "{error}");
        drop(crashing);
        assert_eq!(folder.opener().read().unwrap(), before, "{cut} bytes written");
    }
    assert_eq!(ask(&folder.opener(), &commit).unwrap(), Swap::Won);
    assert_eq!(folder.opener().read().unwrap(), Some(commit.record));
}

/// Writes `content` over a good record and expects an error, and that nothing was written.
fn refused(content: &[u8]) -> OwnershipError {
    let folder = Folder::new();
    created(&folder);
    fs::write(folder.path(), content).unwrap();
    let errors = [
        folder.opener().read().unwrap_err(),
        folder.opener().create(&handover().announce(0).record).unwrap_err(),
        ask(&folder.opener(), &handover().take_back()).unwrap_err(),
    ];
    assert_eq!(fs::read(folder.path()).unwrap(), content, "nothing is written on an error");
    let [error, ..] = errors;
    assert!(error.to_string().contains("disk.owner"), "{error}");
    assert!(!error.is_unreachable(), "{error}");
    error
}

#[test]
fn what_is_not_understood_is_never_overwritten() {
    let whole = ferry_migration::ownership::file::create(&handover().announce(0).record);
    assert!(matches!(refused(b"[some other file]"), OwnershipError::Foreign { .. }));
    assert!(matches!(refused(&[0; FILE_LEN]), OwnershipError::Damaged { .. }));
    assert!(matches!(refused(&[]), OwnershipError::Damaged { .. }));
    assert!(matches!(refused(&whole[..5000]), OwnershipError::Damaged { .. }));
    let mut torn = whole.clone();
    torn[30] ^= 1;
    assert!(matches!(refused(&torn), OwnershipError::Damaged { .. }));
    let mut newer = whole;
    newer[8] = 3;
    let crc = crc32c::crc32c(&newer[..508]);
    newer[508..512].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(refused(&newer), OwnershipError::Newer { .. }));
}

#[test]
fn only_a_regular_file_is_opened() {
    let folder = Folder::new();
    created(&folder);
    let at = |name: &str| FileRecord::new(folder.0.join(name), LOCK_TIMEOUT, no_faults()).read().unwrap_err();
    std::os::unix::fs::symlink(folder.path(), folder.0.join("link")).unwrap();
    fs::create_dir(folder.0.join("folder")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, folder.0.join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.0.join("socket")).unwrap();
    for name in ["link", "folder", "pipe", "socket"] {
        assert!(matches!(at(name), OwnershipError::Foreign { .. }), "{name}: {}", at(name));
    }
}

#[test]
fn a_file_that_is_exchanged_in_use_is_noticed() {
    // Also by the process that has made it, and not used it yet.
    for used in [true, false] {
        let folder = Folder::new();
        let file = created(&folder);
        if used {
            assert!(file.read().unwrap().is_some());
        }
        let aside = folder.0.join("aside");
        fs::rename(folder.path(), &aside).unwrap();
        for exchanged in [false, true] {
            if exchanged {
                fs::copy(&aside, folder.path()).unwrap();
            }
            let error = ask(&file, &handover().take_back()).unwrap_err();
            assert!(matches!(error, OwnershipError::Replaced { .. }), "{error}");
            assert!(matches!(file.read(), Err(OwnershipError::Replaced { .. })));
        }
        fs::rename(&aside, folder.path()).unwrap();
        assert_eq!(ask(&file, &handover().take_back()).unwrap(), Swap::Won, "the original is back");
    }
}

#[test]
fn a_lock_that_is_kept_has_a_deadline() {
    let folder = Folder::new();
    created(&folder);
    let keeper = File::options().read(true).write(true).open(folder.path()).unwrap();
    lock::acquire(&keeper, Kind::Exclusive, Instant::now() + Duration::from_secs(30)).unwrap();
    let file = FileRecord::new(folder.path(), Duration::from_millis(20), no_faults());
    for error in [file.read().unwrap_err(), ask(&file, &handover().take_back()).unwrap_err()] {
        assert!(error.is_unreachable() && !error.maybe_applied(), "{error}");
        assert!(error.to_string().contains("lslocks"), "{error}");
    }
    drop(keeper);
    assert_eq!(ask(&file, &handover().take_back()).unwrap(), Swap::Won);
}

#[test]
fn readers_do_not_exclude_each_other_and_nobody_keeps_the_lock() {
    let folder = Folder::new();
    created(&folder);
    let reader = File::options().read(true).open(folder.path()).unwrap();
    lock::acquire(&reader, Kind::Shared, Instant::now() + Duration::from_secs(30)).unwrap();
    let file = FileRecord::new(folder.path(), Duration::from_millis(20), no_faults());
    assert!(file.read().is_ok());
    assert!(ask(&file, &handover().take_back()).is_err());
    lock::release(&reader).unwrap();
    assert_eq!(ask(&file, &handover().take_back()).unwrap(), Swap::Won);
    lock::acquire(&reader, Kind::Shared, Instant::now()).expect("the operation let its lock go");
}

#[test]
fn a_place_that_does_not_exist_is_an_error_of_the_storage() {
    let folder = Folder::new();
    let file = FileRecord::new(folder.0.join("nowhere/disk.owner"), LOCK_TIMEOUT, no_faults());
    assert_eq!(file.read().unwrap(), None);
    let error = file.create(&handover().announce(0).record).unwrap_err();
    assert!(error.is_unreachable() && !error.maybe_applied(), "{error}");
    assert!(error.to_string().contains("nowhere/disk.owner"), "{error}");
}

#[test]
fn the_record_is_beside_the_image_whatever_the_path_to_it() {
    let folder = Folder::new();
    let image = folder.0.join("disk.img");
    fs::write(&image, []).unwrap();
    let link = folder.0.join("link.img");
    std::os::unix::fs::symlink(&image, &link).unwrap();
    let expected = folder.0.canonicalize().unwrap().join("disk.img.owner");
    assert_eq!(FileRecord::beside(&image).unwrap(), expected);
    assert_eq!(FileRecord::beside(&link).unwrap(), expected);
    assert!(FileRecord::beside(&folder.0.join("none")).is_err());
}

#[test]
fn every_error_of_the_storage_says_what_to_do() {
    for (code, what) in [
        (libc::ENOSPC, "free some space"),
        (libc::EACCES, "permission"),
        (libc::EROFS, "writable"),
        (libc::ENOLCK, "another place"),
        (libc::EIO, "mounted"),
    ] {
        assert!(advice(&io::Error::from_raw_os_error(code)).contains(what), "{code}");
    }
}
