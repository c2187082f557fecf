//! What the tests of postcopy share: memory with missing pages, and a source that knows the
//! contents of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use ferry_migration::pages::{PAGE_SIZE, PageBitmap};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::{Faults, Next};
use crate::{Backing, Memory, MemoryConfig};

pub(super) const BACKINGS: [Backing; 2] = [Backing::Anon, Backing::Memfd];
/// Longest that a test waits for anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Longest that a whole test may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Ends the process when the test that holds it takes too long: a thread that waits for a page can
/// be ended in no other way.
pub(super) struct Limit(#[expect(dead_code, reason = "its end is the signal")] Sender<()>);

pub(super) fn limit() -> Limit {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let (held, dropped) = channel();
    std::thread::spawn(move || {
        if dropped.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{test} took more than {LIMIT:?}: a thread waits for ever");
            std::process::abort();
        }
    });
    Limit(held)
}

pub(super) fn memory(size: u64, backing: Backing) -> Memory {
    Memory::new(&MemoryConfig { size, backing, prealloc: false }).unwrap()
}

pub(super) fn pages(count: u64, which: impl Fn(u64) -> bool) -> PageBitmap {
    let mut pages = PageBitmap::new(count);
    (0..count).filter(|page| which(*page)).for_each(|page| pages.set(page));
    pages
}

/// What every word of a page holds: different for each page and for each `version`.
pub(super) fn stamp(page: u64, version: u8) -> u64 {
    (page + 1) * 0x0101_0000_0001 + u64::from(version)
}

pub(super) fn fill(buffer: &mut [u8], stamp: u64) {
    buffer.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&stamp.to_le_bytes()));
}

pub(super) fn write_page(memory: &Memory, page: u64, version: u8) {
    let mut bytes = [0; PAGE_SIZE as usize];
    fill(&mut bytes, stamp(page, version));
    memory.guest().write_slice(&bytes, GuestAddress(page * PAGE_SIZE)).unwrap();
}

/// The stamp of a page, all of whose words must be the same.
pub(super) fn read_page(memory: &Memory, page: u64) -> u64 {
    let mut bytes = [0; PAGE_SIZE as usize];
    memory.guest().read_slice(&mut bytes, GuestAddress(page * PAGE_SIZE)).unwrap();
    let (words, _) = bytes.as_chunks::<8>();
    assert!(words.iter().all(|word| *word == words[0]), "page {page} is torn");
    u64::from_le_bytes(words[0])
}

/// The handler thread of a source that answers every request at once with version 1 of the page.
pub(super) struct Source {
    cancel: EventFd,
    thread: Option<std::thread::JoinHandle<Vec<u64>>>,
}

impl Source {
    pub(super) fn serve(faults: &Arc<Faults>) -> Self {
        let cancel = EventFd::new(libc::EFD_CLOEXEC).unwrap();
        let (mut handler, mut landing, stop) = (faults.handler(), faults.landing(), cancel.try_clone().unwrap());
        let thread = std::thread::spawn(move || {
            let mut asked = Vec::new();
            while let Next::Page(page) = handler.next(PATIENCE, &stop).unwrap() {
                asked.push(page);
                fill(landing.buffer(1), stamp(page, 1));
                landing.place(page & !63, 1 << (page % 64)).unwrap();
            }
            asked
        });
        Source { cancel, thread: Some(thread) }
    }

    /// Ends it and returns what was asked for.
    pub(super) fn end(mut self) -> Vec<u64> {
        self.cancel.write(1).unwrap();
        self.thread.take().unwrap().join().unwrap()
    }
}

/// Sends all missing pages, as a bulk link would, starting with word `from`.
pub(super) fn send_all(faults: &Arc<Faults>, missing: &PageBitmap, from: usize, stop: &AtomicBool) {
    let mut landing = faults.landing();
    let words = missing.words();
    for at in (from..words.len()).chain(0..from) {
        if stop.load(SeqCst) {
            return;
        }
        let first = at as u64 * 64;
        let present = (0..64).filter(|bit| words[at] >> bit & 1 == 1);
        let buffer = landing.buffer(words[at].count_ones());
        buffer
            .chunks_exact_mut(PAGE_SIZE as usize)
            .zip(present)
            .for_each(|(page, bit)| fill(page, stamp(first + bit, 1)));
        landing.place(first, words[at]).unwrap();
    }
}
