//! Ownership records: where they are kept, and what a process and a migration do with one.
//!
//! The rules and the bytes are in `ferry_migration::ownership`; a backend of [`Ownership`] adds the
//! storage, its lock and its failures. [`file::FileRecord`] keeps the record in a file;
//! [`faulty::Faulty`] breaks any backend on purpose. [`OwnRecord`] and [`HandoverRecord`] carry out
//! the compare-and-swaps that the state machines of `ferry-migration` request.

// Only the command line prints: `println!` panics on a closed pipe, and a message must not end its
// thread.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

use std::fmt::Debug;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

pub use ferry_migration::ownership::{Change, Expected, Record, Swap};
use ferry_migration::ownership::{Name, OwnerId};

pub mod error;
pub mod faulty;
pub mod file;
mod own;

pub use error::OwnershipError;
pub use own::{ANSWER_DEADLINE, Call, HandoverRecord, OwnRecord, OwnershipInfo, RecordError, Settle, Twice};

/// A place that keeps the ownership record of one guest.
///
/// Every call that accesses the record waits for storage: make it on a thread that may wait that
/// long. A wait for another process has a deadline of its own. After any error the record is as it
/// was, or as requested, never something else.
pub trait Ownership: Send + Sync + Debug {
    /// Where the record is, for people: `file:/images/a.owner`.
    fn place(&self) -> String;

    /// The record, or none if there never was one here.
    ///
    /// # Errors
    /// [`OwnershipError`]; nothing is changed.
    fn read(&self) -> Result<Option<Record>, OwnershipError>;

    /// Makes the first record. Won when it is durable, lost when there is another already; a
    /// repeat is won.
    ///
    /// # Errors
    /// [`OwnershipError`].
    fn create(&self, record: &Record) -> Result<Swap, OwnershipError>;

    /// Changes the record if it is as expected, by the rules of
    /// [`ferry_migration::ownership::judge`]. Won when the new record is durable, or when this
    /// very change was made before; lost when another process changed it first.
    ///
    /// # Errors
    /// [`OwnershipError`]. After [`OwnershipError::maybe_applied`], repeat the call: its result is
    /// then correct.
    fn swap(&self, expected: &Expected, record: &Record) -> Result<Swap, OwnershipError>;

    /// The present stay of a guest at this process. Does not access storage.
    fn stay(&self) -> Stay;

    /// Shows to every process that opens the record that this one has the guest, until
    /// [`Ownership::end_presence`] or the process's end. `alone`: only if no other process shows
    /// its presence; afterwards others may, unless they request to be alone. Has no effect if
    /// `stay` has ended while the call waited for storage.
    ///
    /// # Errors
    /// [`OwnershipError::Present`] when another process excludes it, [`OwnershipError::Missing`]
    /// when there is no record yet, or an error of the storage.
    fn show_presence(&self, alone: bool, stay: Stay) -> Result<(), OwnershipError>;

    /// Ends this process's presence and the guest's stay, also for a call that is under way. Does
    /// not access storage; dropping the result does.
    fn end_presence(&self) -> Sign;
}

/// A guest's stay at this process: it ends when the guest leaves, or does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stay(u64);

/// The lock of a presence that has ended. Dropping this releases it, which may wait for storage.
#[derive(Debug)]
pub struct Sign(#[expect(dead_code, reason = "it is there to be dropped")] Option<Arc<File>>);

/// Counts the stays at a process.
#[derive(Debug, Default)]
pub struct Stays(AtomicU64);

impl Stays {
    /// The present one.
    pub fn present(&self) -> Stay {
        Stay(self.0.load(SeqCst))
    }

    /// Ends the present one.
    pub fn end(&self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// An identity for this process, new at every call: make one at start and keep it.
///
/// # Errors
/// When the kernel provides no random numbers.
pub fn new_owner() -> std::io::Result<OwnerId> {
    Ok(OwnerId { id: random()?, label: label() })
}

/// A number that no other call of any process returns.
///
/// # Errors
/// When the kernel provides no random numbers.
pub fn random() -> std::io::Result<u128> {
    let mut bytes = [0; 16];
    let taken = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    debug_assert_eq!(taken, bytes.len(), "requests of up to 256 bytes are not cut short");
    Ok(u128::from_le_bytes(bytes))
}

/// `host:pid`, with as much of the host's name as fits a [`Name`].
fn label() -> Name {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let pid = std::process::id();
    // A pid has at most ten digits (proc(5): pid_max is 2^22 at most).
    let host: String = host.trim().chars().filter(char::is_ascii_graphic).take(Name::MAX_BYTES - 11).collect();
    Name::try_from(format!("{host}:{pid}")).expect("1 to 64 printable ASCII characters")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_owner_is_another() {
        let [a, b] = [new_owner().unwrap(), new_owner().unwrap()];
        assert_ne!(a, b);
        assert!(a.label.as_str().ends_with(&format!(":{}", std::process::id())));
    }
}
