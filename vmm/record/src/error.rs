//! Why an ownership record could not be read or changed, and what the operator can do about it.
//!
//! The state machines distinguish two kinds. *Unreachable* may pass: they try again. Every other
//! error remains until an operator acts: the record is not as it should be, and no backend writes
//! to it.

use std::io;

use ferry_migration::ownership::RuleError;
use ferry_migration::ownership::file::FormatError;

/// Every variant names the place of the record in `at`.
#[derive(Debug, thiserror::Error)]
pub enum OwnershipError {
    /// The storage did not answer, or refused.
    #[error("the ownership record {at} cannot be reached: {doing}: {source}; {advice}")]
    Unreachable {
        /// Where the record is.
        at: String,
        /// What was being done.
        doing: &'static str,
        /// The new record may have been written all the same: only a repeat of the call can show
        /// it.
        maybe_applied: bool,
        /// The system's error.
        source: io::Error,
        /// What the operator can do.
        advice: &'static str,
    },
    /// The bytes are no whole record, or contradict each other.
    #[error(
        "the ownership record {at} is damaged: {source}; nothing was changed. Make sure that no ferry runs this guest, then restore or remove the record"
    )]
    Damaged {
        /// Where the record is.
        at: String,
        /// What is wrong.
        source: FormatError,
    },
    /// Something else is in the record's place.
    #[error(
        "{at} is no ownership record but {found}; nothing was changed. Name another place with --ownership file:PATH, or move what is there away"
    )]
    Foreign {
        /// Where the record should be.
        at: String,
        /// What is there.
        found: String,
    },
    /// A later Ferry wrote the record.
    #[error(
        "the ownership record {at} was written by a later ferry: {source}; nothing was changed. Run that version, or a later one, on both sides"
    )]
    Newer {
        /// Where the record is.
        at: String,
        /// The versions.
        source: FormatError,
    },
    /// The record was removed or replaced while this process used it, so other processes may see
    /// another one.
    #[error(
        "the ownership record {at} was {how} while this process used it; nothing was changed. Put the original back, or stop every ferry of this guest and decide which one goes on"
    )]
    Replaced {
        /// Where the record is.
        at: String,
        /// `removed` or `replaced`.
        how: &'static str,
    },
    /// There is no record to change.
    #[error(
        "there is no ownership record {at}; check that the path is the same storage on both sides, and that the source was started with ownership"
    )]
    Missing {
        /// Where the record should be.
        at: String,
    },
    /// Another living process has the guest.
    #[error(
        "another process has the guest of the ownership record {at}: it runs the guest, keeps it stopped, or is taking it over. End that process first"
    )]
    Present {
        /// Where the record is.
        at: String,
    },
    /// The rules forbid this change of the present record.
    #[error(
        "the ownership record {at} was not changed: {source}; check that both sides name the record of the same guest"
    )]
    Rule {
        /// Where the record is.
        at: String,
        /// Which rule.
        source: RuleError,
    },
}

impl OwnershipError {
    /// Whether the error may pass, so that trying again is right.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, OwnershipError::Unreachable { .. })
    }

    /// Whether another living process has the guest.
    #[must_use]
    pub fn is_present(&self) -> bool {
        matches!(self, OwnershipError::Present { .. })
    }

    /// Whether the place takes no record at all: its storage is read-only, or this process may not
    /// write there.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        let kind = match self {
            OwnershipError::Unreachable { source, .. } => source.kind(),
            _ => return false,
        };
        matches!(kind, io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
    }

    /// Whether the new record may have been written although the call failed.
    #[must_use]
    pub fn maybe_applied(&self) -> bool {
        matches!(self, OwnershipError::Unreachable { maybe_applied: true, .. })
    }

    pub(super) fn format(at: &str, source: FormatError) -> Self {
        let at = at.to_owned();
        match source {
            FormatError::Foreign { .. } => OwnershipError::Foreign { at, found: format!("something else: {source}") },
            FormatError::Newer { .. } => OwnershipError::Newer { at, source },
            _ => OwnershipError::Damaged { at, source },
        }
    }
}
