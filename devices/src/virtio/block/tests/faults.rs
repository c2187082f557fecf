//! A disk whose image is told to misbehave: the guest meets I/O errors, a pause fails, and all is
//! well afterwards.

use super::*;
use crate::virtio::BlockError;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;

fn faulty_rig() -> (Rig, Arc<FaultControl>) {
    let rig = Rig::new();
    let faults = rig.faults.clone();
    (rig, faults)
}

#[test]
fn the_guest_meets_what_its_image_suffers() {
    let (mut rig, faults) = faulty_rig();
    for (rule, kind, data) in [
        ("at=disk:read,do=errno:EIO,times=1", 0, &[(DATA, 512, WRITE)][..]),
        ("at=disk:write,do=errno:ENOSPC,times=1", 1, &[(DATA, 512, 0)]),
        ("at=disk:sync,do=fail,times=1", 4, &[]),
    ] {
        faults.set(rule.parse().unwrap()).unwrap();
        assert_eq!(rig.request(kind, 1, data).0, IO_ERROR, "{rule}");
        assert_eq!(rig.request(kind, 1, data).0, OK, "only once: {rule}");
    }
}

#[test]
fn a_pause_that_cannot_flush_says_so_whether_or_not_something_was_written() {
    let (mut rig, faults) = faulty_rig();
    for _ in 0..2 {
        faults.set("at=disk:flush,do=errno:EIO,times=1".parse().unwrap()).unwrap();
        let error = rig.disk.quiesce().unwrap_err().to_string();
        let path = rig.image.0.display();
        assert_eq!(error, format!("cannot flush disk image {path}: Input/output error (os error 5)"));
        rig.disk.resume().unwrap();
        assert_eq!(rig.request(1, 1, &[(DATA, 512, 0)]).0, OK);
    }
    rig.disk.quiesce().unwrap();
}

/// A flush that the guest had not asked for failed, and the kernel tells of it once only.
#[test]
fn a_guest_learns_of_data_that_a_pause_has_lost() {
    let mut rig = Rig::new();
    rig.raw.lost_data.store(true, Ordering::SeqCst);
    assert_eq!(rig.request(4, 0, &[]).0, IO_ERROR);
    assert_eq!(rig.request(4, 0, &[]).0, OK, "only once");
}

#[test]
fn an_image_that_does_not_open_or_lock_is_named_with_the_reason() {
    let (mut rig, faults) = faulty_rig();
    rig.disk.release().unwrap();
    faults.set("at=disk:lock,do=errno:ENOLCK,times=1".parse().unwrap()).unwrap();
    let error = rig.disk.acquire().unwrap_err().to_string();
    assert!(error.contains("cannot lock disk image") && error.contains("No locks available"), "{error}");
    rig.disk.acquire().unwrap();
    faults.set("at=disk:open,do=errno:EMFILE".parse().unwrap()).unwrap();
    let opened = RawImage::open(&rig.image.0, false, faults);
    assert!(matches!(opened, Err(BlockError::Open { source, .. }) if source.raw_os_error() == Some(libc::EMFILE)));
}
