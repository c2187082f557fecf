//! Notifications from a virtio device to its driver: interrupts, configuration changes, and the
//! need for a reset.
//!
//! The transport shows them in registers; the device's threads cause them. Nothing here takes a
//! lock, so that a vCPU that reads or acknowledges an interrupt never waits for a device.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use vmm_sys_util::eventfd::EventFd;

use crate::InterruptLine;

/// Interrupt status, configuration generation and the `DEVICE_NEEDS_RESET` status bit of one
/// device.
#[derive(Default)]
pub(super) struct Signals {
    line: InterruptLine,
    interrupt_status: AtomicU32,
    config_generation: AtomicU32,
    needs_reset: AtomicBool,
}

/// The bits that an interrupt status may have (§4.2.2, `InterruptStatus`).
pub(super) const INTERRUPT_BITS: u32 = VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG;

impl Signals {
    /// The interrupt line: one edge for every interrupt.
    #[must_use]
    pub(super) fn interrupt(&self) -> &InterruptLine {
        &self.line
    }

    /// Sends a used buffer notification (§2.3).
    pub(super) fn used_buffers(&self) {
        self.raise(VIRTIO_MMIO_INT_VRING);
    }

    /// The device cannot go on until the driver resets it (§2.1.2); the driver is notified by a
    /// configuration change.
    pub(super) fn need_reset(&self) {
        self.needs_reset.store(true, Ordering::SeqCst);
        self.config_generation.fetch_add(1, Ordering::SeqCst);
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    /// Whether the driver has to reset the device.
    #[must_use]
    pub(super) fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    pub(super) fn interrupt_status(&self) -> u32 {
        self.interrupt_status.load(Ordering::SeqCst)
    }

    pub(super) fn config_generation(&self) -> u32 {
        self.config_generation.load(Ordering::SeqCst)
    }

    /// The driver has handled these interrupts.
    pub(super) fn acknowledge(&self, bits: u32) {
        self.interrupt_status.fetch_and(!bits, Ordering::SeqCst);
    }

    /// Sets the values after a reset, or from a saved state; raises no interrupt.
    pub(super) fn set(&self, interrupt_status: u32, config_generation: u32, needs_reset: bool) {
        self.interrupt_status.store(interrupt_status, Ordering::SeqCst);
        self.config_generation.store(config_generation, Ordering::SeqCst);
        self.needs_reset.store(needs_reset, Ordering::SeqCst);
    }

    /// Raises a pending interrupt again: an edge may have come after the interrupt controller's
    /// state was saved, and a spurious one is harmless.
    pub(super) fn raise_pending(&self) {
        let pending = self.interrupt_status();
        if pending != 0 {
            self.raise(pending);
        }
    }

    fn raise(&self, bits: u32) {
        self.interrupt_status.fetch_or(bits, Ordering::SeqCst);
        self.line.pulse();
    }
}

/// Signals a non-blocking eventfd. A write fails only when the counter is full, and then the reader
/// has yet to read it.
pub(super) fn signal(event: &EventFd) {
    let _ = event.write(1);
}
