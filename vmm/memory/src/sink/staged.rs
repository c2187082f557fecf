//! Into a staging area, until a checkpoint is whole: continuous checkpoints.
//!
//! Guest memory keeps the last checkpoint while the next one arrives. What arrives lies in slabs
//! of 2 MiB, with an index by page; a later version of a page replaces an earlier one.
//! [`Staged::apply`] writes all of it into guest memory, [`Staged::clear`] discards it. Slabs are
//! kept for the next checkpoint, and given back when [`QUIET`] checkpoints in a row needed fewer.
//!
//! ```text
//!   link ──► slab ──► slab ──► …            index: page ► slot, or zero
//!            └── apply ──► guest memory
//! ```
//!
//! Each link has a staging area of its own, as each carries its own share of guest memory. They
//! share a [`StagingBudget`]. A chunk beyond it is read and dropped, so that the link goes on: the
//! checkpoint is incomplete then ([`Staged::is_complete`]) and must not be applied.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use ferry_migration::pages::{CHUNK_PAGES, CHUNK_WORDS, PAGE_SIZE};
use ferry_migration::wire::bulk::Chunk;

use super::{Contents, PageSink, SinkError};
use crate::Memory;
use crate::vectors::Incoming;

/// Pages of a slab: 2 MiB, so that the host may use a huge page.
const SLAB_PAGES: usize = 512;
/// Bytes of a slab.
const SLAB_BYTES: u64 = SLAB_PAGES as u64 * PAGE_SIZE;
/// So many checkpoints in a row must leave slabs unused before those are given back.
const QUIET: u32 = 16;

/// Most memory that the staging areas of a protection take together.
#[derive(Debug)]
pub struct StagingBudget {
    most: u64,
    taken: AtomicU64,
}

impl StagingBudget {
    /// At most `bytes`; a slab is not divided.
    #[must_use]
    pub fn new(bytes: u64) -> Arc<Self> {
        Arc::new(StagingBudget { most: bytes, taken: AtomicU64::new(0) })
    }

    /// Bytes that are taken now.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken.load(SeqCst)
    }

    fn take(&self) -> bool {
        let more = |taken: u64| taken.checked_add(SLAB_BYTES).filter(|sum| *sum <= self.most);
        self.taken.fetch_update(SeqCst, SeqCst, more).is_ok()
    }

    fn give_back(&self) {
        self.taken.fetch_sub(SLAB_BYTES, SeqCst);
    }
}

/// What a staged page becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// The content of this slot, counted over all slabs.
    Slot(usize),
    Zero,
}

/// The staging area of one link.
#[derive(Debug)]
pub struct Staged {
    budget: Arc<StagingBudget>,
    slabs: Vec<Box<[u8]>>,
    /// Slots that hold something, replaced versions included.
    used: usize,
    index: BTreeMap<u64, Version>,
    is_complete: bool,
    /// Checkpoints in a row that needed fewer slabs than there are, and the most that one of them
    /// needed.
    quiet: u32,
    needed: usize,
}

impl Staged {
    /// An empty area.
    #[must_use]
    pub fn new(budget: &Arc<StagingBudget>) -> Self {
        let (slabs, index) = (Vec::new(), BTreeMap::new());
        Staged { budget: budget.clone(), slabs, used: 0, index, is_complete: true, quiet: 0, needed: 0 }
    }

