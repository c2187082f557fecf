//! Sends pages: rounds over what is dirty, then the last pages.
//!
//! One thread owns the bulk link and the set of pending pages. For each group of chunks it clears the dirty log and only then
//! reads: a page that is written after the clear is in the log again, so no write is lost and none is waited for. Page data
//! goes from guest memory to the socket with vectored writes and is never copied here.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ferry_migration::pages::{CHUNK_PAGES, CHUNK_WORDS, PAGE_SIZE, PageBitmap, runs};
use ferry_migration::wire::bulk::{self, Chunk, Frame};

use crate::machine::Machine;
use crate::memory::zero::is_zero_page;
use crate::runtime::control::LinkError;
use crate::runtime::progress::Progress;
use crate::runtime::rate::{Limiter, Measured};
use crate::runtime::stream::Stream;

/// Chunks whose log is cleared together: 32 MiB, about 50 µs of work for KVM.
const GROUP: u64 = 16;
/// The socket's send buffer: enough to keep the receiver busy while the sender scans a chunk.
const LINK: &str = "bulk";

type Words = [u64; CHUNK_WORDS];

/// Why pages could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum PagesError {
    /// The link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// KVM's dirty log could not be read.
    #[error("the dirty log could not be {0}: {1}")]
    DirtyLog(&'static str, std::io::Error),
    /// The host did not say which pages it has allocated.
    #[error("the host's page map could not be read: {0}")]
    PageMap(std::io::Error),
    /// The attempt was given up.
    #[error("sending pages was interrupted")]
    Interrupted,
}

/// What a round measured.
#[derive(Clone, Copy, Debug)]
pub struct RoundNumbers {
    /// Pages dirtied since they were sent.
    pub remaining_pages: u64,
    /// Time that sending them would take.
    pub expected_us: u64,
}

/// What the sender shares with the driver and with QMP.
#[derive(Clone, Debug)]
pub struct Controls {
    /// Set to end a round at once.
    pub stop: Arc<AtomicBool>,
    /// Cap in bytes a second; 0 is none.
    pub max_bandwidth: Arc<AtomicU64>,
    /// Where pages are counted.
    pub progress: Arc<Progress>,
}

/// The page thread's state.
pub struct PageSender {
    machine: Arc<Machine>,
    stream: Stream,
    controls: Controls,
    session: u32,
    sequence: u32,
    pending: PageBitmap,
    first_round: bool,
    limiter: Limiter,
    measured: Measured,
}

impl PageSender {
    /// Starts the dirty log; every page is pending.
    ///
    /// # Errors
    /// When KVM refuses the log.
    pub fn new(machine: Arc<Machine>, stream: Stream, session: u32, controls: Controls) -> Result<Self, PagesError> {
        machine.dirty_log().start().map_err(|error| PagesError::DirtyLog("started", error))?;
        let pending = PageBitmap::full(machine.memory().pages());
        Ok(PageSender {
            machine,
            stream,
            controls,
            session,
            sequence: 0,
            pending,
            first_round: true,
            limiter: Limiter::new(),
            measured: Measured::default(),
        })
    }

    /// Sends what is pending, then looks at what was dirtied meanwhile.
    ///
    /// # Errors
    /// The link or the log failed, or the driver interrupted.
    pub fn round(&mut self) -> Result<RoundNumbers, PagesError> {
        let progress = self.controls.progress.clone();
        progress.begin_round();
        self.harvest()?;
        let (began, bytes_before) = (Instant::now(), progress.pages.bytes.load(Relaxed));
        self.send_pending(true)?;
        self.first_round = false;
        let took = began.elapsed();
        let bytes = progress.pages.bytes.load(Relaxed) - bytes_before;
        self.measured.sample(bytes, took);
        self.harvest()?;
        let numbers = self.numbers();
        progress.pages.expected_us.store(numbers.expected_us, Relaxed);
        progress.pages.dirty_rate.store(per_second(numbers.remaining_pages, took), Relaxed);
        progress.pages.byte_rate.store(per_second(bytes, took), Relaxed);
        progress.pages.precopy_bytes.store(bytes_before + bytes, Relaxed);
        Ok(numbers)
    }

    /// Sends everything that is dirty and a marker behind it. The vCPUs are stopped and the devices drained.
    ///
    /// # Errors
    /// The link or the log failed, or the driver interrupted.
    pub fn last_pages(&mut self, marker: u32) -> Result<(), PagesError> {
        self.harvest()?;
        self.send_pending(false)?;
        let head = bulk::encode(&Frame::Marker(marker), self.session, self.sequence);
        self.sequence = self.sequence.wrapping_add(1);
        self.stream.write_all(&head).map_err(LinkError::io(LINK))?;
        self.controls.progress.pages.bytes.fetch_add(head.len() as u64, Relaxed);
        Ok(())
    }

    fn harvest(&mut self) -> Result<(), PagesError> {
        self.machine.dirty_log().harvest(&mut self.pending).map_err(|e| PagesError::DirtyLog("read", e))?;
        self.controls.progress.pages.remaining_pages.store(self.pending.count(), Relaxed);
        Ok(())
    }

    fn numbers(&self) -> RoundNumbers {
        let remaining_pages = self.pending.count();
        RoundNumbers { remaining_pages, expected_us: self.measured.expected_us(remaining_pages * PAGE_SIZE) }
    }

