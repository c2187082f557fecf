//! Placed by userfaultfd in memory that a guest uses already: postcopy.

use std::sync::Arc;

use ferry_devices::fault::{FaultControl, Place};
use ferry_migration::pages::CHUNK_PAGES;
use ferry_migration::wire::bulk::Chunk;

use super::{Contents, PageSink, SinkError};
use crate::userfault::{Faults, Landing, UserfaultError};

/// A sink into armed memory. A page that arrived before, or was never missing, is dropped.
#[derive(Debug)]
pub struct Placed {
    landing: Landing,
    /// Faults to inject here.
    injected: Arc<FaultControl>,
}

impl Placed {
    /// For one thread that receives pages.
    #[must_use]
    pub fn new(faults: &Arc<Faults>, injected: Arc<FaultControl>) -> Self {
        Placed { landing: faults.landing(), injected }
    }
}

impl PageSink for Placed {
    fn take(&mut self, chunk: &Chunk, contents: &mut dyn Contents) -> Result<(), SinkError> {
        for (at, (data, zero)) in chunk.data.iter().zip(&chunk.zero).enumerate() {
            let first_page = u64::from(chunk.index) * CHUNK_PAGES + at as u64 * 64;
            if *zero != 0 || *data != 0 {
                let allowed = self.injected.before(Place::HostMemory);
                allowed.map_err(|source| UserfaultError::Place { page: first_page, source })?;
            }
            if *zero != 0 {
                self.landing.place_zero(first_page, *zero)?;
            }
            if *data != 0 {
                contents.read(self.landing.buffer(data.count_ones())).map_err(SinkError::Contents)?;
                self.landing.place(first_page, *data)?;
            }
        }
        Ok(())
    }
}
