//! What `linux/userfaultfd.h` tells user space: numbers and structures for `userfaultfd(2)` and `ioctl_userfaultfd(2)`.
//!
//! The crate `userfaultfd` is written against a crate of this name that runs bindgen, and so libclang, on the header at every
//! build. The interface is small and fixed for ever, so here it is written down instead, and a build needs neither a C
//! compiler's library nor the kernel's headers. `[patch.crates-io]` in the workspace's `Cargo.toml` puts it in place. The names
//! are the header's; the tests compare sizes, offsets and `ioctl` numbers with those of a C compiler.

#![no_std]
#![allow(non_camel_case_types)]

/// Version of the interface, in [`uffdio_api::api`].
pub const UFFD_API: u64 = 0xaa;
/// Flag of the system call: only faults in user mode are handled, for which no privilege is needed.
pub const UFFD_USER_MODE_ONLY: u32 = 1;
/// The letter of the device's `ioctl` that makes a userfaultfd, which has the number 0.
pub const USERFAULTFD_IOC: u8 = 0xaa;

/// The letter of a userfaultfd's `ioctl`s.
pub const UFFDIO: u8 = 0xaa;
/// Number of the `ioctl` that watches a range: [`uffdio_register`].
pub const _UFFDIO_REGISTER: u64 = 0x00;
/// Number of the `ioctl` that no longer watches a range: [`uffdio_range`].
pub const _UFFDIO_UNREGISTER: u64 = 0x01;
/// Number of the `ioctl` that wakes the threads that wait in a range: [`uffdio_range`].
pub const _UFFDIO_WAKE: u64 = 0x02;
/// Number of the `ioctl` that copies into missing pages: [`uffdio_copy`].
pub const _UFFDIO_COPY: u64 = 0x03;
/// Number of the `ioctl` that maps pages of zeros: [`uffdio_zeropage`].
pub const _UFFDIO_ZEROPAGE: u64 = 0x04;
/// Number of the `ioctl` that protects pages from writes: [`uffdio_writeprotect`].
pub const _UFFDIO_WRITEPROTECT: u64 = 0x06;
/// Number of the `ioctl` that maps pages of the page cache: [`uffdio_continue`].
pub const _UFFDIO_CONTINUE: u64 = 0x07;
/// Number of the `ioctl` that agrees on the interface: [`uffdio_api`].
pub const _UFFDIO_API: u64 = 0x3f;

/// Faults say whether they are writes to protected pages.
pub const UFFD_FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
/// A fork is an event.
pub const UFFD_FEATURE_EVENT_FORK: u64 = 1 << 1;
/// A range that `mremap(2)` moves is an event.
pub const UFFD_FEATURE_EVENT_REMAP: u64 = 1 << 2;
/// A range that `madvise(2)` empties is an event.
pub const UFFD_FEATURE_EVENT_REMOVE: u64 = 1 << 3;
/// Missing pages of hugetlbfs are watched.
pub const UFFD_FEATURE_MISSING_HUGETLBFS: u64 = 1 << 4;
/// Missing pages of shared memory are watched.
pub const UFFD_FEATURE_MISSING_SHMEM: u64 = 1 << 5;
/// A range that is unmapped is an event.
pub const UFFD_FEATURE_EVENT_UNMAP: u64 = 1 << 6;
/// A fault is a signal to the thread, and no event.
pub const UFFD_FEATURE_SIGBUS: u64 = 1 << 7;
/// Faults say which thread waits.
pub const UFFD_FEATURE_THREAD_ID: u64 = 1 << 8;
/// Minor faults of hugetlbfs are watched.
pub const UFFD_FEATURE_MINOR_HUGETLBFS: u64 = 1 << 9;
/// Minor faults of shared memory are watched.
pub const UFFD_FEATURE_MINOR_SHMEM: u64 = 1 << 10;

/// [`uffdio_register::mode`]: pages that are missing.
pub const UFFDIO_REGISTER_MODE_MISSING: u64 = 1 << 0;
/// [`uffdio_register::mode`]: writes to protected pages.
pub const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
/// [`uffdio_register::mode`]: pages that the page cache holds and no page table maps.
pub const UFFDIO_REGISTER_MODE_MINOR: u64 = 1 << 2;
/// [`uffdio_copy::mode`]: waiting threads sleep on.
pub const UFFDIO_COPY_MODE_DONTWAKE: u64 = 1 << 0;
/// [`uffdio_copy::mode`]: the pages are protected from writes at once.
pub const UFFDIO_COPY_MODE_WP: u64 = 1 << 1;
/// [`uffdio_zeropage::mode`]: waiting threads sleep on.
pub const UFFDIO_ZEROPAGE_MODE_DONTWAKE: u64 = 1 << 0;
/// [`uffdio_writeprotect::mode`]: protect; without it, stop protecting.
pub const UFFDIO_WRITEPROTECT_MODE_WP: u64 = 1 << 0;
/// [`uffdio_writeprotect::mode`]: waiting threads sleep on.
pub const UFFDIO_WRITEPROTECT_MODE_DONTWAKE: u64 = 1 << 1;
/// [`uffdio_continue::mode`]: waiting threads sleep on.
pub const UFFDIO_CONTINUE_MODE_DONTWAKE: u64 = 1 << 0;