    /// Pages that would be written.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.index.len() as u64
    }

    /// Whether all chunks were taken: none was beyond the budget.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Writes the staged pages into guest memory. No vCPU and no device may use it meanwhile.
    ///
    /// # Panics
    /// When the area is not complete.
    pub fn apply(&self, memory: &Memory) {
        assert!(self.is_complete, "an incomplete checkpoint is never applied");
        for (page, version) in &self.index {
            let (chunk, at) = (page / CHUNK_PAGES, (page % CHUNK_PAGES) as usize);
            let mut only = [0; CHUNK_WORDS];
            only[at / 64] = 1 << (at % 64);
            let mut place = Incoming::default().pages(memory, chunk, &only);
            match version {
                Version::Slot(slot) => place.copy_from(self.slot(*slot)),
                Version::Zero => place.clear(),
            }
        }
    }

    /// Discards what is staged: it was applied, or is not wanted.
    pub fn clear(&mut self) {
        let needed = self.used.div_ceil(SLAB_PAGES);
        self.index.clear();
        (self.used, self.is_complete) = (0, true);
        if needed >= self.slabs.len() {
            (self.quiet, self.needed) = (0, 0);
            return;
        }
        (self.quiet, self.needed) = (self.quiet + 1, self.needed.max(needed));
        if self.quiet >= QUIET {
            self.shrink(self.needed);
            (self.quiet, self.needed) = (0, 0);
        }
    }

    fn shrink(&mut self, to: usize) {
        for _ in self.slabs.drain(to..) {
            self.budget.give_back();
        }
    }

    fn slot(&self, slot: usize) -> &[u8] {
        let from = slot % SLAB_PAGES * PAGE_SIZE as usize;
        &self.slabs[slot / SLAB_PAGES][from..from + PAGE_SIZE as usize]
    }

    /// Reads the next pages into unused slots, as many as lie in one slab; how many they are.
    fn read(&mut self, most: usize, contents: &mut dyn Contents) -> Result<usize, SinkError> {
        let (slab, first) = (self.used / SLAB_PAGES, self.used % SLAB_PAGES);
        let pages = most.min(SLAB_PAGES - first);
        let bytes = first * PAGE_SIZE as usize..(first + pages) * PAGE_SIZE as usize;
        contents.read(&mut self.slabs[slab][bytes]).map_err(SinkError::Contents)?;
        self.used += pages;
        Ok(pages)
    }

    /// Makes room for so many pages more, within the budget.
    fn makes_room(&mut self, pages: usize) -> bool {
        while (self.slabs.len() * SLAB_PAGES) < self.used + pages {
            if !self.budget.take() {
                return false;
            }
            self.slabs.push(vec![0; SLAB_BYTES as usize].into_boxed_slice());
        }
        true
    }
}

impl PageSink for Staged {
    fn take(&mut self, chunk: &Chunk, contents: &mut dyn Contents) -> Result<(), SinkError> {
        let first_page = u64::from(chunk.index) * CHUNK_PAGES;
        let all = |words: &[u64; CHUNK_WORDS]| {
            let words = *words;
            (0..CHUNK_PAGES).filter(move |page| words[*page as usize / 64] & 1 << (page % 64) != 0)
        };
        let count = all(&chunk.data).count();
        if !self.makes_room(count) {
            self.is_complete = false;
            let mut dropped = vec![0; PAGE_SIZE as usize];
            return (0..count).try_for_each(|_| contents.read(&mut dropped)).map_err(SinkError::Contents);
        }
        let first_slot = self.used;
        let mut left = count;
        while left > 0 {
            left -= self.read(left, contents)?;
        }
        // Only what has arrived in full is indexed.
        let data = all(&chunk.data).zip(first_slot..).map(|(page, slot)| (page, Version::Slot(slot)));
        let zero = all(&chunk.zero).map(|page| (page, Version::Zero));
        self.index.extend(data.chain(zero).map(|(page, version)| (first_page + page, version)));
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backing, MemoryConfig};
    use proptest::prelude::*;

    const MEMORY: u64 = 16 << 20;

    fn memory() -> Arc<Memory> {
        Arc::new(Memory::new(&MemoryConfig { size: MEMORY, backing: Backing::Anon, prealloc: false }).unwrap())
    }

    fn bytes_of(memory: &Memory) -> Vec<u8> {
        use vm_memory::{Bytes, GuestAddress};
        let mut bytes = vec![0; MEMORY as usize];
        memory.guest().read_slice(&mut bytes, GuestAddress(0)).unwrap();
        bytes
    }

    /// A chunk whose `data` and `zero` are patterns over its pages, and its contents.
    fn frame(index: u32, data: u64, zero: u64, seed: u8) -> (Chunk, Vec<u8>) {
        let data: [u64; CHUNK_WORDS] = std::array::from_fn(|at| data.rotate_left(at as u32 * 7));
        let zero: [u64; CHUNK_WORDS] = std::array::from_fn(|at| zero.rotate_left(at as u32 * 5) & !data[at]);
        let chunk = Chunk { index, data, zero };
        let pages = chunk.data_bytes() / PAGE_SIZE;
        let contents = (0..pages).flat_map(|page| [seed ^ page as u8 | 1; PAGE_SIZE as usize]).collect();
        (chunk, contents)
    }

