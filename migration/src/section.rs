//! One saved device state inside a package: a tag and opaque bytes.
//!
//! The machine fills sections when it saves and hands them to the device of the same name when it loads; this crate
//! carries and checks the frame around them, never the payload.

use serde::{Deserialize, Serialize};

/// A saved state, tagged with what may load it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// The kind of device, for example `virtio-blk` or `vcpu`.
    pub device: String,
    /// Which device of that kind, from 0.
    pub instance: u32,
    /// The version of the state's format.
    pub version: u32,
    /// The state, in the device's own encoding.
    pub payload: Vec<u8>,
}

impl Section {
    /// The name that messages use: `virtio-blk/0`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.device, self.instance)
    }
}
