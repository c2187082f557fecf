//! A queue as its worker sees it, with the state of the work that other threads read.
//!
//! One lock guards a [`Ring`]. The worker takes requests out of it and puts results into it, and
//! releases the lock in between, while the device serves them. So other threads always read
//! consistent indexes.

use std::io;
use std::sync::atomic::Ordering;

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{DescriptorChain, Error, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::device::Done;
use super::queue::QueuePosition;
use crate::GuestMemory;

/// Requests taken at once.
const BATCH: u16 = 16;

/// The queue, and the orders for its worker.
#[derive(Default)]
pub(super) struct Ring {
    /// The queue, between the driver's `DRIVER_OK` and a reset.
    pub(super) queue: Option<Queue>,
    /// Requests taken and not completed.
    pub(super) popped: u16,
    /// The features that the driver took.
    pub(super) features: u64,
    /// Requests are served: between `resume` and `quiesce`.
    pub(super) run: bool,
    /// The worker has ended.
    pub(super) gone: bool,
    /// The flush of acknowledged data, for `quiesce`.
    pub(super) sync: SyncStep,
}

/// The state of the flush of a `quiesce`.
#[derive(Debug, Default)]
pub(super) enum SyncStep {
    /// No flush is requested.
    #[default]
    None,
    /// The worker is to flush.
    Wanted,
    /// The worker has flushed, with this result.
    Done(io::Result<()>),
}

impl Ring {
    /// The position that the next `save` would record: the oldest request that is not completed.
    pub(super) fn position(&self) -> Option<QueuePosition> {
        let queue = self.queue.as_ref()?;
        let next_avail = queue.next_avail().wrapping_sub(self.popped);
        Some(QueuePosition { next_avail, next_used: queue.next_used() })
    }

    /// Takes up to [`BATCH`] requests. When there is none, notifications are enabled for the next.
    ///
    /// # Errors
    ///
    /// The driver's rings are invalid; only a reset helps.
    pub(super) fn pop<'m>(&mut self, memory: &'m GuestMemory) -> Result<Vec<DescriptorChain<&'m GuestMemory>>, Error> {
        let Some(queue) = &mut self.queue else { return Ok(Vec::new()) };
        let mut waiting = waiting(queue, memory)?;
        if waiting == 0 && queue.enable_notification(memory)? {
            waiting = self::waiting(queue, memory)?;
        }
        if waiting == 0 {
            return Ok(Vec::new());
        }
        queue.disable_notification(memory)?;
        let count = waiting.min(BATCH);
        let chains: Vec<_> = queue.iter(memory)?.take(count.into()).collect();
        // Not `count`: a driver may have set its index back meanwhile.
        self.popped = chains.len() as u16;
        Ok(chains)
    }

    /// Writes the last bytes, puts the requests into the used ring and returns whether the driver
    /// wants an interrupt.
    ///
    /// # Errors
    ///
    /// The driver's rings are invalid; only a reset helps.
    pub(super) fn complete(&mut self, memory: &GuestMemory, done: &[Done]) -> Result<bool, Error> {
        let Some(queue) = &mut self.queue else { return Ok(false) };
        if done.is_empty() {
            return Ok(false);
        }
        for request in done {
            let len = match request.last {
                None => request.len,
                Some((address, byte)) if memory.write_obj(byte, address).is_ok() => request.len + 1,
                Some(_) => 0,
            };
            queue.add_used(memory, request.head, len)?;
            self.popped -= 1;
        }
        let wanted = queue.needs_notification(memory)?;
        Ok(wanted && (queue.event_idx_enabled() || interrupts_wanted(queue, memory)?))
    }

    /// Returns requests that were taken and not begun to the available ring.
    pub(super) fn give_back(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.set_next_avail(queue.next_avail().wrapping_sub(self.popped));
        }
        self.popped = 0;
    }
}

/// Requests in the available ring that were not taken yet; `Queue::iter` refuses more than the
/// ring has entries.
fn waiting(queue: &Queue, memory: &GuestMemory) -> Result<u16, Error> {
    Ok(queue.avail_idx(memory, Ordering::Acquire)?.0.wrapping_sub(queue.next_avail()))
}

/// §2.7.7: without event indexes, a flag of the driver suppresses interrupts.
fn interrupts_wanted(queue: &Queue, memory: &GuestMemory) -> Result<bool, Error> {
    let flags: u16 = memory.load(GuestAddress(queue.avail_ring()), Ordering::Relaxed).map_err(Error::GuestMemory)?;
    Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
}
