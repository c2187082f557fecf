//! KVM's dirty log and the devices' bitmap, as one: which pages of RAM were written.
//!
//! The migration starts it, harvests it into its own set of pending pages, and clears it for a
//! group of chunks right before it reads them. KVM sees only writes by vCPUs and by itself;
//! devices mark the bitmap in guest memory.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use ferry_memory::Memory;
use ferry_migration::pages::{CHUNK_PAGES, CHUNK_WORDS, PageBitmap};
use vm_memory::bitmap::AtomicBitmap;

use super::ioctls::{clear_dirty_log, get_dirty_log};
use super::vm::{Protection, Slot, Vm};

/// The dirty log of a machine's RAM.
#[derive(Debug)]
pub struct DirtyLog {
    vm: Arc<Vm>,
    memory: Arc<Memory>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    logging: bool,
    /// As long as the longest slot's bitmap, so that KVM's bits are read without an allocation.
    /// The devices' bits come from `vm-memory` in a vector for each range: 32 KiB a GiB of RAM.
    buffer: Vec<u64>,
}

impl DirtyLog {
    /// For the RAM of `vm`, which is `memory`. Nothing is logged yet.
    pub fn new(vm: Arc<Vm>, memory: Arc<Memory>) -> Self {
        let words = vm.slots().iter().map(|slot| slot.pages.div_ceil(64) as usize).max().unwrap_or(0);
        let state = Mutex::new(State { logging: false, buffer: vec![0; words] });
        DirtyLog { vm, memory, state }
    }

    /// Starts logging: from its return on, every write to RAM by a vCPU, KVM or a device is
    /// recorded. A log that was already started starts anew. The first harvest may hold more, up to
    /// every page, depending on the host.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn start(&self) -> io::Result<()> {
        let mut state = self.lock();
        if state.logging {
            self.set_logging(&mut state, false)?;
        }
        for (bitmap, ..) in self.memory.bitmaps() {
            bitmap.reset();
        }
        self.set_logging(&mut state, true)
    }

    /// Ends logging; bits that were not harvested are lost.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn stop(&self) -> io::Result<()> {
        let mut state = self.lock();
        if state.logging { self.set_logging(&mut state, false) } else { Ok(()) }
    }

    /// Adds to `into` every page written since its bit was last cleared with
    /// [`DirtyLog::clear_chunks`] (vCPUs), or since the last harvest (devices, and vCPUs where the
    /// log clears itself when read). Bits that a harvest returns are the caller's.
    ///
    /// # Errors
    /// When logging was not started or KVM refuses; `into` then has the bits read so far.
    pub fn harvest(&self, into: &mut PageBitmap) -> io::Result<()> {
        let mut state = self.lock();
        if !state.logging {
            return Err(io::Error::other("the dirty log is not started"));
        }
        for slot in self.vm.slots() {
            let words = &mut state.buffer[..slot.pages.div_ceil(64) as usize];
            // SAFETY: `words` has a bit for each page of the slot.
            unsafe { get_dirty_log(self.vm.fd().as_ref(), slot.number, words)? };
            into.or_words(slot.first_page, words);
        }
        for (bitmap, first_page, pages) in self.memory.bitmaps() {
            take_device_bits(bitmap, first_page, pages, into);
        }
        Ok(())
    }

    /// Clears the log for the pages set in `words`, one element for each chunk from `first_chunk`
    /// on, and protects them again. Call it after a harvest that has returned these pages and right
    /// before reading them: later writes are in the next harvest.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn clear_chunks(&self, first_chunk: u64, words: &[[u64; CHUNK_WORDS]]) -> io::Result<()> {
        if self.vm.protection() == Protection::OnRead {
            return Ok(());
        }
        let (first, end) = (first_chunk * CHUNK_PAGES, (first_chunk + words.len() as u64) * CHUNK_PAGES);
        for slot in self.vm.slots() {
            let from = first.max(slot.first_page);
            let to = end.min(slot.first_page + slot.pages);
            if from < to {
                self.clear_in_slot(slot, from, to, &words.as_flattened()[((from - first) / 64) as usize..])?;
            }
        }
        Ok(())
    }

    fn clear_in_slot(&self, slot: &Slot, from: u64, to: u64, words: &[u64]) -> io::Result<()> {
        clear_dirty_log(self.vm.fd().as_ref(), slot.number, from - slot.first_page, (to - from) as u32, words)
    }

    fn set_logging(&self, state: &mut State, on: bool) -> io::Result<()> {
        self.vm.set_dirty_logging(on).map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        state.logging = on;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves the bits of a range into `into`. Each word is exchanged for zero in one step, so a device
/// that marks a page meanwhile loses nothing: either this harvest or the next one has it.
fn take_device_bits(bitmap: &AtomicBitmap, first_page: u64, pages: u64, into: &mut PageBitmap) {
    let words = bitmap.get_and_reset();
    debug_assert_eq!(words.len() as u64, pages.div_ceil(64));
    into.or_words(first_page, &words);
}

#[cfg(test)]
mod tests;
