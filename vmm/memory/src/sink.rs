//! Page sinks: where the pages of a received chunk go.
//!
//! A receiver reads frames and gives each chunk to a [`PageSink`], with a reader of its contents
//! ([`Contents`]): a link that still carries them, or a decompressed block. A sink moves them from
//! there straight to their place.

mod direct;
mod placed;
mod staged;

use std::io;

use ferry_migration::wire::bulk::Chunk;

pub use direct::Direct;
pub use placed::Placed;
pub use staged::{Staged, StagingBudget};

use crate::userfault::UserfaultError;
use crate::vectors::Incoming;

/// The pages of a chunk that hold data, one after the other in ascending order.
pub trait Contents {
    /// Fills `pages` with the next ones.
    ///
    /// # Errors
    /// When no more come.
    fn fill(&mut self, pages: &mut Incoming<'_>) -> io::Result<()>;

    /// Fills `buffer` with the next ones.
    ///
    /// # Errors
    /// As there.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<()>;
}

/// Contents that are in memory already.
///
/// # Panics
/// When fewer bytes are left than requested.
impl Contents for &[u8] {
    fn fill(&mut self, pages: &mut Incoming<'_>) -> io::Result<()> {
        let bytes = pages.pieces().iter().map(|piece| piece.iov_len).sum();
        let (next, rest) = self.split_at(bytes);
        pages.copy_from(next);
        *self = rest;
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let (next, rest) = self.split_at(buffer.len());
        buffer.copy_from_slice(next);
        *self = rest;
        Ok(())
    }
}

/// Why a sink has not taken a chunk.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Its contents did not come.
    #[error(transparent)]
    Contents(io::Error),
    /// The host refused.
    #[error("a received page could not be placed: {0}")]
    Place(#[from] UserfaultError),
}

/// Where the pages of a received chunk go.
pub trait PageSink {
    /// Takes a chunk of this machine's memory, whose contents are next in `contents`.
    ///
    /// # Errors
    /// When the contents do not come, or the host refuses; some pages may have been taken.
    fn take(&mut self, chunk: &Chunk, contents: &mut dyn Contents) -> Result<(), SinkError>;
}

#[cfg(test)]
mod tests;
