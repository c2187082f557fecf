//! A virtio disk (virtio 1.2 §5.2) on a raw image.
//!
//! Reads, writes, flush and "get ID"; discard and write-zeroes are not offered. One queue, one
//! worker thread (`worker`), which takes requests from the ring in batches (`ring`), takes each
//! apart (`request`) and moves its data between guest memory and the image without a copy
//! (`transfer`). The image's lock (`image`, `lock`, `backing`) is held exactly while a guest may
//! run.

mod backing;
mod config;
pub mod format;
mod image;
mod lock;
mod request;
mod ring;
mod sign;
mod transfer;
mod worker;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

pub use self::image::BlockError;
use self::image::{Image, SECTOR_BYTES};
use self::ring::SyncStep;
use self::worker::{Patience, Worker};
use super::{QueuePosition, Signals, VirtioDevice};
use crate::GuestMemory;
use crate::device::{DeviceId, LoadError};
use crate::fault::FaultControl;
use crate::saved::check;

/// How long a reset, or a load, waits for a request at hand.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// How long a pause waits for requests and for the image to be durable, together.
const QUIESCE_DEADLINE: Duration = Duration::from_secs(30);

/// A disk, to be put behind a [`VirtioMmio`](super::VirtioMmio).
pub struct Block {
    id: DeviceId,
    worker: Worker,
}

/// What must be the same wherever the guest goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockFacts {
    sectors: u64,
    read_only: bool,
}

impl Block {
    /// The `instance`th disk of a machine, on the raw image at `path`. Takes no lock and serves no
    /// request before `acquire`. `faults` may spoil what it asks of the image.
    ///
    /// # Errors
    ///
    /// The image cannot be opened, is not a file or block device, or is not made of whole sectors;
    /// or the host is out of eventfds or threads.
    pub fn open(
        instance: u32,
        path: &Path,
        read_only: bool,
        memory: Arc<GuestMemory>,
        faults: Arc<FaultControl>,
    ) -> Result<Self, BlockError> {
        let image = Image::open(path, read_only, faults)?;
        let worker = Worker::start(memory, image, config::id(instance))
            .map_err(|source| BlockError::Host { path: path.to_owned(), source })?;
        Ok(Block { id: DeviceId { name: "virtio-blk", instance }, worker })
    }

    /// Refuses an image whose content is of another format than raw.
    ///
    /// For a guest that is booted. One that arrives brings its disk from a process where this was
    /// looked at; and a host that reads the image before the guest arrives may keep what the
    /// source's guest changes after that.
    ///
    /// # Errors
    ///
    /// The image holds another format, or cannot be read.
    pub fn check_raw(&self) -> Result<(), BlockError> {
        self.worker.shared.image.check_raw()
    }

    /// Size of the disk in bytes: that of the image when the guest booted, wherever that was.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.worker.shared.image.capacity()
    }

    /// Begins to make durable what the guest has written so far, and does not wait for it: a pause
    /// that comes soon then has less to do. Takes no lock.
    pub fn flush_ahead(&self) {
        self.worker.shared.image.flush_ahead();
    }

    /// Makes a `quiesce` that waits fail at once: the pause is no longer wanted. Takes no lock;
    /// later calls are not affected.
    pub fn interrupt(&self) {
        self.worker.shared.interrupt();
    }

    /// Whether the disk refuses writes.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.worker.shared.image.read_only
    }

    /// Where the image was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.worker.shared.image.path()
    }

    /// For a source: lets the destination find `nonce` in the image's file, if it has opened the
    /// same, until [`Block::end_proof`].
    ///
    /// # Errors
    /// When the file system gives no lock, or another process has all of the file locked.
    pub fn show_proof(&self, nonce: u64) -> io::Result<()> {
        self.worker.shared.image.show_proof(nonce)
    }

    /// Ends what [`Block::show_proof`] began.
    ///
    /// # Errors
    /// When the file system does not take the lock back.
    pub fn end_proof(&self, nonce: u64) -> io::Result<()> {
        self.worker.shared.image.end_proof(nonce)
    }

    /// For a destination: a guest is about to come. Boots of the image are kept away, by any path
    /// and with any record, from the next [`Block::follow_handover`] until this process has the
    /// image's lock, or [`Block::leave_handover`]. Asks no storage.
    pub fn expect_handover(&self) {
        self.worker.shared.image.expect_handover();
    }

    /// The guest is another process's for good, or has not come: from the next
    /// [`Block::follow_handover`] on this process keeps no boot away any more; whether it does so
    /// until then. Asks no storage.
    #[must_use]
    pub fn leave_handover(&self) -> bool {
        self.worker.shared.image.leave_handover()
    }

    /// Carries out the newest of the two. May wait for storage.
    pub fn follow_handover(&self) {
        self.worker.shared.image.follow_handover();
    }

    /// For a destination: whether a source shows `nonce` in the very file that this disk has.
    ///
    /// # Errors
    /// When the file system does not say which locks there are.
    pub fn sees_proof(&self, nonce: u64) -> io::Result<bool> {
        self.worker.shared.image.sees_proof(nonce)
    }
}

