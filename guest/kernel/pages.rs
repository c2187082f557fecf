//! The working set: every page carries stamps that say which page it is and how often it was
//! written, and each touch checks them before it writes the next.
//!
//! What a page should carry is kept in a table elsewhere in memory. A page that was lost, taken
//! from an older copy, or put in the wrong place disagrees with the table.

use core::fmt;

use crate::pvh::Range;

pub const PAGE: u64 = 4096;

/// Where the stamps are: near the page's two ends, so that a page made of two copies shows.
const FIRST: usize = 16;
const LAST: usize = PAGE as usize - 40;

/// The table's word for a page that was found wrong: it is left as it is.
const SPOILED: u32 = u32::MAX;

/// Where the working set and its table lie. The set is cut in two by the hole below 4 GiB.
#[derive(Clone, Copy, Default)]
pub struct Layout {
    /// One `u32` for each page.
    table: u64,
    low: Range,
    high: Range,
    /// Pages in the working set.
    pub count: u64,
}

impl Layout {
    /// Lays out as much of `wanted` pages as fits into the memory.
    pub fn fit(wanted: u64, low: Range, high: Range) -> Self {
        let entry = size_of::<u32>() as u64;
        let there = low.size() / PAGE + high.size() / PAGE;
        let count = wanted.min((there * PAGE / (PAGE + entry)).saturating_sub(1));
        let table_size = (count * entry).next_multiple_of(PAGE);
        if low.size() < table_size {
            return Self::default();
        }
        let set = Range { start: low.start + table_size, end: low.end / PAGE * PAGE };
        let count = count.min(set.size() / PAGE + high.size() / PAGE);
        Self { table: low.start, low: set, high, count }
    }

    fn address(&self, index: u64) -> u64 {
        let low_pages = self.low.size() / PAGE;
        if index < low_pages { self.low.start + index * PAGE } else { self.high.start + (index - low_pages) * PAGE }
    }
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    index: u64,
    generation: u64,
    mix: u64,
}

impl Stamp {
    fn new(index: u64, generation: u64, seed: u64) -> Self {
        let mut mix = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ generation.rotate_left(32) ^ seed;
        mix = (mix ^ mix >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Self { index, generation, mix: mix ^ mix >> 29 }
    }
}

/// A page that does not carry what it should.
pub struct Wrong {
    index: u64,
    address: u64,
    offset: usize,
    expected: Stamp,
    found: Stamp,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {} at {:#x}: stamp at offset {}: ", self.index, self.address, self.offset)?;
        write!(f, "expected generation {} mix {:#x}, ", self.expected.generation, self.expected.mix)?;
        let found = self.found;
        write!(f, "found page {} generation {} mix {:#x}", found.index, found.generation, found.mix)
    }
}

/// One processor's part of the working set. No other processor touches it.
pub struct Pages {
    layout: Layout,
    seed: u64,
    first: u64,
    pub count: u64,
}

impl Pages {
    /// Part `part` of `parts`.
    pub fn new(layout: Layout, seed: u64, part: u64, parts: u64) -> Self {
        let first = layout.count * part / parts;
        Self { layout, seed, first, count: layout.count * (part + 1) / parts - first }
    }

    /// Writes page `at` of this part for the first time.
    pub fn fill(&mut self, at: u64) {
        let index = self.first + at;
        self.write(index, Stamp::new(index, 1, self.seed));
        self.set_generation(index, 1);
    }

    /// Checks page `at` of this part and writes its next generation. A page that is wrong is
    /// reported once, and left as it is.
    #[inline]
    pub fn touch(&mut self, at: u64) -> Result<(), Wrong> {
        let index = self.first + at;
        let generation = self.generation(index);
        if generation == SPOILED {
            return Ok(());
        }
        let expected = Stamp::new(index, generation.into(), self.seed);
        if let Err(wrong) = self.check(index, expected) {
            self.set_generation(index, SPOILED);
            return Err(wrong);
        }
        let next = if generation + 1 == SPOILED { 1 } else { generation + 1 };
        self.write(index, Stamp::new(index, next.into(), self.seed));
        self.set_generation(index, next);
        Ok(())
    }

    #[inline]
    fn check(&self, index: u64, expected: Stamp) -> Result<(), Wrong> {
        let address = self.layout.address(index);
        for offset in [FIRST, LAST] {
            // SAFETY: the page lies in the working set, which only this processor touches; the
            // offset is 8-byte aligned.
            let found = unsafe { ((address as usize + offset) as *const Stamp).read_volatile() };
            if found != expected {
                return Err(Wrong { index, address, offset, expected, found });
            }
        }
        Ok(())
    }

    #[inline]
    fn write(&mut self, index: u64, stamp: Stamp) {
        let address = self.layout.address(index) as usize;
        for offset in [FIRST, LAST] {
            // SAFETY: as in `check`.
            unsafe { ((address + offset) as *mut Stamp).write_volatile(stamp) };
        }
    }

    fn generation(&self, index: u64) -> u32 {
        // SAFETY: the table has an entry for each page, which only the page's processor touches.
        unsafe { (self.layout.table as *const u32).add(index as usize).read() }
    }

    fn set_generation(&mut self, index: u64, generation: u32) {
        // SAFETY: as above.
        unsafe { (self.layout.table as *mut u32).add(index as usize).write(generation) }
    }
}
