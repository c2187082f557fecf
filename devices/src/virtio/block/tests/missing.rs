//! Requests on guest memory that is not there yet, as in a postcopy.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::mpsc;

use userfaultfd::{Error, Event, Uffd, UffdBuilder};
use userfaultfd_sys::{UFFD_API, uffdio_api};
use virtio_bindings::virtio_blk::{VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};

use super::*;

/// The page of [`DATA`] is missing until a test places it; where it lies in the host's memory.
fn lose_data_page(memory: &GuestMemory) -> (Uffd, *mut libc::c_void) {
    let uffd = match UffdBuilder::new().close_on_exec(true).non_blocking(true).user_mode_only(false).create() {
        Err(Error::OpenDevUserfaultfd(_)) => by_system_call(),
        opened => opened.expect("userfaultfd can be used: ci/setup opens it to this user"),
    };
    let page: *mut libc::c_void = memory.get_host_address(GuestAddress(DATA)).unwrap().cast();
    // SAFETY: the page belongs to the rig's memory, and no Rust reference to it exists.
    assert_eq!(unsafe { libc::madvise(page, 4096, libc::MADV_DONTNEED) }, 0);
    uffd.register(page, 4096).unwrap();
    (uffd, page)
}

/// The library leaves the system call, which has a permission of its own, to hosts without the
/// device.
fn by_system_call() -> Uffd {
    // SAFETY: the system call takes flags only; a descriptor that it returns is given away here.
    let uffd = unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK);
        assert!(fd >= 0, "userfaultfd: {}; ci/setup opens it to this user", std::io::Error::last_os_error());
        Uffd::from_raw_fd(fd as i32)
    };
    let mut api = uffdio_api { api: UFFD_API, features: 0, ioctls: 0 };
    // SAFETY: the argument has the layout that UFFDIO_API expects, and outlives the call.
    assert_eq!(unsafe { libc::ioctl(uffd.as_raw_fd(), 0xc018_aa3f, &mut api) }, 0);
    uffd
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

/// A stop does not quiesce a disk while memory arrives, so what follows must not wait for it
/// either.
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
