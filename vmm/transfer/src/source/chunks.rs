//! Sends the pages of one chunk on one link, straight from guest memory, or compressed if
//! requested.
//!
//! The sending end of every link that carries pages: rounds and the background stream on the bulk
//! link, answers to page requests on the urgent link. Page data goes from guest memory to the
//! socket with vectored writes and is only copied to be compressed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ferry_link::control::LinkError;
use ferry_link::{LOOK, Link, Unconfirmed};
use ferry_machine::Machine;
use ferry_memory::Memory;
use ferry_memory::vectors::Outgoing;
use ferry_memory::zero::zero_pages;
use ferry_migration::pages::{CHUNK_WORDS, PAGE_SIZE};
use ferry_migration::wire::bulk::{self, Chunk, Frame};

use crate::compression::Packer;
use crate::progress::Progress;
use crate::source::controls::Controls;
use crate::source::patience::Patience;

/// The pages of one chunk.
pub(crate) type Words = [u64; CHUNK_WORDS];

/// The purpose of pages on a link, by which their bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Rounds, and the last pages.
    Precopy,
    /// Postcopy's background stream.
    Background,
    /// Answers to page requests.
    Urgent,
}

/// The sending end of a link.
pub(crate) struct ChunkSender {
    machine: Arc<Machine>,
    progress: Arc<Progress>,
    patience: Arc<Patience>,
    stream: Link,
    link: &'static str,
    session: u32,
    sequence: u32,
    packer: Option<Packer>,
    /// The purpose of the pages on it.
    pub purpose: Purpose,
}

impl ChunkSender {
    /// For a link that is named `link` in errors.
    #[must_use]
    pub(crate) fn new(
        machine: Arc<Machine>,
        controls: &Controls,
        stream: Link,
        link: &'static str,
        session: u32,
    ) -> Self {
        ChunkSender {
            machine,
            progress: controls.progress.clone(),
            patience: controls.patience.clone(),
            stream,
            link,
            session,
            sequence: 0,
            packer: None,
            purpose: Purpose::Precopy,
        }
    }

    /// Compresses pages from now on.
    #[must_use]
    pub(crate) fn compressing(self) -> Self {
        ChunkSender { packer: Some(Packer::new()), ..self }
    }

    /// Whether it compresses pages: pages then take different times on the link.
    #[must_use]
    pub(crate) fn compresses(&self) -> bool {
        self.packer.is_some()
    }

    /// Sends the `wanted` pages of chunk `index`; those that are not `populated` are zero and are
    /// not read. Returns the bytes sent.
    ///
    /// # Errors
    /// The link failed.
    pub(crate) fn send(&mut self, index: u64, wanted: &Words, populated: &Words) -> Result<u64, LinkError> {
        let sent = self.write(index, wanted, populated)?;
        let pages = wanted.iter().map(|word| u64::from(word.count_ones())).sum();
        self.progress.pages.remaining_pages.fetch_sub(pages, Relaxed);
        Ok(sent)
    }

    /// As [`ChunkSender::send`], for pages that were sent before and are not counted as remaining
    /// any more.
    ///
    /// # Errors
    /// The link failed.
    pub(crate) fn send_again(&mut self, index: u64, wanted: &Words) -> Result<u64, LinkError> {
        self.write(index, wanted, wanted)
    }

    fn write(&mut self, index: u64, wanted: &Words, populated: &Words) -> Result<u64, LinkError> {
        let memory = self.machine.memory();
        let chunk = classify(memory, index, wanted, populated);
        let packed = self.packer.as_mut().and_then(|packer| packer.pack(memory, index, &chunk.data));
        let head = self.head(&packed.map_or(Frame::Chunk(chunk), |len| Frame::Packed(chunk, len)));
        if let (Some(len), Some(packer)) = (packed, &self.packer) {
            self.write_out(Outgoing::new(&head).bytes(packer.block()))?;
            return Ok(self.count(&chunk, len.into()));
        }
        // The guest may write these pages meanwhile; one that changes is in the dirty log again.
        self.write_out(Outgoing::new(&head).pages(self.machine.memory(), index, &chunk.data))?;
        Ok(self.count(&chunk, chunk.data_bytes()))
    }

    /// Sends a marker: everything before it has been handed to this link.
    ///
    /// # Errors
    /// The link failed.
    pub(crate) fn send_marker(&mut self, number: u32) -> Result<(), LinkError> {
        self.send_head(&Frame::Marker(number))
    }

    /// Sends the marker that postcopy's pages follow.
    ///
    /// # Errors
    /// The link failed.
    pub(crate) fn send_switch(&mut self, number: u32) -> Result<(), LinkError> {
        self.send_head(&Frame::Switch(number))
    }

