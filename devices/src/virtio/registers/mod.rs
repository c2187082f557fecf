//! The registers that a driver configures a device through (virtio 1.2 §4.2.2) and the status
//! state machine (§2.1, §3.1).
//!
//! Plain values: nothing here touches guest memory, waits or signals.
//! [`VirtioMmio`](super::VirtioMmio) holds them under its lock, and carries out the [`Effect`] that
//! [`Registers::write`] returns.

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio as reg;

/// Bytes of address space that the transport claims: the registers and 256 bytes of configuration
/// space.
pub const MMIO_LEN: u64 = 0x200;

/// Offset of `QueueNotify`, where a machine puts an ioeventfd for each queue, with the queue's
/// index as datamatch.
pub const QUEUE_NOTIFY: u64 = reg::VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// Offset of the configuration space.
pub(super) const CONFIG: u64 = reg::VIRTIO_MMIO_CONFIG as u64;

pub(super) const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
pub(super) const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
const FAILED: u32 = VIRTIO_CONFIG_S_FAILED;
/// The status bits that a driver sets. `DEVICE_NEEDS_RESET` is the device's own.
pub(super) const DRIVER_STATUS_BITS: u32 =
    VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | DRIVER_OK | FEATURES_OK | FAILED;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
/// This transport's vendor ID: `Frry`.
const VENDOR: u32 = u32::from_le_bytes(*b"Frry");
/// `SHMLen` and `SHMBase` of a shared memory region that does not exist.
const NO_REGION: u32 = u32::MAX;

/// The action that must follow a register write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// Stop the device, then [`Registers::reset`].
    Reset,
    /// `DRIVER_OK` was set: start the device.
    Start,
    /// `FAILED` was set on a device that works: stop it.
    Stop,
    /// Stop this queue, then [`Registers::queue_stopped`].
    StopQueue(usize),
    /// The specification forbids the write; it was ignored for this reason.
    Ignored(&'static str),
}

/// The registers of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueRegisters {
    pub(super) max_size: u16,
    pub(super) size: u16,
    pub(super) ready: bool,
    pub(super) desc: u64,
    pub(super) avail: u64,
    pub(super) used: u64,
}

/// All registers that store a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registers {
    pub(super) device_type: u32,
    pub(super) offered: u64,
    pub(super) status: u32,
    pub(super) device_features_sel: u32,
    pub(super) driver_features_sel: u32,
    pub(super) driver_features: u64,
    pub(super) queue_sel: u32,
    pub(super) queues: Vec<QueueRegisters>,
}

impl Registers {
    pub(super) fn new(device_type: u32, offered: u64, queue_max_sizes: &[u16]) -> Self {
        let queues = queue_max_sizes.iter().map(|max_size| QueueRegisters::new(*max_size)).collect();
        Registers {
            device_type,
            offered,
            status: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            queues,
        }
    }

    /// Sets the power-on values. The device has been stopped.
    pub(super) fn reset(&mut self) {
        let sizes: Vec<u16> = self.queues.iter().map(|queue| queue.max_size).collect();
        *self = Registers::new(self.device_type, self.offered, &sizes);
    }

    /// Whether the driver has finished setting the device up.
    pub(super) fn is_started(&self) -> bool {
        self.status & DRIVER_OK != 0
    }

    /// Whether the driver has given up on the device.
    pub(super) fn is_failed(&self) -> bool {
        self.status & FAILED != 0
    }

    /// A 32-bit read; registers that do not exist, or are write-only, read 0.
    pub(super) fn read(&self, offset: u32) -> u32 {
        match offset {
            reg::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            reg::VIRTIO_MMIO_VERSION => VERSION,
            reg::VIRTIO_MMIO_DEVICE_ID => self.device_type,
            reg::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            reg::VIRTIO_MMIO_DEVICE_FEATURES => half(self.offered, self.device_features_sel),
            reg::VIRTIO_MMIO_QUEUE_NUM_MAX => self.queue().map_or(0, |queue| queue.max_size.into()),
            reg::VIRTIO_MMIO_QUEUE_READY => self.queue().map_or(0, |queue| queue.ready.into()),
            reg::VIRTIO_MMIO_STATUS => self.status,
            reg::VIRTIO_MMIO_SHM_LEN_LOW..=reg::VIRTIO_MMIO_SHM_BASE_HIGH => NO_REGION,
            _ => 0,
        }
    }

    /// A 32-bit write.
    pub(super) fn write(&mut self, offset: u32, value: u32) -> Effect {
        match offset {
            reg::VIRTIO_MMIO_STATUS => self.write_status(value),
            reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => set(&mut self.device_features_sel, value),
            reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => set(&mut self.driver_features_sel, value),
            reg::VIRTIO_MMIO_DRIVER_FEATURES => self.write_driver_features(value),
            reg::VIRTIO_MMIO_QUEUE_SEL => set(&mut self.queue_sel, value),
            reg::VIRTIO_MMIO_QUEUE_READY => self.write_queue_ready(value),
            _ => self.write_queue(offset, value),
        }
    }