    fn send_pending(&mut self, paced: bool) -> Result<(), PagesError> {
        let chunks = self.pending.chunks();
        for first in (0..chunks).step_by(GROUP as usize) {
            let group = (chunks - first).min(GROUP) as usize;
            let mut words = [[0; CHUNK_WORDS]; GROUP as usize];
            for (at, chunk) in words[..group].iter_mut().enumerate() {
                *chunk = self.pending.take_chunk(first + at as u64);
            }
            if words.iter().flatten().any(|word| *word != 0) {
                self.send_group(first, &words[..group], paced)?;
            }
        }
        Ok(())
    }

    fn send_group(&mut self, first: u64, group: &[Words], paced: bool) -> Result<(), PagesError> {
        self.machine.dirty_log().clear_chunks(first, group).map_err(|e| PagesError::DirtyLog("cleared", e))?;
        // Asked only after the clear: a page that the guest allocates later is in the log.
        let mut populated = [[u64::MAX; CHUNK_WORDS]; GROUP as usize];
        if self.first_round {
            let words = populated[..group.len()].as_flattened_mut();
            let memory = self.machine.memory();
            memory.populated_words(first * CHUNK_PAGES, words).map_err(PagesError::PageMap)?;
        }
        for (at, (wanted, populated)) in group.iter().zip(&populated).enumerate() {
            if self.controls.stop.load(Relaxed) {
                return Err(PagesError::Interrupted);
            }
            if wanted.iter().any(|word| *word != 0) {
                let sent = self.send_chunk(first + at as u64, wanted, populated)?;
                if paced {
                    self.limiter.pace(sent, &self.controls.max_bandwidth, &self.controls.stop);
                }
            }
        }
        Ok(())
    }

    fn send_chunk(&mut self, index: u64, wanted: &Words, populated: &Words) -> Result<u64, PagesError> {
        let first_page = index * CHUNK_PAGES;
        let (base, contiguous) = self.machine.memory().host_pages(first_page);
        debug_assert!(contiguous >= CHUNK_PAGES.min(self.machine.memory().pages() - first_page));
        let chunk = self.classify(index as u32, wanted, populated, base);
        let head = bulk::encode(&Frame::Chunk(chunk), self.session, self.sequence);
        self.sequence = self.sequence.wrapping_add(1);

        // A chunk of 512 pages has at most 256 separate runs, and writev takes 1024 slices.
        let mut slices = [IoSlice::new(&[]); 1 + CHUNK_PAGES as usize / 2];
        slices[0] = IoSlice::new(&head);
        let mut used = 1;
        for (first, len) in runs(&chunk.data) {
            // SAFETY: the run lies inside the chunk, which is mapped at `base` for as long as the machine lives. The guest may
            // write these bytes meanwhile; only the kernel reads them, and a page that changes is in the dirty log again.
            let bytes = unsafe {
                std::slice::from_raw_parts(
                    base.add(first as usize * PAGE_SIZE as usize),
                    len as usize * PAGE_SIZE as usize,
                )
            };
            slices[used] = IoSlice::new(bytes);
            used += 1;
        }
        self.stream.write_all_vectored(&mut slices[..used]).map_err(LinkError::io(LINK))?;
        Ok(self.count(&chunk, head.len() as u64))
    }

    /// Splits the wanted pages into data and zeros.
    fn classify(&self, index: u32, wanted: &Words, populated: &Words, base: *const u8) -> Chunk {
        let mut chunk = Chunk { index, data: [0; CHUNK_WORDS], zero: [0; CHUNK_WORDS] };
        for word in 0..CHUNK_WORDS {
            chunk.zero[word] = wanted[word] & !populated[word];
            let mut left = wanted[word] & populated[word];
            while left != 0 {
                let bit = left.trailing_zeros() as usize;
                left &= left - 1;
                // SAFETY: the page lies inside the chunk, which is mapped at `base` for as long as the machine lives.
                let zero = unsafe { is_zero_page(base.add((word * 64 + bit) * PAGE_SIZE as usize)) };
                if zero {
                    chunk.zero[word] |= 1 << bit;
                } else {
                    chunk.data[word] |= 1 << bit;
                }
            }
        }
        chunk
    }

    fn count(&self, chunk: &Chunk, head: u64) -> u64 {
        let pages = &self.controls.progress.pages;
        let data = chunk.data_bytes() / PAGE_SIZE;
        let zero = chunk.zero.iter().map(|w| u64::from(w.count_ones())).sum::<u64>();
        pages.bytes.fetch_add(head + chunk.data_bytes(), Relaxed);
        pages.data_pages.fetch_add(data, Relaxed);
        pages.zero_pages.fetch_add(zero, Relaxed);
        pages.remaining_pages.fetch_sub(data + zero, Relaxed);
        head + chunk.data_bytes()
    }
}

impl Drop for PageSender {
    fn drop(&mut self) {
        if let Err(error) = self.machine.dirty_log().stop() {
            tracing::warn!(%error, "the dirty log could not be stopped; the guest runs on, with writes slowed down");
        }
    }
}

fn per_second(count: u64, took: Duration) -> u64 {
    let seconds = took.as_secs_f64();
    if seconds > 0.0 { (count as f64 / seconds) as u64 } else { 0 }
}
