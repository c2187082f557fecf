//! The destination's part in a hand-over of the memory as a whole: it is checked and viewed at
//! `Hello`, taken when the guest is to run (by the machine's worker), and released on every other
//! way out.

use std::os::fd::OwnedFd;

use ferry_migration::PassedMemory;
use ferry_migration::destination::Input;
use ferry_migration::message::Failure;
use ferry_migration::pages::PAGE_SIZE;

use super::Driver;
use crate::adoption::is_safe;
use crate::destination::worker::Preparation;

/// Why memory that is handed over as a whole is refused.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    /// Its descriptor was announced and did not come, or not alone.
    #[error(
        "{0} descriptors came with memory that is handed over, and not one: connect over a Unix socket, with nothing in between"
    )]
    Descriptors(usize),
    /// No pages would be left to follow the guest.
    #[error(
        "memory is handed over, and postcopy is to be possible: switch the capability postcopy-ram off at the source"
    )]
    Postcopy,
    /// Two processes could run the guest in one memory.
    #[error(
        "memory is handed over with a handshake that may run the guest twice: set x-ferry-handshake to auto at the source"
    )]
    Handshake,
}

impl Driver {
    /// How the guest's memory arrives, as the source has announced.
    pub(super) fn preparation(&mut self, announced: Option<PassedMemory>) -> Result<Preparation, String> {
        let Some(announced) = announced else { return Ok(Preparation::Empty) };
        self.passed_memfd().map(|memfd| Preparation::View(memfd, announced.bytes)).map_err(|error| error.to_string())
    }

    fn passed_memfd(&mut self) -> Result<OwnedFd, NotTaken> {
        if self.core.may_go_postcopy() {
            return Err(NotTaken::Postcopy);
        }
        if !is_safe(self.core.handshake()) {
            return Err(NotTaken::Handshake);
        }
        let came = self.package.passed.len();
        match (self.package.passed.pop(), came) {
            (Some(memfd), 1) => Ok(memfd),
            _ => Err(NotTaken::Descriptors(came)),
        }
    }

    /// The memory is viewed here.
    pub(super) fn memory_is_viewed(&mut self) {
        self.pages.as_a_whole = true;
        // The memory is there already, and is read-only.
        self.package.filled = None;
        self.progress.set_local();
    }

    /// The attachment of the `HelloAck` that takes the memory.
    pub(super) fn taken_memory(&self) -> Vec<u8> {
        PassedMemory { bytes: self.machine.memory().pages() * PAGE_SIZE }.encode()
    }

    /// Such a source sends no rehearsal: its guest goes on writing to the memory that both have.
    pub(super) fn refuse_rehearsal(&mut self) {
        let reason = "a source that hands its memory over sends the device state once, when the guest has stopped";
        let failure = Failure { device: "protocol".to_owned(), reason: reason.to_owned() };
        self.input(Input::Loaded(Err(failure)));
    }

    /// Releases the memory of a guest that has not arrived. The worker that loads and starts the
    /// machine has ended.
    pub(super) fn let_go_of_memory(&self) {
        if let Err(error) = self.machine.memory().forget_passed() {
            tracing::warn!(%error, "the memory that was handed over is still mapped here; no thread uses it");
        }
    }
}