    /// A queue was stopped at the driver's request.
    pub(super) fn queue_stopped(&mut self, queue: usize) {
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.ready = false;
        }
    }

    fn write_status(&mut self, value: u32) -> Effect {
        if value == 0 {
            return Effect::Reset;
        }
        if self.status & !value != 0 {
            return Effect::Ignored("a driver may not clear status bits (2.1.1)");
        }
        let mut added = value & DRIVER_STATUS_BITS & !self.status;
        if added & FEATURES_OK != 0 && !self.features_acceptable() {
            // §2.2.2: the driver reads the bit back to learn that its choice was refused.
            added &= !FEATURES_OK;
        }
        if added & DRIVER_OK != 0 && (self.status | added) & FEATURES_OK == 0 {
            self.status |= added & !DRIVER_OK;
            return Effect::Ignored("DRIVER_OK needs FEATURES_OK first (3.1.1)");
        }
        let was_started = self.is_started();
        self.status |= added;
        match (self.is_failed(), added & DRIVER_OK != 0) {
            (false, true) => Effect::Start,
            // §2.1: the driver has given up on the device, and may use its buffers for something
            // else. It must reset the device before it goes on (§2.1.1).
            (true, _) if was_started && added & FAILED != 0 => Effect::Stop,
            _ => Effect::None,
        }
    }

    fn features_acceptable(&self) -> bool {
        self.driver_features & !self.offered == 0 && self.driver_features & (1 << VIRTIO_F_VERSION_1) != 0
    }

    fn write_driver_features(&mut self, value: u32) -> Effect {
        if self.status & FEATURES_OK != 0 {
            return Effect::Ignored("features are settled after FEATURES_OK (3.1.1)");
        }
        let shift = match self.driver_features_sel {
            0 => 0,
            1 => 32,
            _ if value == 0 => return Effect::None,
            _ => return Effect::Ignored("no feature beyond bit 63 is offered"),
        };
        self.driver_features = self.driver_features & !(0xffff_ffff << shift) | u64::from(value) << shift;
        Effect::None
    }

    fn write_queue_ready(&mut self, value: u32) -> Effect {
        let started = self.is_started();
        let index = self.queue_sel as usize;
        let Some(queue) = self.queues.get_mut(index) else { return Effect::Ignored("no such queue is selected") };
        match (value & 1 != 0, queue.ready) {
            (false, true) if started => Effect::StopQueue(index),
            (true, false) if started => Effect::Ignored("queues are set up before DRIVER_OK (3.1.1)"),
            (ready, _) => {
                queue.ready = ready;
                Effect::None
            }
        }
    }

    fn write_queue(&mut self, offset: u32, value: u32) -> Effect {
        let started = self.is_started();
        let Some(queue) = self.queues.get_mut(self.queue_sel as usize) else {
            return Effect::Ignored("no such register, or no such queue is selected");
        };
        if queue.ready || started {
            return Effect::Ignored("no such register, or the queue is in use (4.2.2.2)");
        }
        match offset {
            reg::VIRTIO_MMIO_QUEUE_NUM => return queue.write_size(value),
            reg::VIRTIO_MMIO_QUEUE_DESC_LOW => set_low(&mut queue.desc, value),
            reg::VIRTIO_MMIO_QUEUE_DESC_HIGH => set_high(&mut queue.desc, value),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_low(&mut queue.avail, value),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_high(&mut queue.avail, value),
            reg::VIRTIO_MMIO_QUEUE_USED_LOW => set_low(&mut queue.used, value),
            reg::VIRTIO_MMIO_QUEUE_USED_HIGH => set_high(&mut queue.used, value),
            _ => return Effect::Ignored("no such register"),
        }
        Effect::None
    }

    fn queue(&self) -> Option<&QueueRegisters> {
        self.queues.get(self.queue_sel as usize)
    }
}

impl QueueRegisters {
    fn new(max_size: u16) -> Self {
        QueueRegisters { max_size, size: max_size, ready: false, desc: 0, avail: 0, used: 0 }
    }

    fn write_size(&mut self, value: u32) -> Effect {
        match u16::try_from(value) {
            Ok(size) if size.is_power_of_two() && size <= self.max_size => {
                self.size = size;
                Effect::None
            }
            _ => Effect::Ignored("a queue's size is a power of two and at most QueueNumMax (2.7)"),
        }
    }
}

fn half(value: u64, selector: u32) -> u32 {
    match selector {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set(register: &mut u32, value: u32) -> Effect {
    *register = value;
    Effect::None
}

fn set_low(address: &mut u64, value: u32) {
    *address = *address & !0xffff_ffff | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = *address & 0xffff_ffff | u64::from(value) << 32;
}

#[cfg(test)]
mod tests;
