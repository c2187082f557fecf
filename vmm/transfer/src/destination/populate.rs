//! Populates the destination's memory ahead of its contents: the first touch of a page costs
//! several times as much as filling it, and a thread of its own does it while others wait for the
//! link.
//!
//! The source reports which chunks of its memory it has filled; no other is touched, so zero pages
//! take no memory here either. The thread runs during the first round at most: [`Populating::end`]
//! is called before pages are discarded or registered, because these must be missing. If the links'
//! own threads have work for all cores, it does not run: see [`pays`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ferry_memory::{Memory, populate};
use ferry_migration::pages::PageBitmap;

use ferry_machine::Machine;

/// Whether it pays beside `bulk_links` threads that receive pages: only when a core is left for
/// it.
#[must_use]
pub(super) fn pays(bulk_links: u8, cores: usize) -> bool {
    cores > bulk_links.into()
}

/// How long a caller of [`Populating::end`] waits for the thread: a chunk takes the host about a
/// millisecond.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// State that the thread shares with the driver, the machine's worker and the threads that receive
/// pages.
#[derive(Debug, Default)]
pub(crate) struct Populating {
    stop: AtomicBool,
    /// Chunks before this one have been reached by the pages themselves.
    reached: AtomicU64,
    running: Mutex<bool>,
    ended: Condvar,
}

impl Populating {
    /// One whose thread does not come back.
    #[cfg(test)]
    pub(crate) fn stuck() -> Self {
        Populating { running: Mutex::new(true), ..Populating::default() }
    }

    /// Begins to populate the chunks of `filled`, in order.
    ///
    /// # Errors
    /// When no thread can be started: pages are then populated as they come.
    pub(crate) fn begin(
        self: &Arc<Self>,
        machine: Arc<Machine>,
        filled: PageBitmap,
    ) -> std::io::Result<JoinHandle<()>> {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = true;
        let own = self.clone();
        let faults = machine.faults().clone();
        let run = move || {
            let _ended = Ended(&own);
            own.populate(machine.memory(), &filled);
        };
        faults.spawn("ferry-dst-memory", run).inspect_err(|_| drop(Ended(self)))
    }

    /// The pages of `chunk` are here: the thread skips it and every chunk before it.
    pub(crate) fn reached(&self, chunk: u64) {
        self.reached.fetch_max(chunk + 1, Relaxed);
    }

    /// Begins no further chunk.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Stops the thread, and waits until it no longer touches memory: for as long as one chunk
    /// takes, and no longer than `patience`. Returns whether it has stopped.
    #[must_use]
    pub(crate) fn end(&self, patience: Duration) -> bool {
        self.stop();
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let (running, _) = self
            .ended
            .wait_timeout_while(running, patience, |running| *running)
            .unwrap_or_else(PoisonError::into_inner);
        !*running
    }

    fn populate(&self, memory: &Memory, filled: &PageBitmap) {
        for chunk in (0..filled.pages()).filter(|chunk| filled.contains(*chunk)) {
            if self.stop.load(Relaxed) {
                return;
            }
            if chunk < self.reached.load(Relaxed) {
                continue;
            }
            if let Err(error) = populate::chunk(memory, chunk) {
                // An older kernel, or no memory: pages are then populated on first access, or that
                // fails.
                return tracing::debug!(%error, "memory is not populated ahead");
            }
        }
    }
}

/// Signals that the thread has ended, also by a panic.
struct Ended<'a>(&'a Populating);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        *self.0.running.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_memory::{Backing, MemoryConfig};
    use ferry_migration::pages::{CHUNK_PAGES, PAGE_SIZE};
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn exactly_the_filled_chunks_that_were_not_reached_are_populated() {
        for backing in [Backing::Anon, Backing::Memfd] {
            let config = MemoryConfig { size: 32 << 20, backing, prealloc: false };
            let source = Memory::new(&config).unwrap();
            let chunk_bytes = CHUNK_PAGES * PAGE_SIZE;
            for chunk in [2, 5, 9] {
                source.guest().write_slice(&vec![7; chunk_bytes as usize], GuestAddress(chunk * chunk_bytes)).unwrap();
            }
            let filled = source.filled_chunks().unwrap();
            assert_eq!((0..16).filter(|chunk| filled.contains(*chunk)).collect::<Vec<_>>(), [2, 5, 9], "{backing}");

            let memory = Memory::new(&config).unwrap();
            let populating = Populating::default();
            populating.reached(2);
            populating.populate(&memory, &filled);
            let populated = memory.populated().unwrap();
            let full = |chunk: u64| populated.chunk(chunk).iter().all(|word| *word == u64::MAX);
            assert_eq!((0..16).filter(|chunk| full(*chunk)).collect::<Vec<_>>(), [5, 9], "{backing}");
            assert_eq!(memory.guest().read_obj::<u64>(GuestAddress(5 * chunk_bytes)).unwrap(), 0);
        }
    }

    #[test]
    fn links_for_every_core_leave_none_for_it() {
        assert!(pays(1, 2) && !pays(2, 2) && pays(2, 4) && !pays(1, 1));
    }

    #[test]
    fn nothing_is_populated_after_the_end() {
        let memory = Memory::new(&MemoryConfig { size: 16 << 20, ..MemoryConfig::default() }).unwrap();
        let populating = Populating::default();
        assert!(populating.end(Duration::ZERO));
        populating.populate(&memory, &PageBitmap::full(8));
        assert!(memory.populated().unwrap().is_empty());
    }

    #[test]
    fn a_host_that_does_not_come_back_with_a_page_is_not_waited_for_for_ever() {
        let populating = Arc::new(Populating::stuck());
        assert!(!populating.end(Duration::from_millis(1)));
        let own = populating.clone();
        let thread = std::thread::spawn(move || drop(Ended(&own)));
        assert!(populating.end(Duration::from_secs(30)));
        thread.join().unwrap();
    }
}
