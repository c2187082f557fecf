//! Virtio: devices that share queues in guest memory with a driver (virtio 1.2), here over
//! memory-mapped registers.
//!
//! [`VirtioMmio`] is the transport (§4.2.2): registers, status, features, saved state, and a
//! worker thread for each queue (`worker`), which takes requests from its ring in batches (`ring`).
//! It drives any [`VirtioDevice`], such as [`block::Block`], which defines the device's features
//! and configuration space and serves its requests.

pub mod block;
mod device;
mod mmio;
mod queue;
mod registers;
mod ring;
mod signals;
mod state;
#[cfg(test)]
mod tests;
mod worker;

pub use self::block::{Block, BlockError};
pub use self::device::{Chain, Done, VirtioDevice};
pub use self::mmio::VirtioMmio;
pub use self::queue::{QueueError, QueuePosition};
pub use self::registers::{MMIO_LEN, QUEUE_NOTIFY};
