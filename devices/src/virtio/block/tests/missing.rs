//! Requests on guest memory that is not there yet, as in a postcopy.

use std::fs::File;
use std::sync::mpsc;

use userfaultfd::{Event, Uffd, UffdBuilder};
use virtio_bindings::virtio_blk::{VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};

use super::*;

/// The page of [`DATA`] is missing until somebody places it; where it lies in the host's memory.
fn lose_data_page(memory: &GuestMemory) -> (Uffd, *mut libc::c_void) {
    let uffd = UffdBuilder::new().close_on_exec(true).non_blocking(true).user_mode_only(false).create();
    let uffd = uffd.expect("userfaultfd can be used: see README.md, what the machine must offer");
    let page: *mut libc::c_void = memory.get_host_address(GuestAddress(DATA)).unwrap().cast();
    // SAFETY: the page belongs to the rig's memory, and no Rust reference to it exists.
    assert_eq!(unsafe { libc::madvise(page, 4096, libc::MADV_DONTNEED) }, 0);
    uffd.register(page, 4096).unwrap();
    (uffd, page)
}

#[test]
fn a_request_that_waits_for_a_page_does_not_hold_the_image() {
    for (kind, access) in [(VIRTIO_BLK_T_OUT, 0), (VIRTIO_BLK_T_IN, WRITE)] {
        let mut rig = Rig::new();
        let (uffd, page) = lose_data_page(&rig.memory);
        rig.header(kind, 0);
        rig.chain(0, &[(HEADER, 16, 0), (DATA, 512, access), (STATUS, 1, WRITE)]);
        rig.offer(0);
        rig.kick();
        wait_for("the worker's fault", || matches!(uffd.read_event(), Ok(Some(Event::Pagefault { .. }))));

        // What any process may do with the file, and what needs its inode's lock.
        let image = File::options().write(true).open(&rig.image.0).unwrap();
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || done.send(image.set_len(SECTORS * 512)));
        let resized = is_done.recv_timeout(SOON);
        // SAFETY: the page is the rig's, registered here, and missing.
        unsafe { uffd.zeropage(page, 4096, true) }.unwrap();
        resized.expect("the image is not held").unwrap();
        rig.wait_used();
        assert_eq!(u32::from(rig.get::<u8>(STATUS)), VIRTIO_BLK_S_OK);
    }
}

/// A stop does not quiesce a disk while memory arrives, so what follows must not wait for it either.
#[test]
fn a_disk_that_was_not_quiesced_goes_on_at_once_though_a_request_waits_for_a_page() {
    let mut rig = Rig::new();
    let (uffd, page) = lose_data_page(&rig.memory);
    rig.header(VIRTIO_BLK_T_OUT, 0);
    rig.chain(0, &[(HEADER, 16, 0), (DATA, 512, 0), (STATUS, 1, WRITE)]);
    rig.offer(0);
    rig.kick();
    wait_for("the worker's fault", || matches!(uffd.read_event(), Ok(Some(Event::Pagefault { .. }))));
    let mut disk = rig.disk.clone();
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || done.send(disk.resume()));
    let resumed = is_done.recv_timeout(SOON);
    // SAFETY: the page is the rig's, registered here, and missing.
    unsafe { uffd.zeropage(page, 4096, true) }.unwrap();
    resumed.expect("the disk answers").expect("it goes on");
    rig.wait_used();
    assert_eq!(u32::from(rig.get::<u8>(STATUS)), VIRTIO_BLK_S_OK);
    rig.disk.quiesce().unwrap();
    rig.disk.resume().unwrap();
}
