//! Receives the pages of one link: one loop, whose chunks go to a page sink.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use ferry_link::Link;
use ferry_link::control::LinkError;
use ferry_memory::Memory;
use ferry_memory::sink::{Contents, Direct, PageSink, SinkError};
use ferry_memory::userfault::UserfaultError;
use ferry_memory::vectors::Incoming;
use ferry_migration::pages::PAGE_SIZE;
use ferry_migration::wire::bulk::{self, Chunk, Frame, HEADER_LEN};

use crate::compression::Unpacker;
use crate::destination::populate::Populating;
use crate::destination::postcopy::{Armed, Postcopy};
use crate::destination::silence::URGENT;
use crate::progress::Progress;

/// A frame without pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    /// Everything before it is in guest memory.
    Reached(u32),
    /// The same, and postcopy's pages follow.
    Switch(u32),
}

/// Why no more pages come on a link.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    /// The link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The host refused.
    #[error("a received page could not be placed: {0}")]
    Place(#[from] UserfaultError),
}

/// The contents of a chunk that are still on the link.
struct OnLink<'a>(&'a Link);

impl Contents for OnLink<'_> {
    fn fill(&mut self, pages: &mut Incoming<'_>) -> std::io::Result<()> {
        self.0.read_into(pages)
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<()> {
        self.0.read_exact(buffer)
    }
}

/// The receiving end of a link that carries pages.
pub(crate) struct PageReceiver {
    memory: Arc<Memory>,
    stream: Link,
    link: &'static str,
    session: u32,
    sequence: u32,
    progress: Arc<Progress>,
    populating: Arc<Populating>,
    /// Made with the first chunk that needs it.
    unpacker: Option<Unpacker>,
}

impl PageReceiver {
    /// For a machine of this memory.
    #[must_use]
    pub(crate) fn new(
        memory: Arc<Memory>,
        stream: Link,
        link: &'static str,
        session: u32,
        (progress, populating): (Arc<Progress>, Arc<Populating>),
    ) -> Self {
        PageReceiver { memory, stream, link, session, sequence: 0, progress, populating, unpacker: None }
    }

    /// The sink of rounds: memory that is all zero, in a machine whose vCPUs do not run.
    #[must_use]
    pub(crate) fn direct(&self) -> Direct {
        Direct::new(self.memory.clone())
    }

    /// Precopy: takes frames into memory until the next marker.
    ///
    /// # Errors
    /// The link ended or failed, or carried something that is no frame of this migration.
    pub(crate) fn until_marker(&mut self, sink: &mut Direct) -> Result<Marker, ReceiveError> {
        let progress = self.progress.clone();
        self.receive(sink, |_, chunk, _| progress.arrived(chunk.pages()))
    }

    /// Postcopy: places pages until the link ends, as soon as the memory is armed.
    ///
    /// # Errors
    /// How the link ended, or why pages could not be placed. It returns `Ok` only for an attempt
    /// that has ended.
    pub(crate) fn land_all(&mut self, armed: &Armed) -> Result<(), ReceiveError> {
        let Some(postcopy) = armed.wait() else { return Ok(()) };
        let mut sink = postcopy.sink();
        postcopy.requests.comes_on(self.link, &self.stream);
        loop {
            self.receive(&mut sink, |receiver, _, payload| {
                postcopy.look_if_all_here();
                receiver.landed(payload, &postcopy);
            })?;
            postcopy.requests.has_ended(&self.stream);
            tracing::debug!(missing = postcopy.faults.remaining(), "the source has sent everything");
        }
    }

    /// Takes frames into `sink` until the next marker. `taken` receives each chunk, and the number
    /// of bytes that its pages took on the link.
    ///
    /// # Errors
    /// As for [`PageReceiver::until_marker`], or the sink has not taken a chunk.
    pub(crate) fn receive(
        &mut self,
        sink: &mut dyn PageSink,
        taken: impl Fn(&Self, &Chunk, u64),
    ) -> Result<Marker, ReceiveError> {
        let link = self.link;
        let failed = |error| match error {
            SinkError::Contents(error) => LinkError::io(link)(error).into(),
            SinkError::Place(error) => ReceiveError::Place(error),
        };
        loop {
            let (chunk, payload) = match self.next_frame()? {
                Frame::Marker(number) => return Ok(Marker::Reached(number)),
                Frame::Switch(number) => return Ok(Marker::Switch(number)),
                Frame::Chunk(chunk) => {
                    self.populating.reached(chunk.index.into());
                    sink.take(&chunk, &mut OnLink(&self.stream)).map_err(failed)?;
                    (chunk, chunk.data_bytes())
                }
                Frame::Packed(chunk, len) => {
                    self.populating.reached(chunk.index.into());
                    let mut pages = unpack(&mut self.unpacker, &self.stream, link, (&chunk, len))?;
                    sink.take(&chunk, &mut pages).map_err(failed)?;
                    (chunk, len.into())
                }
            };
            self.count(&chunk, payload);
            taken(self, &chunk, payload);
        }
    }

    fn next_frame(&mut self) -> Result<Frame, LinkError> {
        let mut head = [0; HEADER_LEN];
        // A frame need not come, but one that has begun must go on.
        self.stream.read_next(&mut head, || Ok(())).map_err(LinkError::io(self.link))?;
        let pages = self.memory.pages();
        let frame = bulk::decode(&head, self.session, self.sequence, pages).map_err(LinkError::wire(self.link))?;
        self.sequence = self.sequence.wrapping_add(1);
        self.progress.pages.bytes.fetch_add(HEADER_LEN as u64, Relaxed);
        Ok(frame)
    }

    /// Counts a chunk of postcopy that has taken `payload` bytes on the link.
    fn landed(&self, payload: u64, postcopy: &Postcopy) {
        let pages = &self.progress.pages;
        let class = if self.link == URGENT { &pages.urgent_bytes } else { &pages.background_bytes };
        class.fetch_add(HEADER_LEN as u64 + payload, Relaxed);
        pages.remaining_pages.store(postcopy.faults.remaining(), Relaxed);
    }

    fn count(&self, chunk: &Chunk, payload: u64) {
        let pages = &self.progress.pages;
        pages.bytes.fetch_add(payload, Relaxed);
        pages.data_pages.fetch_add(chunk.data_bytes() / PAGE_SIZE, Relaxed);
        pages.zero_pages.fetch_add(chunk.pages() - chunk.data_bytes() / PAGE_SIZE, Relaxed);
    }
}

/// Reads a compressed chunk's block and restores its pages.
fn unpack<'a>(
    unpacker: &'a mut Option<Unpacker>,
    stream: &Link,
    link: &'static str,
    (chunk, len): (&Chunk, u32),
) -> Result<&'a [u8], LinkError> {
    let unpacker = unpacker.get_or_insert_with(Unpacker::new);
    stream.read_exact(unpacker.block(len)).map_err(LinkError::io(link))?;
    unpacker.unpack(chunk, len).map_err(LinkError::wire(link))
}
