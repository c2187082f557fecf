//! Receives pages on one link: in precopy straight into guest memory, in postcopy by placing them.

use std::io::IoSliceMut;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use ferry_migration::pages::{CHUNK_PAGES, CHUNK_WORDS, PAGE_SIZE, PageBitmap, runs};
use ferry_migration::wire::bulk::{self, Chunk, Frame, HEADER_LEN};

use crate::machine::Machine;
use crate::runtime::compression::Unpacker;
use crate::runtime::control::LinkError;
use crate::runtime::destination::missing::{LandError, Missing, Payload};
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

    /// The attempt has ended: the threads that receive pages need not wait.
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
    /// Made with the first chunk that needs it.
    unpacker: Option<Unpacker>,
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
        PageReceiver { machine, stream, link, session, sequence: 0, written, progress, populating, unpacker: None }
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
                Frame::Packed(chunk, len) => self.take_packed(&chunk, len)?,
            }
        }
    }

    /// Postcopy: places pages until the link ends, as soon as the memory is armed.
    ///
    /// # Errors
    /// How the link ended, or why pages could not be placed. There is no other way out, but for an
    /// attempt that has ended.
    pub fn land_all(&mut self, armed: &Armed) -> Result<(), LandError> {
        let Some(missing) = armed.wait() else { return Ok(()) };
        let mut landing = missing.faults.landing();
        missing.comes_on(self.link, &self.stream);
        loop {
            match self.next_frame()? {
                Frame::Chunk(chunk) => {
                    missing.land(&chunk, Payload::OnLink(&self.stream, self.link), &mut landing)?;
                    self.landed(&chunk, chunk.data_bytes(), &missing);
                }
                Frame::Packed(chunk, len) => {
                    let pages = unpack(&mut self.unpacker, &self.stream, self.link, (&chunk, len))?;
                    missing.land(&chunk, Payload::Here(pages), &mut landing)?;
                    self.landed(&chunk, len.into(), &missing);
                }
                Frame::Marker(_) | Frame::Switch(_) => {
                    missing.has_ended(&self.stream);
                    tracing::debug!(missing = missing.faults.remaining(), "the source has sent everything");
                }
            }
        }
    }

    fn next_frame(&mut self) -> Result<Frame, LinkError> {
        let mut head = [0; HEADER_LEN];
        // Nothing need come. What has begun must go on.
        self.stream.read_next(&mut head, || Ok(())).map_err(LinkError::io(self.link))?;
        let pages = self.machine.memory().pages();
        let frame = bulk::decode(&head, self.session, self.sequence, pages).map_err(LinkError::wire(self.link))?;
        self.sequence = self.sequence.wrapping_add(1);
        self.progress.pages.bytes.fetch_add(HEADER_LEN as u64, Relaxed);
        Ok(frame)
    }

    /// Where a chunk's pages go; those that are zero are.
    fn prepare(&mut self, chunk: &Chunk) -> *mut u8 {
        let first_page = u64::from(chunk.index) * CHUNK_PAGES;
        let (base, _) = self.machine.memory().host_pages(first_page);
        self.populating.reached(chunk.index.into());
        self.wipe(first_page, &chunk.zero, base);
        self.written.or_words(first_page, &chunk.data);
        base
    }

    fn take_packed(&mut self, chunk: &Chunk, len: u32) -> Result<(), LinkError> {
        let base = self.prepare(chunk);
        let mut pages = unpack(&mut self.unpacker, &self.stream, self.link, (chunk, len))?;
        for (first, count) in runs(&chunk.data) {
            let (run, rest) = pages.split_at(count as usize * PAGE_SIZE as usize);
            // SAFETY: the decoder has checked that the run lies inside guest memory, which is
            // mapped at `base` for as long as the machine lives; no vCPU or device runs before the
            // migration has ended. The unpacker's buffer is no guest memory.
            unsafe { base.add(first as usize * PAGE_SIZE as usize).copy_from_nonoverlapping(run.as_ptr(), run.len()) };
            pages = rest;
        }
        self.count(chunk, len.into());
        self.progress.arrived(chunk.pages());
        Ok(())
    }

    fn take(&mut self, chunk: &Chunk) -> Result<(), LinkError> {
        let base = self.prepare(chunk);
        let mut slices: [IoSliceMut<'_>; CHUNK_PAGES as usize / 2] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let mut used = 0;
        for (first, len) in runs(&chunk.data) {
            // SAFETY: the decoder has checked that the run lies inside guest memory, which is
            // mapped at `base` for as long as the machine lives; runs do not overlap, and no vCPU
            // or device runs before the migration has ended.
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
        self.count(chunk, chunk.data_bytes());
        self.progress.arrived(chunk.pages());
        Ok(())
    }

    fn wipe(&mut self, first_page: u64, zero: &[u64; CHUNK_WORDS], base: *mut u8) {
        let written = self.written.chunk(first_page / CHUNK_PAGES);
        let stale: [u64; CHUNK_WORDS] = std::array::from_fn(|at| written[at] & zero[at]);
        for (first, len) in runs(&stale) {
            // SAFETY: as in `take`: inside guest memory, and no other thread uses it yet.
            unsafe {
                base.add(first as usize * PAGE_SIZE as usize).write_bytes(0, len as usize * PAGE_SIZE as usize);
            }
            for page in first..first + len {
                self.written.clear(first_page + u64::from(page));
            }
        }
    }

    /// Counts a chunk of postcopy's that has taken `payload` bytes on the link.
    fn landed(&self, chunk: &Chunk, payload: u64, missing: &Missing) {
        self.count(chunk, payload);
        let pages = &self.progress.pages;
        let class = if self.link == URGENT { &pages.urgent_bytes } else { &pages.background_bytes };
        class.fetch_add(HEADER_LEN as u64 + payload, Relaxed);
        pages.remaining_pages.store(missing.faults.remaining(), Relaxed);
    }

    fn count(&self, chunk: &Chunk, payload: u64) {
        let pages = &self.progress.pages;
        pages.bytes.fetch_add(payload, Relaxed);
        pages.data_pages.fetch_add(chunk.data_bytes() / PAGE_SIZE, Relaxed);
        pages.zero_pages.fetch_add(chunk.pages() - chunk.data_bytes() / PAGE_SIZE, Relaxed);
    }
}

/// Reads a packed chunk's block and restores its pages.
fn unpack<'a>(
    unpacker: &'a mut Option<Unpacker>,
    stream: &Stream,
    link: &'static str,
    (chunk, len): (&Chunk, u32),
) -> Result<&'a [u8], LinkError> {
    let unpacker = unpacker.get_or_insert_with(Unpacker::new);
    stream.read_exact(unpacker.block(len)).map_err(LinkError::io(link))?;
    unpacker.unpack(chunk, len).map_err(LinkError::wire(link))
}
