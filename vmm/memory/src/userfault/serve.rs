//! Page sources: where a missing page comes from.
//!
//! One thread runs [`Faults::serve`]. It reads which pages threads wait for and has the
//! [`PageSource`] get them: by a request to another process, whose answer another thread places, or
//! by reading and placing them at once.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use super::{Faults, Next, UserfaultError};

/// Provides missing pages.
pub trait PageSource {
    /// A thread has begun to wait for `page`. All others that touch missing pages wait for the end
    /// of this call as well.
    ///
    /// # Errors
    /// When the page can never be provided: that ends [`Faults::serve`].
    fn get(&mut self, page: u64) -> io::Result<()>;

    /// How often [`PageSource::look`] is called.
    fn every(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Called regularly, with the time since the last call.
    fn look(&mut self, _waited: Duration) {}
}

/// Why missing pages are no longer served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The host does not report them, or does not let an access through.
    #[error(transparent)]
    Faults(#[from] UserfaultError),
    /// The source cannot provide a page.
    #[error("page {page} cannot be had: {source}")]
    Source {
        /// Which page.
        page: u64,
        /// The source's error.
        source: io::Error,
    },
}

impl Faults {
    /// Has `source` get every page that a thread waits for, until `stop` is signalled. Only one
    /// thread may do it: a second one would take faults from the first.
    ///
    /// # Errors
    /// When it cannot go on: threads that wait for a page do so indefinitely, unless the caller
    /// acts.
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
