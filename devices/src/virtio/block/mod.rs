//! A virtio disk (virtio 1.2 §5.2) on an image.
//!
//! Reads, writes, flush and "get ID"; discard and write-zeroes are not offered. There is one queue:
//! `request` parses its requests, and `transfer` moves their data between guest memory and the
//! image without a copy. The image ([`Image`]) is locked if and only if a guest may run.

mod config;
mod image;
mod request;
mod transfer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use self::config::ID_BYTES;
pub use self::image::{BlockError, Image, RawImage, SECTOR_BYTES, Vectors, format};
use super::device::{Chain, Done, VirtioDevice};
use super::mmio::VirtioMmio;
use crate::GuestMemory;
use crate::device::{DeviceId, LoadError, Offer, Storage};
use crate::saved::check;

/// A disk, to be put behind a [`VirtioMmio`].
pub struct Block {
    id: DeviceId,
    id_text: [u8; ID_BYTES],
    image: Arc<dyn Image>,
    /// The size of the disk that the guest was offered, in bytes: at most that of the image.
    capacity: AtomicU64,
}

/// The facts that must be the same at both sides of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockFacts {
    sectors: u64,
    read_only: bool,
}

impl Block {
    /// The `instance`th disk of a machine.
    #[must_use]
    pub fn new(instance: u32, image: Arc<dyn Image>) -> Self {
        let capacity = AtomicU64::new(image.bytes());
        Block { id: DeviceId { name: "virtio-blk", instance }, id_text: config::id(instance), image, capacity }
    }

    /// Puts the disk behind registers, with its queue in `memory`.
    ///
    /// # Errors
    ///
    /// The host is out of eventfds or threads.
    pub fn attach(self, memory: Arc<GuestMemory>) -> Result<VirtioMmio<Block>, BlockError> {
        let path = self.image.path().to_owned();
        VirtioMmio::new(self, memory).map_err(|source| BlockError::Host { path, source })
    }

    /// Size of the disk in bytes: that of the image when the guest booted, here or in another
    /// process.
    fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::SeqCst)
    }
}

impl VirtioDevice for Block {
    type Facts = BlockFacts;

    fn id(&self) -> DeviceId {
        self.id.clone()
    }

    fn label(&self) -> String {
        format!("disk image {}", self.image.path().display())
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn offer(&self) -> Offer {
        let read_only = self.image.is_read_only();
        Offer { features: config::features(read_only), capacity: Some(self.capacity()), read_only }
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[config::QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config::read(self.capacity(), offset, data);
    }

    fn serve(&self, _queue: usize, request: Chain<'_>) -> Done {
        request::serve(request, &*self.image, self.capacity(), &self.id_text)
    }

    fn flush(&self) -> io::Result<()> {
        self.image.sync_for_pause()
    }

    fn storage(&self) -> Option<&dyn Storage> {
        Some(&*self.image)
    }

    fn facts(&self) -> BlockFacts {
        BlockFacts { sectors: self.capacity() / SECTOR_BYTES, read_only: self.image.is_read_only() }
    }

    /// Accepts an image that has grown since the guest booted: the guest keeps its capacity, also
    /// over a reset.
    fn take_facts(&self, facts: &BlockFacts) -> Result<(), LoadError> {
        let sectors = self.image.bytes() / SECTOR_BYTES;
        let allowed = format!("the disk here has {sectors}: attach the same image");
        check(facts.sectors <= sectors, "capacity in sectors", facts.sectors, allowed)?;
        let read_only = self.image.is_read_only();
        let allowed = format!("the disk here has {read_only}: attach it the same way");
        check(facts.read_only == read_only, "read_only", facts.read_only, allowed)?;
        self.capacity.store(facts.sectors * SECTOR_BYTES, Ordering::SeqCst);
        self.image.guest_arrives();
        Ok(())
    }

    fn acquire(&self) -> io::Result<()> {
        self.image.lock(self.capacity())
    }

    fn release(&self) -> io::Result<()> {
        self.image.unlock()
    }
}

#[cfg(test)]
mod tests;