    fn take(sink: &mut dyn PageSink, (chunk, contents): &(Chunk, Vec<u8>)) {
        sink.take(chunk, &mut &contents[..]).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn staged_and_applied_is_what_a_plain_copy_is(
            frames in prop::collection::vec((0u32..4, any::<(u64, u64, u8)>()), 1..12),
            order in any::<prop::sample::Index>(),
        ) {
            let mut frames: Vec<_> = frames.into_iter().map(|(index, (data, zero, seed))| frame(index, data, zero, seed)).collect();
            // A frame that comes again, later.
            frames.push(frames[order.index(frames.len())].clone());
            let (plain, guest) = (memory(), memory());
            let mut direct = super::super::Direct::new(plain.clone());
            let mut staged = Staged::new(&StagingBudget::new(64 << 20));
            let before = bytes_of(&guest);
            for frame in &frames {
                take(&mut direct, frame);
                take(&mut staged, frame);
            }
            prop_assert!(bytes_of(&guest) == before, "nothing reaches guest memory before it is applied");
            staged.apply(&guest);
            prop_assert!(bytes_of(&guest) == bytes_of(&plain));
            staged.clear();
            prop_assert_eq!(staged.pages(), 0);
        }
    }

    #[test]
    fn a_page_that_is_staged_twice_counts_once() {
        let mut staged = Staged::new(&StagingBudget::new(64 << 20));
        take(&mut staged, &frame(1, 0b1, 0b10, 3));
        let pages = staged.pages();
        take(&mut staged, &frame(1, 0b1, 0b10, 4));
        assert_eq!(staged.pages(), pages);
    }

    #[test]
    fn beyond_the_budget_the_link_goes_on_and_the_checkpoint_is_incomplete() {
        let budget = StagingBudget::new(SLAB_BYTES);
        let mut staged = Staged::new(&budget);
        take(&mut staged, &frame(0, u64::MAX, 0, 1));
        assert!(staged.is_complete());
        let (chunk, contents) = frame(1, 1, 0, 2);
        let mut left = &contents[..];
        staged.take(&chunk, &mut left).unwrap();
        assert!(!staged.is_complete() && left.is_empty());
        assert_eq!(budget.taken(), SLAB_BYTES);
        // Another link has none either; the next checkpoint begins anew.
        let mut other = Staged::new(&budget);
        take(&mut other, &frame(2, 1, 0, 2));
        assert!(!other.is_complete());
        staged.clear();
        take(&mut staged, &frame(1, 1, 0, 2));
        assert!(staged.is_complete());
        drop(staged);
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    #[should_panic(expected = "never applied")]
    fn an_incomplete_checkpoint_is_not_applied() {
        let mut staged = Staged::new(&StagingBudget::new(0));
        take(&mut staged, &frame(0, 1, 0, 1));
        staged.apply(&memory());
    }

    #[test]
    fn contents_that_do_not_come_leave_the_index_as_it_was() {
        let mut staged = Staged::new(&StagingBudget::new(64 << 20));
        take(&mut staged, &frame(0, 1, 0, 1));
        let pages = staged.pages();
        struct Ends(usize);
        impl Contents for Ends {
            fn fill(&mut self, _: &mut Incoming<'_>) -> std::io::Result<()> {
                unreachable!("guest memory is not filled")
            }
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<()> {
                self.0 = self.0.checked_sub(1).ok_or(std::io::ErrorKind::UnexpectedEof)?;
                Ok(())
            }
        }
        // It ends between the two slabs that the chunk needs.
        take(&mut staged, &frame(1, u64::MAX >> 2, 0, 1));
        let known = staged.pages();
        let error = staged.take(&frame(2, u64::MAX, 0, 1).0, &mut Ends(1)).unwrap_err();
        assert!(matches!(error, SinkError::Contents(_)));
        assert!(known > pages && staged.pages() == known);
    }

    #[test]
    fn slabs_are_kept_for_reuse_and_given_back_after_smaller_checkpoints() {
        let budget = StagingBudget::new(64 << 20);
        let mut staged = Staged::new(&budget);
        let fills = |staged: &mut Staged, chunks: u32| {
            (0..chunks).for_each(|index| take(staged, &frame(index, u64::MAX, 0, 1)));
            staged.clear();
        };
        fills(&mut staged, 3);
        for _ in 1..QUIET {
            fills(&mut staged, 1);
            assert_eq!(budget.taken(), 3 * SLAB_BYTES);
        }
        fills(&mut staged, 2);
        assert_eq!(budget.taken(), 2 * SLAB_BYTES, "as many as the largest of them needed");
        // A large one in between begins the count anew.
        for _ in 1..QUIET {
            fills(&mut staged, 1);
        }
        fills(&mut staged, 2);
        fills(&mut staged, 1);
        assert_eq!(budget.taken(), 2 * SLAB_BYTES);
    }
}
