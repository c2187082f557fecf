//! Memory as the kernel has it: which pages are populated, and what views see.

use super::*;
use vm_memory::Bytes;

fn memory(size: u64, backing: Backing) -> Memory {
    Memory::new(&MemoryConfig { size, backing, prealloc: false }).unwrap()
}

#[test]
fn ram_leaves_the_hole_below_4_gib() {
    for backing in [Backing::Anon, Backing::Memfd] {
        let memory = memory(4 << 30, backing);
        assert_eq!(memory.ranges(), [RamRange { start: 0, len: 3 << 30 }, RamRange { start: 4 << 30, len: 1 << 30 }]);
        assert_eq!(memory.pages(), 1 << 20);
        let first_high = (3 << 30) / PAGE_SIZE;
        assert_eq!(memory.guest_address(first_high - 1), HOLE_START - PAGE_SIZE);
        assert_eq!(memory.guest_address(first_high), HOLE_END);
        assert_eq!(memory.host_pages(first_high - 1).1, 1);
        let (host, rest) = memory.host_pages(first_high);
        assert_eq!((host as u64 % (1 << 30), rest), (0, (1 << 30) / PAGE_SIZE));
    }
}

#[test]
fn only_written_pages_are_populated() {
    for backing in [Backing::Anon, Backing::Memfd] {
        let memory = memory(64 << 20, backing);
        assert!(memory.populated().unwrap().is_empty(), "{backing}");
        memory.guest().write_obj(7u64, GuestAddress(33 << 20)).unwrap();
        let page = (33 << 20) / PAGE_SIZE;
        let populated = memory.populated().unwrap();
        assert!(populated.contains(page), "{backing}");
        // At most the huge page around it.
        assert!(populated.count() <= 512, "{backing}: {populated:?}");
        assert_eq!(memory.populated().unwrap(), populated, "looking allocates nothing");
        let mut words = [u64::MAX; 16];
        memory.populated_words(page - 512, &mut words).unwrap();
        let expected: Vec<_> = (0..16).map(|at| populated.words()[((page - 512) / 64 + at) as usize]).collect();
        assert_eq!(words[..], expected, "{backing}");
    }
}

#[test]
fn preallocated_memory_is_there_when_it_is_made_and_when_it_is_cleared() {
    for backing in [Backing::Anon, Backing::Memfd] {
        let memory = Memory::new(&MemoryConfig { size: 32 << 20, backing, prealloc: true }).unwrap();
        let all = memory.pages();
        let at = GuestAddress(7 << 20);
        assert_eq!(memory.populated().unwrap().count(), all, "{backing}");
        memory.clear().unwrap();
        assert_eq!(memory.populated().unwrap().count(), all, "{backing}: it has not been written to");
        memory.guest().write_obj(7u64, at).unwrap();
        memory.clear().unwrap();
        assert_eq!(memory.populated().unwrap().count(), all, "{backing}");
        assert_eq!(memory.guest().read_obj::<u64>(at).unwrap(), 0, "{backing}");
    }
}

#[test]
fn discarded_memory_is_zero_and_not_allocated() {
    for backing in [Backing::Anon, Backing::Memfd] {
        let memory = memory(64 << 20, backing);
        for at in (0..memory.pages()).step_by(100) {
            memory.guest().write_obj(0x55u8, GuestAddress(at * PAGE_SIZE)).unwrap();
        }
        memory.discard().unwrap();
        assert!(memory.populated().unwrap().is_empty(), "{backing}");
        for at in (0..memory.pages()).step_by(100) {
            assert_eq!(memory.guest().read_obj::<u8>(GuestAddress(at * PAGE_SIZE)).unwrap(), 0, "{backing}");
        }
        memory.guest().write_obj(0x66u8, GuestAddress(4096)).unwrap();
    }
}

#[test]
fn pages_that_were_only_read_are_not_populated_when_anonymous() {
    let memory = memory(16 << 20, Backing::Anon);
    let value: u64 = memory.guest().read_obj(GuestAddress(5 << 20)).unwrap();
    assert_eq!(value, 0);
    assert!(memory.populated().unwrap().is_empty());
}

#[test]
fn discarded_memory_is_zero_and_not_populated() {
    for backing in [Backing::Anon, Backing::Memfd] {
        let memory = memory(16 << 20, backing);
        memory.guest().write_obj(7u64, GuestAddress(5 << 20)).unwrap();
        memory.discard().unwrap();
        assert!(memory.populated().unwrap().is_empty(), "{backing}");
        assert_eq!(memory.guest().read_obj::<u64>(GuestAddress(5 << 20)).unwrap(), 0);
    }
}

#[test]
fn a_view_outlives_the_memory_it_came_from() {
    let memory = memory(16 << 20, Backing::Anon);
    let guest = memory.guest().clone();
    drop(memory);
    guest.write_obj(1u8, GuestAddress(4096)).unwrap();
    assert_eq!(guest.read_obj::<u8>(GuestAddress(4096)).unwrap(), 1);
}

#[test]
fn the_memfd_cannot_shrink() {
    let memory = memory(16 << 20, Backing::Memfd);
    assert!(memory.memfd().unwrap().set_len(4096).is_err());
    memory.guest().write_obj(0x55u8, GuestAddress(8192)).unwrap();
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_exact_at(&*memory.memfd().unwrap(), &mut byte, 8192).unwrap();
    assert_eq!(byte, [0x55]);
}
