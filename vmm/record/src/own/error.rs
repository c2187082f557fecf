//! Why an ownership record could not be used, and what the operator can do about it.

use ferry_migration::ownership::{NameError, RuleError};

use crate::OwnershipError;

use super::call::ANSWER_DEADLINE;

/// Why a record could not be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The record did not answer, or is not usable.
    #[error(transparent)]
    Ownership(#[from] OwnershipError),
    /// The kernel provided no random number.
    #[error("no random number can be had: {0}")]
    Random(std::io::Error),
    /// Another process may still hold the guest's memory.
    #[error(
        "the ownership record {place} says that a hand-over is under way, and names {owner} in generation {generation}: a \
         process that is stopped may have the guest's newest state. If it is not to go on there, end every other process of \
         this guest, then start it with --ownership …,take"
    )]
    InHandover {
        /// Where the record is.
        place: String,
        /// The owner of the guest.
        owner: String,
        /// The owner's generation.
        generation: u64,
    },
    /// The guest is protected by a second process.
    #[error(
        "the ownership record {place} names {owner} in generation {generation}, and {partner} as its partner: either may \
         have the guest's newest state. If it is not to go on there, end every other process of this guest, then start it \
         with --ownership …,take"
    )]
    Protected {
        /// Where the record is.
        place: String,
        /// The owner of the guest.
        owner: String,
        /// The process that may take the guest over.
        partner: String,
        /// The owner's generation.
        generation: u64,
    },
    /// Another process owns the guest.
    #[error("the ownership record {place} names {owner} in generation {generation}, not this process")]
    NotOurs {
        /// Where the record is.
        place: String,
        /// The owner of the guest.
        owner: String,
        /// The owner's generation.
        generation: u64,
    },
    /// This process itself has changed the record since it was read.
    #[error(
        "the ownership record {place} was changed by another command of this process (generation {generation}): try again"
    )]
    Changed {
        /// Where the record is.
        place: String,
        /// The record's present generation.
        generation: u64,
    },
    /// Another process has made itself the owner since the guest was stopped here.
    #[error(
        "the ownership record {place} names {owner} in generation {generation}, which may have run the guest since it was \
         stopped here: what this process holds is too old to run; end it with quit"
    )]
    Taken {
        /// Where the record is.
        place: String,
        /// The owner of the guest.
        owner: String,
        /// The owner's generation.
        generation: u64,
    },
    /// The record of a guest that has arrived without a claim names a process that had no part in
    /// the migration.
    #[error(
        "the guest that has arrived here has an ownership record {place}, and it names {owner} in generation {generation}, {why}: \
         the guest may run twice. Look at both processes and end one of them; the record is left as it is"
    )]
    Twice {
        /// Where the record is.
        place: String,
        /// The owner of the guest.
        owner: String,
        /// The owner's generation.
        generation: u64,
        /// Why it is not taken from that process.
        why: Twice,
    },
    /// The storage did not answer in time.
    #[error("the ownership record {place} did not answer within {} s: see what keeps its storage, then try again", ANSWER_DEADLINE.as_secs())]
    Late {
        /// Where the record is.
        place: String,
    },
    /// The host could not start a thread for the call.
    #[error("no thread can be started to ask the ownership record: {0}; raise the limit of processes")]
    Thread(#[source] std::io::Error),
    /// The guest has arrived, and the record does not name this process yet.
    #[error(
        "the ownership record {place} does not name this process yet, to which the guest has come: see in the log or with \
         x-ferry-query-ownership what keeps it, then try again"
    )]
    NotYet {
        /// Where the record is.
        place: String,
    },
    /// Too many hand-overs have ended that the record may still name.
    #[error(
        "the ownership record {place} has not been told yet that earlier hand-overs have ended: see in the log or with \
         x-ferry-query-ownership what keeps its storage, then try again"
    )]
    Behind {
        /// Where the record is.
        place: String,
    },
    /// The migration has ended before it was announced.
    #[error("the migration has ended meanwhile")]
    Over,
    /// A guest whose disk was released is to run, but a migration of it is already under way.
    #[error("a migration of the guest is under way: wait for its end or cancel it, then try again")]
    Announced,
    /// The guest's name cannot stand in a record.
    #[error("the guest's name cannot stand in an ownership record: {0}")]
    Name(#[from] NameError),
    /// The record's generation cannot grow.
    #[error(transparent)]
    Rule(#[from] RuleError),
}

/// Why a record is not taken from the process that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twice {
    /// That process may be stopped and have the guest's newest state.
    InHandover,
    /// That process or its partner may have the guest's newest state.
    Protected,
    /// Another process lives and has the guest.
    IsPresent,
}

impl std::fmt::Display for Twice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Twice::InHandover => "which hands it over, or has not said how that ended",
            Twice::Protected => "which is protected by a partner that may take the guest over",
            Twice::IsPresent => "and another process lives that has the guest",
        })
    }
}

impl RecordError {
    /// Whether the record may have been changed despite the error.
    pub(super) fn maybe_applied(&self) -> bool {
        matches!(self, RecordError::Ownership(error) if error.maybe_applied())
    }

    /// Whether another attempt may succeed: the storage recovers, the change is made to the newer
    /// record, or the other process ends.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            // A boot that requests to be alone is soon refused by the record, and ends its
            // presence.
            RecordError::Ownership(error) => error.is_unreachable() || error.is_present(),
            RecordError::NotOurs { .. }
            | RecordError::Changed { .. }
            | RecordError::Twice { why: Twice::IsPresent, .. } => true,
            _ => false,
        }
    }
}
