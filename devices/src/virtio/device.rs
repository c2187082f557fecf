//! The interface of a virtio device to its transport, and its requests.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use virtio_queue::DescriptorChain;
use vm_memory::GuestAddress;

use crate::GuestMemory;
use crate::device::{DeviceId, LoadError, Offer, Storage};

/// A kind of virtio device, behind its transport.
///
/// The workers of its queues call [`serve`](VirtioDevice::serve) and
/// [`flush`](VirtioDevice::flush), only between `resume` and the end of `quiesce`. A vCPU's thread
/// reads the configuration space; the rest is called from the machine's thread.
pub trait VirtioDevice: Send + Sync + 'static {
    /// The facts about the backend in a saved state, by which a load onto a different one is
    /// refused; `()` for a device without one.
    type Facts: Serialize + DeserializeOwned;

    /// Which device this is.
    fn id(&self) -> DeviceId;

    /// A description for messages: `disk image /images/a.img`.
    fn label(&self) -> String {
        self.id().to_string()
    }

    /// The virtio device ID (§5).
    fn device_type(&self) -> u32;

    /// The offer that both sides of a migration must agree on: all feature bits offered to the
    /// driver, `VIRTIO_F_VERSION_1` among them (§2.2), and the properties of its kind.
    fn offer(&self) -> Offer;

    /// The largest size of each queue, a power of two.
    fn queue_max_sizes(&self) -> &[u16];

    /// Fills `data` from the device's configuration space at `offset`; zeros beyond its end
    /// (§2.5).
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Executes a request of this queue.
    fn serve(&self, queue: usize, request: Chain<'_>) -> Done;

    /// Makes acknowledged writes durable, at the end of a pause. No request is in flight.
    ///
    /// # Errors
    ///
    /// They cannot be made durable.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    /// Storage that other processes may open, too.
    fn storage(&self) -> Option<&dyn Storage> {
        None
    }

    /// The facts about the backend for a saved state.
    fn facts(&self) -> Self::Facts;

    /// Adopts the facts of a saved state, so that the guest sees the same backend.
    ///
    /// # Errors
    ///
    /// This backend does not match; the error names the fact, and nothing has changed.
    fn take_facts(&self, facts: &Self::Facts) -> Result<(), LoadError>;

    /// See [`Device::acquire`](crate::Device::acquire).
    ///
    /// # Errors
    ///
    /// The backend is not available, for example because another process holds it.
    fn acquire(&self) -> io::Result<()> {
        Ok(())
    }

    /// See [`Device::release`](crate::Device::release). No request is in flight.
    ///
    /// # Errors
    ///
    /// The host refuses.
    fn release(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A request as the driver has put it into a queue.
#[derive(Debug)]
pub struct Chain<'a> {
    /// Its descriptors, none of which has been looked at.
    pub descriptors: DescriptorChain<&'a GuestMemory>,
    /// Guest memory, where its buffers are.
    pub memory: &'a GuestMemory,
    /// The features that the driver took.
    pub features: u64,
}

/// A request that was served or refused, to be put into the used ring.
#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    /// The chain's head.
    pub head: u16,
    /// Bytes that were written to guest memory.
    pub len: u32,
    /// One byte more, written when the request is completed and not before: a status. Where it
    /// cannot be written, the request counts as one that wrote nothing.
    pub last: Option<(GuestAddress, u8)>,
    /// How much work it was, in bytes moved.
    pub cost: u64,
    /// What was wrong with it, for the log.
    pub error: Option<String>,
}
