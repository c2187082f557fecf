//! What travels beside `Hello`: who is being migrated, and the machine that must be matched.

use serde::{Deserialize, Serialize};

use crate::description::MachineDescription;

/// The attachment of `Hello`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The guest's name, for reports on the destination.
    pub vm: String,
    /// The machine as the guest sees it.
    pub machine: MachineDescription,
    /// Bulk links that the source opens beside the control link.
    pub bulk_links: u8,
    /// Milliseconds without a sign of life after which either side gives the other up.
    pub heartbeat_timeout_ms: u64,
}