    fn write_out(&self, mut frame: Outgoing<'_>) -> Result<(), LinkError> {
        let judge = |quiet| self.patience.judge(quiet);
        self.stream.write_all_while_open(&mut frame, judge).map_err(LinkError::io(self.link))
    }

    /// Checks whether bytes sent before arrive, after `waited` without a further one. `sent` holds
    /// the last look.
    ///
    /// # Errors
    /// They have not for longer than a link may be silent.
    pub(crate) fn check_taken(&self, sent: &mut Unconfirmed, waited: Duration) -> io::Result<()> {
        self.patience.judge(sent.look(&self.stream, waited))
    }

    /// Whether bytes sent before arrive, bit by bit: their number has changed since the last look,
    /// `sent`.
    #[must_use]
    pub(crate) fn takes(&self, sent: &mut Unconfirmed) -> bool {
        let before = *sent;
        sent.look(&self.stream, Duration::ZERO);
        *sent != before
    }

    /// Waits until one of the links has ended, or does not take the bytes sent on it, and returns
    /// why. The peer sends nothing on a bulk link: a readable one has ended.
    ///
    /// # Panics
    /// Without a link.
    #[must_use]
    pub(crate) fn wait_any_closed(links: &[ChunkSender]) -> LinkError {
        let mut sent = vec![Unconfirmed::default(); links.len()];
        loop {
            if let Some(ended) = Link::wait_any_readable(links.iter().map(|link| &link.stream), LOOK) {
                let link = &links[ended];
                return match link.stream.read_exact(&mut [0]) {
                    Err(error) => LinkError::io(link.link)(error),
                    Ok(()) => LinkError::Closed { link: link.link },
                };
            }
            for (link, sent) in links.iter().zip(&mut sent) {
                if let Err(error) = link.check_taken(sent, LOOK) {
                    return LinkError::io(link.link)(error);
                }
            }
        }
    }

    /// Counts a page request of the destination.
    pub(crate) fn note_request(&self) {
        self.progress.pages.requests.fetch_add(1, Relaxed);
    }

    /// Whether the peer still has the link open.
    ///
    /// # Errors
    /// When it has not.
    pub(crate) fn check_open(&self) -> Result<(), LinkError> {
        match self.stream.is_closed_by_peer() {
            Ok(false) => Ok(()),
            Ok(true) => Err(LinkError::Closed { link: self.link }),
            Err(error) => Err(LinkError::io(self.link)(error)),
        }
    }

    fn send_head(&mut self, frame: &Frame) -> Result<(), LinkError> {
        let head = self.head(frame);
        self.write_out(Outgoing::new(&head))?;
        self.count_bytes(head.len() as u64);
        Ok(())
    }

    fn head(&mut self, frame: &Frame) -> [u8; bulk::HEADER_LEN] {
        let head = bulk::encode(frame, self.session, self.sequence);
        self.sequence = self.sequence.wrapping_add(1);
        head
    }

    /// Counts a chunk that has taken `payload` bytes on the link behind its header.
    fn count(&self, chunk: &Chunk, payload: u64) -> u64 {
        let pages = &self.progress.pages;
        let data = chunk.data_bytes() / PAGE_SIZE;
        let zero = chunk.zero.iter().map(|w| u64::from(w.count_ones())).sum::<u64>();
        let bytes = bulk::HEADER_LEN as u64 + payload;
        self.count_bytes(bytes);
        pages.saved_bytes.fetch_add(chunk.data_bytes() - payload, Relaxed);
        pages.data_pages.fetch_add(data, Relaxed);
        pages.zero_pages.fetch_add(zero, Relaxed);
        bytes
    }

    fn count_bytes(&self, bytes: u64) {
        let pages = &self.progress.pages;
        pages.bytes.fetch_add(bytes, Relaxed);
        match self.purpose {
            Purpose::Precopy => {}
            Purpose::Background => drop(pages.background_bytes.fetch_add(bytes, Relaxed)),
            Purpose::Urgent => drop(pages.urgent_bytes.fetch_add(bytes, Relaxed)),
        }
    }
}

/// Splits the wanted pages into data and zeros.
fn classify(memory: &Memory, index: u64, wanted: &Words, populated: &Words) -> Chunk {
    let candidates: Words = std::array::from_fn(|word| wanted[word] & populated[word]);
    let zero = zero_pages(memory, index, &candidates);
    Chunk {
        index: index as u32,
        data: std::array::from_fn(|word| candidates[word] & !zero[word]),
        zero: std::array::from_fn(|word| wanted[word] & !populated[word] | zero[word]),
    }
}
