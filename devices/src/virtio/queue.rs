//! A queue between the registers that describe it and the `virtio-queue` type that works on it.
//!
//! The transport calls [`build`] when the driver sets `DRIVER_OK` and again when a saved state is
//! loaded; both need the same checks against guest memory.

use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueState, QueueT};

use super::registers::QueueRegisters;
use crate::GuestMemory;

/// How far a device has come in a queue (§2.7): the next entry of the available ring that it will
/// read, and the next entry of the used ring that it will fill. Both are free-running, modulo
/// 65,536.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueuePosition {
    /// Next index into the available ring.
    pub next_avail: u16,
    /// Next index into the used ring.
    pub next_used: u16,
}

/// A queue that cannot work as the driver, or a saved state, describes it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// A field that `virtio-queue` refuses: the size, or the alignment of an address.
    #[error("queue {queue}: {reason}")]
    Invalid {
        /// Which queue.
        queue: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Rings that are not wholly in guest memory.
    #[error(
        "queue {queue}: its rings ({desc:#x}, {avail:#x}, {used:#x}) do not lie in guest memory: check that both sides have the \
         same memory"
    )]
    NotInMemory {
        /// Which queue.
        queue: usize,
        /// Address of the descriptor table.
        desc: u64,
        /// Address of the available ring.
        avail: u64,
        /// Address of the used ring.
        used: u64,
    },
}

/// Builds the queue that `registers` describe, at `position`, checking everything that does not
/// depend on the memory's content.
pub(super) fn build(
    queue: usize,
    registers: &QueueRegisters,
    position: QueuePosition,
    features: u64,
    memory: &GuestMemory,
) -> Result<Queue, QueueError> {
    let built = Queue::try_from(QueueState {
        max_size: registers.max_size,
        next_avail: position.next_avail,
        next_used: position.next_used,
        event_idx_enabled: features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0,
        size: registers.size,
        ready: true,
        desc_table: registers.desc,
        avail_ring: registers.avail,
        used_ring: registers.used,
    })
    .map_err(|error| QueueError::Invalid { queue, reason: error.to_string() })?;
    if registers.avail == 0 {
        return Err(QueueError::Invalid { queue, reason: "its available ring has no address".to_owned() });
    }
    if built.is_valid(memory) {
        Ok(built)
    } else {
        let QueueRegisters { desc, avail, used, .. } = *registers;
        Err(QueueError::NotInMemory { queue, desc, avail, used })
    }
}
