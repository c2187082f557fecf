//! Memory that is passed between two owners within one process.

use super::super::{Backing, HOLE_END, MemoryConfig};
use super::*;
use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};
use vm_memory::{Bytes, GuestAddress};

const SIZE: u64 = 16 << 20;
const AT: GuestAddress = GuestAddress(5 << 20);

fn memory(size: u64) -> Memory {
    Memory::new(&MemoryConfig { size, backing: Backing::Memfd, prealloc: false }).unwrap()
}

fn passed_by(memory: &Memory) -> OwnedFd {
    memory.memfd().unwrap().try_clone().unwrap().into()
}

fn read(memory: &Memory, at: GuestAddress) -> u64 {
    memory.guest().read_obj(at).unwrap()
}

fn write(memory: &Memory, at: GuestAddress, value: u64) {
    memory.guest().write_obj(value, at).unwrap();
}

#[test]
fn viewed_memory_can_only_be_read_until_it_is_taken() {
    let (source, destination) = (memory(SIZE), memory(SIZE));
    write(&source, AT, 1);
    destination.view_passed(passed_by(&source), SIZE).unwrap();
    assert_eq!(read(&destination, AT), 1);
    let zeros = File::open("/dev/zero").unwrap();
    let fill = || {
        let (host, _) = destination.host_pages(AT.0 / PAGE_SIZE);
        // SAFETY: the page is mapped for as long as `destination` lives, and only the kernel
        // writes to it.
        unsafe { rustix::io::read(&zeros, std::slice::from_raw_parts_mut(host, 8)) }
    };
    assert_eq!(fill(), Err(rustix::io::Errno::FAULT));
    assert_eq!((read(&source, AT), read(&destination, AT)), (1, 1));
    write(&source, AT, 4);
    assert_eq!(read(&destination, AT), 4, "the guest still runs at the source");
    destination.take_passed().unwrap();
    assert_eq!((fill(), read(&source, AT)), (Ok(8), 0), "now it is the same memory");
    write(&destination, AT, 3);
    assert_eq!(read(&source, AT), 3);
}

#[test]
fn every_range_is_passed() {
    let size = super::super::HOLE_START + (4 << 20);
    let (source, destination) = (memory(size), memory(size));
    let high = GuestAddress(HOLE_END + 4096);
    write(&source, high, 7);
    destination.view_passed(passed_by(&source), size).unwrap();
    destination.take_passed().unwrap();
    assert_eq!(read(&destination, high), 7);
    assert_eq!(destination.populated().unwrap(), source.populated().unwrap());
}

#[test]
fn memory_that_is_forgotten_or_emptied_stays_with_its_owner() {
    for forget in [Memory::forget_passed, Memory::discard] {
        for taken in [false, true] {
            let (source, destination) = (memory(SIZE), memory(SIZE));
            write(&source, AT, 1);
            destination.view_passed(passed_by(&source), SIZE).unwrap();
            if taken {
                destination.take_passed().unwrap();
            }
            forget(&destination).unwrap();
            assert!(destination.populated().unwrap().is_empty());
            assert_eq!((read(&source, AT), read(&destination, AT)), (1, 0));
            write(&destination, AT, 2);
            assert_eq!(read(&source, AT), 1);
            destination.take_passed().unwrap();
            assert_eq!(read(&destination, AT), 2, "there is nothing to take");
            destination.discard().unwrap();
            assert!(destination.populated().unwrap().is_empty());
        }
    }
}

#[test]
fn the_mark_tells_its_owner_whether_memory_was_taken() {
    let (source, destination) = (memory(SIZE), memory(SIZE));
    let mut before = source.mark().unwrap();
    destination.view_passed(passed_by(&source), SIZE).unwrap();
    assert_eq!(source.mark().unwrap(), before, "it was only looked at");
    destination.forget_passed().unwrap();
    assert_eq!(source.mark().unwrap(), before);
    destination.view_passed(passed_by(&source), SIZE).unwrap();
    destination.take_passed().unwrap();
    assert_ne!(source.mark().unwrap(), before);
    destination.forget_passed().unwrap();
    assert_eq!(source.mark().unwrap(), before, "it was given back");
    // From hop to hop, also if no earlier owner lives to see it.
    let mut owner = source;
    for _ in 0..3 {
        let next = memory(SIZE);
        next.view_passed(passed_by(&owner), SIZE).unwrap();
        next.take_passed().unwrap();
        assert_ne!(owner.mark().unwrap(), before);
        owner.part_with().unwrap();
        before = next.mark().unwrap();
        owner = next;
    }
}

#[test]
fn who_has_parted_with_memory_cannot_reach_it() {
    let (source, destination) = (memory(SIZE), memory(SIZE));
    let everywhere = [0, AT.0, SIZE - 8].map(GuestAddress);
    for at in everywhere {
        write(&source, at, 1);
    }
    destination.view_passed(passed_by(&source), SIZE).unwrap();
    destination.take_passed().unwrap();
    source.part_with().unwrap();
    for at in everywhere {
        assert_eq!(read(&source, at), 0);
    }
    for at in everywhere {
        write(&source, at, 9);
    }
    for at in everywhere {
        assert_eq!(read(&destination, at), 1);
    }
    source.discard().unwrap();
    drop(source);
    assert_eq!(read(&destination, AT), 1, "the memory lives on without who made it");
    let next = memory(SIZE);
    next.view_passed(passed_by(&destination), SIZE).unwrap();
    assert_eq!(read(&next, AT), 1, "and goes on to the next");
}

fn memfd(size: u64, seals: SealFlags) -> OwnedFd {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, size).unwrap();
    fcntl_add_seals(&fd, seals).unwrap();
    fd
}

#[test]
fn what_is_not_such_memory_is_refused_and_nothing_changes() {
    let memory = memory(SIZE);
    write(&memory, AT, 1);
    let (reader, _writer) = std::io::pipe().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = File::create_new(directory.path().join("file")).unwrap();
    file.set_len(SIZE).unwrap();
    let read_only = File::open(format!("/proc/self/fd/{}", {
        use std::os::fd::AsRawFd;
        memory.memfd().unwrap().as_raw_fd()
    }));
    let cases: [(OwnedFd, u64, &str); 9] = [
        (reader.into(), SIZE, "no memfd"),
        (file.into(), SIZE, "no memfd"),
        (File::open("/dev/null").unwrap().into(), SIZE, "no memfd"),
        (memfd(SIZE, SealFlags::empty()), SIZE, "seals 0x0"),
        (memfd(SIZE, SealFlags::SHRINK | SealFlags::GROW), SIZE, "seals 0x6"),
        (memfd(SIZE, NEEDED | SealFlags::FUTURE_WRITE), SIZE, "seals 0x17"),
        (memfd(SIZE * 2, NEEDED), SIZE, "has 33554432 bytes"),
        (memfd(SIZE, NEEDED), SIZE - 4096, "has 16773120 bytes"),
        (read_only.unwrap().into(), SIZE, "not open for reading and writing"),
    ];
    for (fd, announced, told) in cases {
        let error = memory.view_passed(fd, announced).unwrap_err().to_string();
        assert!(error.contains(told), "`{told}` is to be in: {error}");
        assert_eq!(read(&memory, AT), 1, "{told}");
    }
    let anonymous = Memory::new(&MemoryConfig { size: SIZE, ..MemoryConfig::default() }).unwrap();
    let error = anonymous.view_passed(passed_by(&memory), SIZE).unwrap_err().to_string();
    assert!(error.contains("backing=memfd"), "{error}");
    anonymous.take_passed().and(anonymous.forget_passed()).and(anonymous.part_with()).unwrap();
}
