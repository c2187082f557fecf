//! Sinks by themselves.

use std::sync::Arc;

use ferry_devices::fault::{Direction, FaultControl};
use ferry_migration::pages::{CHUNK_PAGES, CHUNK_WORDS, PAGE_SIZE, PageBitmap};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::userfault::Faults;
use crate::{Backing, Memory, MemoryConfig};

fn memory(backing: Backing) -> Arc<Memory> {
    Arc::new(Memory::new(&MemoryConfig { size: 16 << 20, backing, prealloc: false }).unwrap())
}

fn chunk(data: u64, zero: u64) -> Chunk {
    let words = |first| std::array::from_fn::<_, CHUNK_WORDS, _>(|at| if at == 0 { first } else { 0 });
    Chunk { index: 1, data: words(data), zero: words(zero) }
}

fn pages(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| [*byte; PAGE_SIZE as usize]).collect()
}

fn byte(memory: &Memory, page: u64) -> u8 {
    memory.guest().read_obj(GuestAddress((CHUNK_PAGES + page) * PAGE_SIZE + 4095)).unwrap()
}

/// A link that has closed.
struct Closed;

impl Contents for Closed {
    fn fill(&mut self, _: &mut Incoming<'_>) -> io::Result<()> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    fn read(&mut self, _: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

#[test]
fn a_page_that_becomes_zero_is_wiped() {
    let memory = memory(Backing::Memfd);
    let mut sink = Direct::new(memory.clone());
    sink.take(&chunk(0b1011, 0b100), &mut &pages(&[1, 2, 3])[..]).unwrap();
    assert_eq!([0, 1, 2, 3].map(|page| byte(&memory, page)), [1, 2, 0, 3]);
    sink.take(&chunk(0b100, 0b1010), &mut &pages(&[4])[..]).unwrap();
    assert_eq!([0, 1, 2, 3].map(|page| byte(&memory, page)), [1, 0, 4, 0]);
}

/// Memory whose first three pages of chunk 1 are missing, and a sink into it.
fn armed(backing: Backing) -> (Arc<Memory>, Arc<Faults>, Arc<FaultControl>, Placed) {
    let memory = memory(backing);
    let mut missing = PageBitmap::new(memory.pages());
    missing.set_range(CHUNK_PAGES, 3);
    let faults = Faults::arm(&memory, &missing).unwrap();
    let injected = Arc::new(FaultControl::new(Direction::Incoming));
    let sink = Placed::new(&faults, injected.clone());
    (memory, faults, injected, sink)
}

#[test]
fn armed_memory_takes_a_page_once() {
    for backing in [Backing::Anon, Backing::Memfd] {
        let (memory, faults, _, mut sink) = armed(backing);
        // Page 3 was not missing.
        sink.take(&chunk(0b1001, 0b10), &mut &pages(&[1, 9])[..]).unwrap();
        assert_eq!(faults.remaining(), 1, "{backing}");
        sink.take(&chunk(0b111, 0), &mut &pages(&[7, 7, 5])[..]).unwrap();
        // A page of zeros in a memfd would wait for the thread that serves faults.
        faults.disarm().unwrap();
        assert_eq!([0, 1, 2, 3].map(|page| byte(&memory, page)), [1, 0, 5, 0], "{backing}");
    }
}

#[test]
fn contents_that_do_not_come_are_told_apart_from_a_refusal() {
    let (_memory, _faults, injected, mut placed) = armed(Backing::Anon);
    let sinks: [&mut dyn PageSink; 2] = [&mut Direct::new(memory(Backing::Anon)), &mut placed];
    for sink in sinks {
        let error = sink.take(&chunk(1, 0), &mut Closed).unwrap_err();
        assert!(matches!(&error, SinkError::Contents(why) if why.kind() == io::ErrorKind::UnexpectedEof), "{error}");
    }
    injected.set("at=host:memory,do=fail".parse().unwrap()).unwrap();
    let error = placed.take(&chunk(1, 0), &mut &pages(&[1])[..]).unwrap_err();
    assert!(matches!(&error, SinkError::Place(UserfaultError::Place { page: CHUNK_PAGES, .. })), "{error}");
}
