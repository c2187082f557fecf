//! Work that a side has under way and that answers at some later moment.

use super::record::{Operation, Reply};
use super::set::Member;

/// What the source's driver was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceJob {
    /// Open the control link.
    Connect,
    /// Write a nonce to the record.
    Nonce,
    /// Send one round.
    Round,
    /// Save the running machine for the rehearsal.
    Snapshot,
    /// Stop the guest and release the disk.
    Stop,
    /// Save the stopped machine.
    Save,
    /// Send the last pages, before the package.
    LastPages,
    /// The same when pages are left for later.
    LastPagesPostcopy,
    /// Send what remains, in postcopy.
    Serve,
    /// Take the disk back and run.
    Resume,
}

impl SourceJob {
    /// Sends pages: an interrupt may end it without an answer.
    #[must_use]
    pub fn sends_pages(self) -> bool {
        matches!(self, SourceJob::Round | SourceJob::LastPages | SourceJob::LastPagesPostcopy | SourceJob::Serve)
    }
}

impl Member for SourceJob {
    const ALL: &'static [SourceJob] = &[
        SourceJob::Connect,
        SourceJob::Nonce,
        SourceJob::Round,
        SourceJob::Snapshot,
        SourceJob::Stop,
        SourceJob::Save,
        SourceJob::LastPages,
        SourceJob::LastPagesPostcopy,
        SourceJob::Serve,
        SourceJob::Resume,
    ];
}

/// What the destination's driver was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DestinationJob {
    /// Compare the machines.
    Check,
    /// Load on trial.
    LoadTrial,
    /// Load for real.
    Load,
    /// Take the disk and run.
    Start,
}

impl Member for DestinationJob {
    const ALL: &'static [DestinationJob] =
        &[DestinationJob::Check, DestinationJob::LoadTrial, DestinationJob::Load, DestinationJob::Start];
}

/// A change of the record that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordJob {
    /// Which.
    pub operation: Operation,
    /// What the record answered, if it has been changed already and the answer is on its way.
    pub reply: Option<Reply>,
}

impl RecordJob {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(operation: Operation) -> Self {
        RecordJob { operation, reply: None }
    }
}
