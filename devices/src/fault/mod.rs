//! The fault device: it is saved and loaded like any other, and fails, hangs or is slow in these
//! steps if a rule requires it.
//!
//! It lets an operator and the fault matrix try every way in which a device can spoil a migration.
//! The guest does not see it. Its rules may also name another device, a call to the kernel, a step
//! or a message of the migration, or another operation on the host: the thread that reaches it
//! calls [`FaultControl`] first. `--device fault,…` and QMP `x-ferry-fault-set` build a
//! [`FaultSpec`] and add it to a [`FaultControl`].

mod action;
mod point;
mod rules;
mod spec;
mod workers;

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::action::{Errno, FaultAction, MAX_DELAY_MS, MAX_SKEW_MS};
pub use self::point::{FaultPoint, FaultStep, Moment, Place};
pub use self::rules::{FaultControl, Injected, MAX_RULES, TooManyRules};
pub use self::spec::{Direction, FaultSpec, FaultSpecError};
pub use self::workers::WORKERS;
use crate::device::{Device, DeviceId, LoadError, SaveError};
use crate::saved::{self, check};

const VERSION: u32 = 1;
const PATTERN_WORDS: usize = 8;

/// A device whose only behaviour is how it is saved and loaded.
///
/// Its state is a counter (how often a guest was started with it) and a pattern derived from the
/// counter, which detects a state that was damaged or mixed up in transit.
pub struct FaultDevice {
    id: DeviceId,
    control: Arc<FaultControl>,
    starts: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Saved {
    starts: u64,
    pattern: [u64; PATTERN_WORDS],
}

impl FaultDevice {
    /// The `instance`th fault device, which follows the rules of `control`.
    #[must_use]
    pub fn new(instance: u32, control: Arc<FaultControl>) -> Self {
        FaultDevice { id: DeviceId { name: "fault", instance }, control, starts: 0 }
    }

    /// How many times a guest was started with this device, here and, through migrations,
    /// elsewhere.
    #[must_use]
    pub fn starts(&self) -> u64 {
        self.starts
    }
}

impl Device for FaultDevice {
    fn id(&self) -> DeviceId {
        self.id.clone()
    }

    fn state_version(&self) -> u32 {
        VERSION
    }

    fn save(&mut self) -> Result<Vec<u8>, SaveError> {
        self.control.enter(FaultStep::Save).map_err(|_| SaveError::Injected)?;
        saved::encode(&Saved { starts: self.starts, pattern: pattern(self.starts) })
    }

    fn load(&mut self, version: u32, payload: &[u8]) -> Result<(), LoadError> {
        self.control.enter(FaultStep::Load).map_err(|_| LoadError::Injected(FaultStep::Load.as_str()))?;
        let Saved { starts, pattern: found } = saved::decode(version, VERSION, payload)?;
        let wrong = found.iter().zip(pattern(starts)).position(|(found, expected)| *found != expected);
        check(wrong.is_none(), "pattern", format!("{found:x?}"), format!("the pattern of counter {starts}"))?;
        self.starts = starts;
        Ok(())
    }

    fn post_load(&mut self) -> Result<(), LoadError> {
        self.control.enter(FaultStep::PostLoad).map_err(|_| LoadError::Injected(FaultStep::PostLoad.as_str()))
    }

    fn reset(&mut self) -> io::Result<()> {
        self.starts = 0;
        Ok(())
    }

    fn acquire(&mut self) -> io::Result<()> {
        self.starts = self.starts.wrapping_add(1);
        Ok(())
    }
}

/// Words that differ from one counter to the next (the finaliser of SplitMix64).
fn pattern(starts: u64) -> [u64; PATTERN_WORDS] {
    std::array::from_fn(|word| {
        let mut value = starts.wrapping_add((word as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    })
}

#[cfg(test)]
mod tests;