/// [`uffd_msg::event`]: a thread waits for a page, [`uffd_msg_arg::pagefault`].
pub const UFFD_EVENT_PAGEFAULT: u8 = 0x12;
/// [`uffd_msg::event`]: the process forked, [`uffd_msg_arg::fork`].
pub const UFFD_EVENT_FORK: u8 = 0x13;
/// [`uffd_msg::event`]: a range moved, [`uffd_msg_arg::remap`].
pub const UFFD_EVENT_REMAP: u8 = 0x14;
/// [`uffd_msg::event`]: a range was emptied, [`uffd_msg_arg::remove`].
pub const UFFD_EVENT_REMOVE: u8 = 0x15;
/// [`uffd_msg::event`]: a range was unmapped, [`uffd_msg_arg::remove`].
pub const UFFD_EVENT_UNMAP: u8 = 0x16;

/// [`uffd_msg_pagefault::flags`]: the access was a write.
pub const UFFD_PAGEFAULT_FLAG_WRITE: u64 = 1 << 0;
/// [`uffd_msg_pagefault::flags`]: the page is protected from writes.
pub const UFFD_PAGEFAULT_FLAG_WP: u64 = 1 << 1;
/// [`uffd_msg_pagefault::flags`]: the page cache holds the page.
pub const UFFD_PAGEFAULT_FLAG_MINOR: u64 = 1 << 2;

/// The argument of `UFFDIO_API`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct uffdio_api {
    /// [`UFFD_API`].
    pub api: u64,
    /// Wanted `UFFD_FEATURE_`s; the kernel answers with those that it has.
    pub features: u64,
    /// The kernel's answer: a bit for the number of each `ioctl`.
    pub ioctls: u64,
}

/// A range of addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct uffdio_range {
    /// The first address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// The argument of `UFFDIO_REGISTER`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct uffdio_register {
    /// What to watch.
    pub range: uffdio_range,
    /// `UFFDIO_REGISTER_MODE_`s.
    pub mode: u64,
    /// The kernel's answer: a bit for the number of each `ioctl` that works on the range.
    pub ioctls: u64,
}

/// The argument of `UFFDIO_COPY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct uffdio_copy {
    /// The first missing page.
    pub dst: u64,
    /// The contents.
    pub src: u64,
    /// Bytes.
    pub len: u64,
    /// `UFFDIO_COPY_MODE_`s.
    pub mode: u64,
    /// The kernel's answer: bytes, or a negative error number.
    pub copy: i64,
}

/// The argument of `UFFDIO_ZEROPAGE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct uffdio_zeropage {
    /// The missing pages.
    pub range: uffdio_range,
    /// `UFFDIO_ZEROPAGE_MODE_`s.
    pub mode: u64,
    /// The kernel's answer: bytes, or a negative error number.
    pub zeropage: i64,
}

/// The argument of `UFFDIO_WRITEPROTECT`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct uffdio_writeprotect {
    /// The pages.
    pub range: uffdio_range,
    /// `UFFDIO_WRITEPROTECT_MODE_`s.
    pub mode: u64,
}

/// The argument of `UFFDIO_CONTINUE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct uffdio_continue {
    /// The pages.
    pub range: uffdio_range,
    /// `UFFDIO_CONTINUE_MODE_`s.
    pub mode: u64,
    /// The kernel's answer: bytes, or a negative error number.
    pub mapped: i64,
}

/// An event, as it is read from a userfaultfd.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub struct uffd_msg {
    /// A `UFFD_EVENT_`.
    pub event: u8,
    /// Zero.
    pub reserved1: u8,
    /// Zero.
    pub reserved2: u16,
    /// Zero.
    pub reserved3: u32,
    /// What belongs to the event.
    pub arg: uffd_msg_arg,
}

/// What belongs to an event. In the header it has no name of its own.
#[repr(C)]
#[derive(Clone, Copy)]
pub union uffd_msg_arg {
    /// Of [`UFFD_EVENT_PAGEFAULT`].
    pub pagefault: uffd_msg_pagefault,
    /// Of [`UFFD_EVENT_FORK`].
    pub fork: uffd_msg_fork,
    /// Of [`UFFD_EVENT_REMAP`].
    pub remap: uffd_msg_remap,
    /// Of [`UFFD_EVENT_REMOVE`] and [`UFFD_EVENT_UNMAP`].
    pub remove: uffd_msg_remove,
    /// Room for events to come.
    pub reserved: [u64; 3],
}

/// A thread waits for a page.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct uffd_msg_pagefault {
    /// `UFFD_PAGEFAULT_FLAG_`s.
    pub flags: u64,
    /// Where the thread waits.
    pub address: u64,
    /// What a feature adds.
    pub feat: uffd_msg_pagefault_feat,
}

/// What a feature adds to a fault.
#[repr(C)]
#[derive(Clone, Copy)]
pub union uffd_msg_pagefault_feat {
    /// With [`UFFD_FEATURE_THREAD_ID`], the thread that waits.
    pub ptid: u32,
}

/// The process forked.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct uffd_msg_fork {
    /// The userfaultfd of the new process.
    pub ufd: u32,
}

/// A range moved.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct uffd_msg_remap {
    /// The first address before.
    pub from: u64,
    /// The first address now.
    pub to: u64,
    /// Bytes.
    pub len: u64,
}

/// A range was emptied or unmapped.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct uffd_msg_remove {
    /// The first address.
    pub start: u64,
    /// The address behind the range.
    pub end: u64,
}

#[cfg(test)]
mod tests;
