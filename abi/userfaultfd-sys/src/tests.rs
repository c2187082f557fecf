//! The layouts and numbers that a C compiler gives to the kernel's header on x86-64, and who depends on them.

extern crate std;

use core::mem::{offset_of, size_of};
use std::string::String;
use std::vec::Vec;

use super::*;

const WRITE: u64 = 1;
const READ: u64 = 2;

/// `_IOC` of asm-generic/ioctl.h.
fn ioctl<T>(direction: u64, letter: u8, number: u64) -> u64 {
    direction << 30 | (size_of::<T>() as u64) << 16 | u64::from(letter) << 8 | number
}

#[test]
fn ioctl_numbers_are_those_of_linux() {
    assert_eq!(ioctl::<uffdio_api>(READ | WRITE, UFFDIO, _UFFDIO_API), 0xc018_aa3f);
    assert_eq!(ioctl::<uffdio_register>(READ | WRITE, UFFDIO, _UFFDIO_REGISTER), 0xc020_aa00);
    assert_eq!(ioctl::<uffdio_range>(READ, UFFDIO, _UFFDIO_UNREGISTER), 0x8010_aa01);
    assert_eq!(ioctl::<uffdio_range>(READ, UFFDIO, _UFFDIO_WAKE), 0x8010_aa02);
    assert_eq!(ioctl::<uffdio_copy>(READ | WRITE, UFFDIO, _UFFDIO_COPY), 0xc028_aa03);
    assert_eq!(ioctl::<uffdio_zeropage>(READ | WRITE, UFFDIO, _UFFDIO_ZEROPAGE), 0xc020_aa04);
    assert_eq!(ioctl::<uffdio_writeprotect>(READ | WRITE, UFFDIO, _UFFDIO_WRITEPROTECT), 0xc018_aa06);
    assert_eq!(ioctl::<uffdio_continue>(READ | WRITE, UFFDIO, _UFFDIO_CONTINUE), 0xc020_aa07);
    assert_eq!(ioctl::<()>(0, USERFAULTFD_IOC, 0), 0xaa00);
}

#[test]
fn arguments_have_the_layout_of_linux() {
    assert_eq!((offset_of!(uffdio_api, features), offset_of!(uffdio_api, ioctls)), (8, 16));
    assert_eq!((offset_of!(uffdio_range, start), offset_of!(uffdio_range, len)), (0, 8));
    assert_eq!((offset_of!(uffdio_register, mode), offset_of!(uffdio_register, ioctls)), (16, 24));
    assert_eq!((offset_of!(uffdio_copy, dst), offset_of!(uffdio_copy, src), offset_of!(uffdio_copy, len)), (0, 8, 16));
    assert_eq!((offset_of!(uffdio_copy, mode), offset_of!(uffdio_copy, copy)), (24, 32));
    assert_eq!((offset_of!(uffdio_zeropage, mode), offset_of!(uffdio_zeropage, zeropage)), (16, 24));
    assert_eq!((offset_of!(uffdio_writeprotect, range), offset_of!(uffdio_writeprotect, mode)), (0, 16));
    assert_eq!((offset_of!(uffdio_continue, mode), offset_of!(uffdio_continue, mapped)), (16, 24));
}

#[test]
fn events_have_the_layout_of_linux() {
    assert_eq!(size_of::<uffd_msg>(), 32);
    assert_eq!((offset_of!(uffd_msg, event), offset_of!(uffd_msg, reserved1)), (0, 1));
    assert_eq!((offset_of!(uffd_msg, reserved2), offset_of!(uffd_msg, reserved3)), (2, 4));
    assert_eq!(offset_of!(uffd_msg, arg), 8);
    assert_eq!((offset_of!(uffd_msg_pagefault, flags), offset_of!(uffd_msg_pagefault, address)), (0, 8));
    assert_eq!(offset_of!(uffd_msg_pagefault, feat), 16);
    assert_eq!(
        (offset_of!(uffd_msg_remap, from), offset_of!(uffd_msg_remap, to), offset_of!(uffd_msg_remap, len)),
        (0, 8, 16)
    );
    assert_eq!((offset_of!(uffd_msg_remove, start), offset_of!(uffd_msg_remove, end)), (0, 8));
}

#[test]
fn single_numbers_are_those_of_linux() {
    assert_eq!((UFFD_API, UFFD_USER_MODE_ONLY), (0xaa, 1));
    let events = [UFFD_EVENT_PAGEFAULT, UFFD_EVENT_FORK, UFFD_EVENT_REMAP, UFFD_EVENT_REMOVE, UFFD_EVENT_UNMAP];
    assert_eq!(events, [0x12, 0x13, 0x14, 0x15, 0x16]);
    assert_eq!((UFFD_PAGEFAULT_FLAG_WRITE, UFFD_PAGEFAULT_FLAG_WP, UFFD_PAGEFAULT_FLAG_MINOR), (1, 2, 4));
    let modes = [UFFDIO_REGISTER_MODE_MISSING, UFFDIO_REGISTER_MODE_WP, UFFDIO_REGISTER_MODE_MINOR];
    assert_eq!(modes, [1, 2, 4]);
    assert_eq!((UFFDIO_COPY_MODE_DONTWAKE, UFFDIO_COPY_MODE_WP, UFFDIO_ZEROPAGE_MODE_DONTWAKE), (1, 2, 1));
    assert_eq!((UFFDIO_WRITEPROTECT_MODE_WP, UFFDIO_WRITEPROTECT_MODE_DONTWAKE), (1, 2));
    assert_eq!(UFFDIO_CONTINUE_MODE_DONTWAKE, 1);
    let features = [
        UFFD_FEATURE_PAGEFAULT_FLAG_WP,
        UFFD_FEATURE_EVENT_FORK,
        UFFD_FEATURE_EVENT_REMAP,
        UFFD_FEATURE_EVENT_REMOVE,
        UFFD_FEATURE_MISSING_HUGETLBFS,
        UFFD_FEATURE_MISSING_SHMEM,
        UFFD_FEATURE_EVENT_UNMAP,
        UFFD_FEATURE_SIGBUS,
        UFFD_FEATURE_THREAD_ID,
        UFFD_FEATURE_MINOR_HUGETLBFS,
        UFFD_FEATURE_MINOR_SHMEM,
    ];
    assert_eq!(features, core::array::from_fn(|bit| 1 << bit));
}

/// `cargo update` must not put the generated bindings back in place of these, nor another crate bring a C compiler.
#[test]
fn no_crate_of_the_workspace_needs_libclang_or_a_c_compiler() {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock")).unwrap();
    let names: Vec<_> = lock.lines().filter_map(|line| line.strip_prefix("name = ")).collect();
    assert!(names.contains(&"\"userfaultfd\""), "the lock file names its packages");
    for unwanted in ["bindgen", "clang-sys", "cc", "cmake", "pkg-config"] {
        let quoted = String::from("\"") + unwanted + "\"";
        assert!(!names.contains(&quoted.as_str()), "{unwanted} is in Cargo.lock; `cargo tree -i {unwanted}` says why");
    }
}
