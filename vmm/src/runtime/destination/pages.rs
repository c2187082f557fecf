//! Receives pages on one link: in precopy straight into guest memory, in postcopy by placing them.

use std::io::IoSliceMut;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use ferry_migration::pages::{CHUNK_PAGES, CHUNK_WORDS, PAGE_SIZE, PageBitmap, runs};
use ferry_migration::wire::bulk::{self, Chunk, Frame, HEADER_LEN};

use crate::machine::Machine;
use crate::runtime::control::LinkError;
use crate::runtime::destination::missing::{LandError, Missing};
use crate::runtime::destination::populate::Populating;
use crate::runtime::progress::Progress;
use crate::runtime::stream::Stream;

/// The name of the link on which page requests are answered.
pub const URGENT: &str = "urgent";

/// Where the threads that receive pages learn that the memory is armed, or that it never will be.
#[derive(Debug, Default)]
pub struct Armed {
    state: Mutex<ArmedState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum ArmedState {
    #[default]
    NotYet,
    Armed(Arc<Missing>),
    Never,
}

impl Armed {
    /// The memory is armed.
    pub fn set(&self, missing: Arc<Missing>) {
        self.change(ArmedState::Armed(missing));
    }

    /// The attempt has ended: nobody need wait.
    pub fn give_up(&self) {
        self.change(ArmedState::Never);
    }

    fn change(&self, to: ArmedState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = to;
        self.changed.notify_all();
    }

    fn wait(&self) -> Option<Arc<Missing>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*state {
                ArmedState::Armed(missing) => return Some(missing.clone()),
                ArmedState::Never => return None,
                ArmedState::NotYet => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// What a frame that is not pages said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Everything before it is in guest memory.
    Reached(u32),
    /// The same, and postcopy's pages follow.
    Switch(u32),
}

/// The receiving end of a bulk link.
pub struct PageReceiver {
    machine: Arc<Machine>,
    stream: Stream,
    link: &'static str,
    session: u32,
    sequence: u32,
    /// Pages that hold data: a zero bit must wipe these, all others are zero already.
    written: PageBitmap,
    progress: Arc<Progress>,
    populating: Arc<Populating>,
}

impl PageReceiver {
    /// For a machine whose memory is all zero and whose vCPUs do not run.
    #[must_use]
    pub fn new(
        machine: Arc<Machine>,
        stream: Stream,
        link: &'static str,
        session: u32,
        (progress, populating): (Arc<Progress>, Arc<Populating>),
    ) -> Self {
        let written = PageBitmap::new(machine.memory().pages());
        PageReceiver { machine, stream, link, session, sequence: 0, written, progress, populating }
    }

    /// Takes frames straight into memory until the next marker.
    ///
    /// # Errors
    /// The link ended or failed, or carried what is no frame of this migration.
    pub fn until_mark(&mut self) -> Result<Mark, LinkError> {
        loop {
            match self.next_frame()? {
                Frame::Marker(number) => return Ok(Mark::Reached(number)),
                Frame::Switch(number) => return Ok(Mark::Switch(number)),
                Frame::Chunk(chunk) => self.take(&chunk)?,
            }
        }
    }

    /// Postcopy: places pages until the link ends, as soon as the memory is armed.
    ///
    /// # Errors
    /// How the link ended, or why pages could not be placed. There is no other way out, but for an attempt that has ended.
    pub fn land_all(&mut self, armed: &Armed) -> Result<(), LandError> {
        let Some(missing) = armed.wait() else { return Ok(()) };
        let mut landing = missing.faults.landing();
        loop {
            match self.next_frame()? {
                Frame::Chunk(chunk) => {
                    missing.land(&chunk, &self.stream, self.link, &mut landing)?;
                    self.count(&chunk);
                    self.count_postcopy(&chunk);
                    self.progress.pages.remaining_pages.store(missing.faults.remaining(), Relaxed);
                }
                Frame::Marker(_) | Frame::Switch(_) => {
                    tracing::debug!(missing = missing.faults.remaining(), "the source has sent everything");
                }
            }
        }
    }

    fn next_frame(&mut self) -> Result<Frame, LinkError> {
        let mut head = [0; HEADER_LEN];
        self.stream.read_exact(&mut head).map_err(LinkError::io(self.link))?;
        let pages = self.machine.memory().pages();
        let frame = bulk::decode(&head, self.session, self.sequence, pages).map_err(LinkError::wire(self.link))?;
        self.sequence = self.sequence.wrapping_add(1);
        self.progress.pages.bytes.fetch_add(HEADER_LEN as u64, Relaxed);
        Ok(frame)
    }

    fn take(&mut self, chunk: &Chunk) -> Result<(), LinkError> {
        let first_page = u64::from(chunk.index) * CHUNK_PAGES;
        let (base, _) = self.machine.memory().host_pages(first_page);
        self.populating.reached(chunk.index.into());
        self.wipe(first_page, &chunk.zero, base);
        self.written.or_words(first_page, &chunk.data);

        let mut slices: [IoSliceMut<'_>; CHUNK_PAGES as usize / 2] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let mut used = 0;
        for (first, len) in runs(&chunk.data) {
            // SAFETY: the decoder has checked that the run lies inside guest memory, which is mapped at `base` for as long as the
            // machine lives; runs do not overlap, and no vCPU or device runs before the migration has ended.
            let bytes = unsafe {
                std::slice::from_raw_parts_mut(
                    base.add(first as usize * PAGE_SIZE as usize),
                    len as usize * PAGE_SIZE as usize,
                )
            };
            slices[used] = IoSliceMut::new(bytes);
            used += 1;
        }
        self.stream.read_exact_vectored(&mut slices[..used]).map_err(LinkError::io(self.link))?;
        self.count(chunk);
        Ok(())
    }

    fn wipe(&mut self, first_page: u64, zero: &[u64; CHUNK_WORDS], base: *mut u8) {
        let written = self.written.chunk(first_page / CHUNK_PAGES);
        let stale: [u64; CHUNK_WORDS] = std::array::from_fn(|at| written[at] & zero[at]);
        for (first, len) in runs(&stale) {
            // SAFETY: as in `take`: inside guest memory, and nobody else uses it yet.
            unsafe {
                base.add(first as usize * PAGE_SIZE as usize).write_bytes(0, len as usize * PAGE_SIZE as usize);
            }
            for page in first..first + len {
                self.written.clear(first_page + u64::from(page));
            }
        }
    }

    fn count_postcopy(&self, chunk: &Chunk) {
        let pages = &self.progress.pages;
        let class = if self.link == URGENT { &pages.urgent_bytes } else { &pages.background_bytes };
        class.fetch_add(HEADER_LEN as u64 + chunk.data_bytes(), Relaxed);
    }

    fn count(&self, chunk: &Chunk) {
        let pages = &self.progress.pages;
        pages.bytes.fetch_add(chunk.data_bytes(), Relaxed);
        pages.data_pages.fetch_add(chunk.data_bytes() / PAGE_SIZE, Relaxed);
        pages.zero_pages.fetch_add(chunk.zero.iter().map(|w| u64::from(w.count_ones())).sum(), Relaxed);
    }
}
