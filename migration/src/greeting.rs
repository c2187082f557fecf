//! What travels beside `Hello`: who is being migrated, and the machine that must be matched.

use serde::{Deserialize, Serialize};

use crate::description::MachineDescription;
use crate::ownership::Handover;

/// Most bulk links that a destination takes.
pub const BULK_LINKS_MAX: u8 = 32;

/// The attachment of `Hello`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The guest's name, for reports on the destination.
    pub vm: String,
    /// The machine as the guest sees it.
    pub machine: MachineDescription,
    /// Bulk links that the source opens beside the control link.
    pub bulk_links: u8,
    /// Chunks of memory that hold something, one bit for each, as an encoded bitmap: the destination may make room for them ahead. Empty: not
    /// known.
    pub filled_chunks: Vec<u8>,
    /// The ownership record's part, if the source has one.
    pub record: Option<Announced>,
    /// Milliseconds without a sign of life after which either side gives the other up.
    pub heartbeat_timeout_ms: u64,
}

/// What a destination needs to take part in a hand-over by the ownership record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// Who hands over what.
    pub handover: Handover,
    /// The number that the destination must find in its own view of the record.
    pub nonce: u64,
}
