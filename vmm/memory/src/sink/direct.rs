//! Straight into guest memory: the rounds of precopy.

use std::sync::Arc;

use ferry_migration::pages::{CHUNK_PAGES, CHUNK_WORDS, PageBitmap};
use ferry_migration::wire::bulk::Chunk;

use super::{Contents, PageSink, SinkError};
use crate::Memory;
use crate::vectors::Incoming;

/// A sink into memory that no vCPU and no device uses yet.
#[derive(Debug)]
pub struct Direct {
    memory: Arc<Memory>,
    /// Pages that hold data: a page that is sent as zero must be wiped if it is one of these. All
    /// others are zero already.
    written: PageBitmap,
}

impl Direct {
    /// For memory that is all zero.
    #[must_use]
    pub fn new(memory: Arc<Memory>) -> Self {
        let written = PageBitmap::new(memory.pages());
        Direct { memory, written }
    }

    fn wipe(&mut self, chunk: &Chunk) {
        let index = u64::from(chunk.index);
        let written = self.written.chunk(index);
        let stale: [u64; CHUNK_WORDS] = std::array::from_fn(|at| written[at] & chunk.zero[at]);
        Incoming::default().pages(&self.memory, index, &stale).clear();
        self.written.clear_words(index * CHUNK_PAGES, &stale);
    }
}

impl PageSink for Direct {
    fn take(&mut self, chunk: &Chunk, contents: &mut dyn Contents) -> Result<(), SinkError> {
        let index = u64::from(chunk.index);
        self.wipe(chunk);
        self.written.or_words(index * CHUNK_PAGES, &chunk.data);
        let mut pages = Incoming::default().pages(&self.memory, index, &chunk.data);
        contents.fill(&mut pages).map_err(SinkError::Contents)
    }
}
