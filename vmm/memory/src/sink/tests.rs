//! Sinks by themselves, and one that only counts: a further kind of sink needs no more than this.

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

/// Counts what comes, and keeps none of it.
#[derive(Default)]
struct Counted {
    pages: u64,
    bytes: u64,
}

impl PageSink for Counted {
    fn take(&mut self, chunk: &Chunk, contents: &mut dyn Contents) -> Result<u64, SinkError> {
        let mut buffer = vec![0; chunk.data_bytes() as usize];
        contents.read(&mut buffer).map_err(SinkError::Contents)?;
        self.pages += chunk.pages();
        self.bytes += buffer.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        Ok(chunk.pages())
    }
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
    assert_eq!(sink.take(&chunk(0b1011, 0b100), &mut &pages(&[1, 2, 3])[..]).unwrap(), 4);
    assert_eq!([0, 1, 2, 3].map(|page| byte(&memory, page)), [1, 2, 0, 3]);
    assert_eq!(sink.take(&chunk(0b100, 0b1010), &mut &pages(&[4])[..]).unwrap(), 3);
    assert_eq!([0, 1, 2, 3].map(|page| byte(&memory, page)), [1, 0, 4, 0]);
}

#[test]
fn armed_memory_takes_a_page_once() {
    for backing in [Backing::Anon, Backing::Memfd] {
        let memory = memory(backing);
        let mut missing = PageBitmap::new(memory.pages());
        missing.set_range(CHUNK_PAGES, 3);
        let faults = Faults::arm(&memory, &missing).unwrap();
        let mut sink = Placed::new(&faults, Arc::new(FaultControl::new(Direction::Incoming)));
        assert_eq!(sink.take(&chunk(0b1001, 0b10), &mut &pages(&[1, 9])[..]).unwrap(), 2, "page 3 was not missing");
        assert_eq!(sink.take(&chunk(0b111, 0), &mut &pages(&[7, 7, 5])[..]).unwrap(), 1);
        // A page of zeros in a memfd would wait for the thread that serves faults.
        faults.disarm().unwrap();
        assert_eq!([0, 1, 2, 3].map(|page| byte(&memory, page)), [1, 0, 5, 0], "{backing}");
    }
}

#[test]
fn contents_that_do_not_come_are_told_apart_from_a_refusal() {
    let memory = memory(Backing::Anon);
    let sinks: [&mut dyn PageSink; 2] = [&mut Direct::new(memory), &mut Counted::default()];
    for sink in sinks {
        let error = sink.take(&chunk(1, 0), &mut Closed).unwrap_err();
        assert!(matches!(&error, SinkError::Contents(why) if why.kind() == io::ErrorKind::UnexpectedEof), "{error}");
    }
}

#[test]
fn a_third_kind_of_sink_is_one_type() {
    let mut sink = Counted::default();
    sink.take(&chunk(0b11, 0b100), &mut &pages(&[1, 2])[..]).unwrap();
    assert_eq!((sink.pages, sink.bytes), (3, 3 * PAGE_SIZE));
}
