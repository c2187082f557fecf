//! Virtio: devices that share queues in guest memory with a driver (virtio 1.2), here over
//! memory-mapped registers.
//!
//! [`VirtioMmio`] is the transport (§4.2.2): registers, status, features, saved state. It drives
//! anything that implements [`VirtioDevice`], such as [`block::Block`]. The two meet only through
//! that trait and through [`Signals`].

pub mod block;
mod mmio;
mod queue;
mod registers;
mod signals;
mod state;

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

pub use self::block::{Block, BlockError};
pub use self::mmio::VirtioMmio;
pub use self::queue::{QueueError, QueuePosition};
pub use self::registers::{MMIO_LEN, QUEUE_NOTIFY};
pub use self::signals::Signals;
use crate::GuestMemory;
use crate::device::{DeviceId, LoadError};

/// What a kind of virtio device is made of, behind its transport.
///
/// The transport calls [`start`](VirtioDevice::start), [`stop`](VirtioDevice::stop) and
/// [`stop_queue`](VirtioDevice::stop_queue) from a vCPU's thread, the rest of the life cycle from
/// the machine's thread. A device works on its queues only between `start` and `stop`, and only
/// between `acquire` and `quiesce`.
pub trait VirtioDevice: Send + Sync + 'static {
    /// What a saved state says about the backend, so that a load onto a different one is refused.
    type Facts: Serialize + DeserializeOwned;

    /// Which device this is.
    fn id(&self) -> DeviceId;

    /// The virtio device ID (§5).
    fn device_type(&self) -> u32;

    /// All feature bits offered to the driver, `VIRTIO_F_VERSION_1` among them (§2.2).
    fn offered_features(&self) -> u64;

    /// The largest size of each queue, a power of two.
    fn queue_max_sizes(&self) -> &[u16];

    /// Guest memory, where the queues are.
    fn memory(&self) -> &GuestMemory;

    /// How the device tells its driver that something happened.
    fn signals(&self) -> &Signals;

    /// Signalled when the driver has put work into this queue; `None` for a queue that does not
    /// exist.
    fn kick(&self, queue: usize) -> Option<&EventFd>;

    /// Fills `data` from the device's configuration space at `offset`; zeros beyond its end
    /// (§2.5).
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Takes the queues that the driver set up, with `features` negotiated. A queue that it left
    /// out is `None`.
    ///
    /// # Errors
    ///
    /// Earlier work on the queues has not ended.
    fn start(&self, features: u64, queues: Vec<Option<Queue>>) -> io::Result<()>;

    /// Gives all queues up, after waiting for what is in flight; guest memory is not touched from
    /// then on.
    ///
    /// # Errors
    ///
    /// What is in flight did not end in time.
    fn stop(&self) -> io::Result<()>;

    /// As [`stop`](VirtioDevice::stop), for one queue.
    ///
    /// # Errors
    ///
    /// What is in flight did not end in time.
    fn stop_queue(&self, queue: usize) -> io::Result<()>;

    /// Where the device stands in a started queue: at the oldest request that it has not
    /// completed.
    fn position(&self, queue: usize) -> Option<QueuePosition>;

    /// What the saved state should say about the backend.
    fn facts(&self) -> Self::Facts;

    /// Makes this backend, to its guest, the one that a state was saved with.
    ///
    /// # Errors
    ///
    /// It cannot be; the error names the fact, and nothing has changed.
    fn take_facts(&self, facts: &Self::Facts) -> Result<(), LoadError>;

    /// See [`Device::quiesce`](crate::Device::quiesce).
    ///
    /// # Errors
    ///
    /// Work in flight did not end in time, or could not be made durable.
    fn quiesce(&self) -> io::Result<()>;

    /// See [`Device::release`](crate::Device::release).
    ///
    /// # Errors
    ///
    /// The host refuses.
    fn release(&self) -> io::Result<()>;

    /// See [`Device::resume`](crate::Device::resume).
    ///
    /// # Errors
    /// When background work cannot start.
    fn resume(&self) -> io::Result<()>;

    /// See [`Device::acquire`](crate::Device::acquire).
    ///
    /// # Errors
    ///
    /// The backend is not available, for example because another process holds it.
    fn acquire(&self) -> io::Result<()>;
}
