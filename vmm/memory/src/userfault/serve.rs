//! Page sources: who is asked for a missing page.
//!
//! One thread runs [`Faults::serve`]. It learns who waits for which page and has the
//! [`PageSource`] get it: by asking another process, whose answer another thread places, or by
//! reading and placing it at once. Nothing here knows which.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use super::{Faults, Next, UserfaultError};

/// Who is asked for a missing page.
pub trait PageSource {
    /// A thread has begun to wait for `page`. All others that touch missing pages wait for the end
    /// of this call as well.
    ///
    /// # Errors
    /// When the page can never be had from here: that ends [`Faults::serve`].
    fn get(&mut self, page: u64) -> io::Result<()>;

    /// How often [`PageSource::look`] is called.
    fn every(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// So much time has passed since the last look.
    fn look(&mut self, _waited: Duration) {}
}

/// Why missing pages are served no more.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The host does not tell of them, or does not let an access through.
    #[error(transparent)]
    Faults(#[from] UserfaultError),
    /// The source does not have one.
    #[error("page {page} cannot be had: {source}")]
    Source {
        /// Which page.
        page: u64,
        /// What the source said.
        source: io::Error,
    },
}

impl Faults {
    /// Has `source` get every page that a thread waits for, until `stop` is signalled. One thread
    /// does it: a second one would take faults from the first.
    ///
    /// # Errors
    /// When it cannot go on: threads that wait for a page do so for ever, unless the caller acts.
    pub fn serve(self: &Arc<Self>, source: &mut dyn PageSource, stop: &EventFd) -> Result<(), ServeError> {
        let mut handler = self.handler();
        let every = source.every();
        let mut looked = Instant::now();
        loop {
            if looked.elapsed() >= every {
                source.look(looked.elapsed());
                looked = Instant::now();
            }
            match handler.next(every, stop)? {
                Next::Page(page) => source.get(page).map_err(|source| ServeError::Source { page, source })?,
                Next::TimedOut => {}
                Next::Cancelled => return Ok(()),
            }
        }
    }
}