impl VirtioDevice for Block {
    type Facts = BlockFacts;

    fn id(&self) -> DeviceId {
        self.id.clone()
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn offered_features(&self) -> u64 {
        config::features(self.is_read_only())
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[config::QUEUE_SIZE]
    }

    fn memory(&self) -> &GuestMemory {
        &self.worker.shared.memory
    }

    fn signals(&self) -> &Signals {
        &self.worker.shared.signals
    }

    fn kick(&self, queue: usize) -> Option<&EventFd> {
        (queue == 0).then_some(&self.worker.shared.kick)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config::read(&self.worker.shared.image, offset, data);
    }

    fn start(&self, features: u64, queues: Vec<Option<Queue>>) -> io::Result<()> {
        let shared = &self.worker.shared;
        let patience = Patience::of(STOP_DEADLINE);
        let mut ring = shared.wait(shared.lock_within(patience)?, patience, |ring| ring.popped == 0)?;
        ring.queue = queues.into_iter().next().flatten();
        ring.write_through = features & (1 << VIRTIO_BLK_F_FLUSH) == 0;
        drop(ring);
        shared.wake();
        Ok(())
    }

    fn stop(&self) -> io::Result<()> {
        let shared = &self.worker.shared;
        let patience = Patience::of(STOP_DEADLINE);
        let mut ring = shared.lock_within(patience)?;
        ring.queue = None;
        shared.wait(ring, patience, |ring| ring.popped == 0).map(drop)
    }

    /// There is only one.
    fn stop_queue(&self, _queue: usize) -> io::Result<()> {
        self.stop()
    }

    fn position(&self, _queue: usize) -> Option<QueuePosition> {
        self.worker.shared.lock().position()
    }

    fn facts(&self) -> BlockFacts {
        BlockFacts { sectors: self.capacity_bytes() / SECTOR_BYTES, read_only: self.is_read_only() }
    }

    /// An image that has grown since the guest booted does: the guest keeps its capacity, also
    /// over a reset.
    fn take_facts(&self, facts: &BlockFacts) -> Result<(), LoadError> {
        let image = &self.worker.shared.image;
        let sectors = image.bytes() / SECTOR_BYTES;
        let allowed = format!("the disk here has {sectors}: attach the same image");
        check(facts.sectors <= sectors, "capacity in sectors", facts.sectors, allowed)?;
        let allowed = format!("the disk here has {}: attach it the same way", image.read_only);
        check(facts.read_only == image.read_only, "read_only", facts.read_only, allowed)?;
        image.arrives(facts.sectors * SECTOR_BYTES);
        Ok(())
    }

    fn quiesce(&self) -> io::Result<()> {
        let shared = &self.worker.shared;
        let patience = shared.patience_until_interrupted(QUIESCE_DEADLINE);
        shared.runs.store(false, Ordering::SeqCst);
        let mut ring = shared.lock_within(patience)?;
        ring.run = false;
        ring.sync = SyncStep::Wanted;
        shared.wake();
        let finished = |ring: &ring::Ring| ring.popped == 0 && matches!(ring.sync, SyncStep::Done(_));
        let mut ring = shared.wait(ring, patience, finished)?;
        match std::mem::take(&mut ring.sync) {
            SyncStep::Done(result) => result,
            SyncStep::None | SyncStep::Wanted => Ok(()),
        }
    }

    /// Quiesces first if that was not done: without the lock, no request may be served.
    fn release(&self) -> io::Result<()> {
        if self.worker.shared.lock_within(Patience::of(STOP_DEADLINE))?.run {
            self.quiesce()?;
        }
        self.worker.shared.image.unlock()
    }

    fn acquire(&self) -> io::Result<()> {
        self.worker.shared.image.lock()
    }

    /// Looks at the queue once, whether or not a kick is waiting: one may have been consumed
    /// before a migration.
    fn resume(&self) -> io::Result<()> {
        let shared = &self.worker.shared;
        if shared.runs.load(Ordering::SeqCst) {
            // It was not quiesced: what it does it goes on doing, be it that it waits for a page
            // which is on its way.
            return Ok(());
        }
        // After a pause that was given up, the worker may still be in a request or in a flush, and
        // goes on from there.
        let patience = Patience::of(STOP_DEADLINE);
        let mut ring = shared.wait(shared.lock_within(patience)?, patience, |ring| !ring.gone)?;
        ring.run = true;
        ring.sync = SyncStep::None;
        shared.runs.store(true, Ordering::SeqCst);
        drop(ring);
        shared.wake();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
