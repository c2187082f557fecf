//! The saved state of a virtio device: the transport's registers, the queues, and facts about the
//! backend.
//!
//! [`VirtioMmio`](super::VirtioMmio) fills it in `save` and takes it in `load`, after
//! [`SavedVirtio::check`]. Checks against guest memory are made in `post_load`.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1};

use super::queue::QueuePosition;
use super::registers::{DRIVER_OK, DRIVER_STATUS_BITS, FEATURES_OK, Registers};
use super::signals::INTERRUPT_BITS;
use crate::device::LoadError;
use crate::saved::check;

/// Version of [`SavedVirtio`].
pub(super) const VERSION: u32 = 1;

/// `DEVICE_NEEDS_RESET` as the status register shows it.
pub(super) const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;

/// Everything but guest memory that the device needs to go on in another process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedVirtio<F> {
    pub(super) status: u32,
    pub(super) device_features_sel: u32,
    pub(super) driver_features_sel: u32,
    pub(super) driver_features: u64,
    pub(super) queue_sel: u32,
    pub(super) interrupt_status: u32,
    pub(super) config_generation: u32,
    pub(super) queues: Vec<SavedQueue>,
    pub(super) facts: F,
}

/// One queue, with the device's position in it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedQueue {
    pub(super) size: u16,
    pub(super) ready: bool,
    pub(super) desc: u64,
    pub(super) avail: u64,
    pub(super) used: u64,
    pub(super) next_avail: u16,
    pub(super) next_used: u16,
}

impl<F> SavedVirtio<F> {
    /// Checks that a device with these registers can reach the value of every field.
    pub(super) fn check(&self, device: &Registers) -> Result<(), LoadError> {
        let known = DRIVER_STATUS_BITS | NEEDS_RESET;
        check(self.status & !known == 0, "status", format!("{:#x}", self.status), format!("bits {known:#x}"))?;
        let settled = self.status & FEATURES_OK != 0;
        let started = self.status & DRIVER_OK != 0;
        check(settled || !started, "status", format!("{:#x}", self.status), "DRIVER_OK comes after FEATURES_OK")?;
        let unknown = self.driver_features & !device.offered;
        let features = format!("{:#x}", self.driver_features);
        check(
            !settled || unknown == 0,
            "driver_features",
            &features,
            format!("this host offers {:#x}", device.offered),
        )?;
        let modern = self.driver_features & (1 << VIRTIO_F_VERSION_1) != 0;
        check(!settled || modern, "driver_features", &features, "VIRTIO_F_VERSION_1 is always negotiated")?;
        let interrupts = self.interrupt_status;
        check(interrupts & !INTERRUPT_BITS == 0, "interrupt_status", interrupts, format!("bits {INTERRUPT_BITS:#x}"))?;
        let expected = device.queues.len();
        check(self.queues.len() == expected, "queues", self.queues.len(), format!("this device has {expected}"))?;
        self.queues.iter().zip(&device.queues).try_for_each(|(queue, registers)| queue.check(registers.max_size))
    }
}

impl SavedQueue {
    pub(super) fn position(&self) -> QueuePosition {
        QueuePosition { next_avail: self.next_avail, next_used: self.next_used }
    }

    fn check(&self, max_size: u16) -> Result<(), LoadError> {
        let legal = self.size.is_power_of_two() && self.size <= max_size;
        check(legal, "queue size", self.size, format!("a power of two, at most {max_size}"))?;
        let ahead = self.next_avail.wrapping_sub(self.next_used);
        let allowed = || format!("at most {} requests ahead of next_used {}", self.size, self.next_used);
        check(ahead <= self.size, "queue next_avail", self.next_avail, allowed())
    }
}
