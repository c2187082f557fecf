//! The threads of a migration that a rule can keep from starting (`at=host:thread,of=NAME/0`).

use std::io;
use std::thread::{Builder, JoinHandle};

use super::rules::FaultControl;

/// The names under which the runtime starts them.
pub const WORKERS: [&str; 18] = [
    "ferry-source",
    "ferry-src-connect",
    "ferry-src-guest",
    "ferry-src-link",
    "ferry-src-pages",
    "ferry-src-proof",
    "ferry-src-record",
    "ferry-src-recv",
    "ferry-src-urgent",
    "ferry-dest",
    "ferry-dst-accept",
    "ferry-dst-disk",
    "ferry-dst-faults",
    "ferry-dst-load",
    "ferry-dst-memory",
    "ferry-dst-pages",
    "ferry-dst-record",
    "ferry-dst-recv",
];

impl FaultControl {
    /// Starts a worker of a migration, unless a rule keeps it from starting. `name` is one of
    /// [`WORKERS`].
    ///
    /// # Errors
    /// The rule's error, or the host's when it cannot start a thread.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        debug_assert!(WORKERS.contains(&name), "{name}");
        self.before_thread(name)?;
        Builder::new().name(name.to_owned()).spawn(run)
    }
}
