//! The disk as a driver meets it: through registers, rings in guest memory and the image behind
//! it.
//!
//! [`Rig`] is a small machine: guest memory in three regions, a scratch image, the disk, and a
//! driver's side of the queue.

mod faults;
mod hostile;
mod image;
mod life;
mod missing;
mod requests;
mod state;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use virtio_bindings::virtio_mmio as reg;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::{Block, Image, RawImage};
use crate::GuestMemory;
use crate::bus::BusDevice;
use crate::device::{Device, Handle, Storage};
use crate::fault::{Direction, FaultControl};
use crate::virtio::VirtioMmio;

pub(super) const SECTORS: u64 = 128;
/// Two regions touch at this address; a buffer across it is two pieces of host memory.
const SEAM: u64 = 0x8_0000;
/// Far beyond the end of guest memory.
const NOWHERE: u64 = 0x4000_0000;

const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x4000;
const HEADER: u64 = 0x6000;
const STATUS: u64 = 0x7000;
const DATA: u64 = 0x1_0000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;
const FLUSH: u64 = 1 << 9;

const SOON: Duration = Duration::from_secs(20);

/// A scratch image that is removed when the test ends.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    /// An image of which every sector begins with its own number.
    pub(super) fn new(bytes: u64) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ferry-devices-{}-{}.img", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let mut content = vec![0; bytes as usize];
        for (sector, data) in content.chunks_mut(512).enumerate() {
            data[0] = sector as u8;
        }
        fs::write(&path, content).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn memory() -> Arc<GuestMemory> {
    let ranges =
        [(GuestAddress(0), SEAM as usize), (GuestAddress(SEAM), 0x8_0000), (GuestAddress(0x20_0000), 0x1_0000)];
    Arc::new(GuestMemory::from_ranges(&ranges).unwrap())
}

fn disk(image: &Scratch, read_only: bool, memory: &Arc<GuestMemory>) -> Arc<VirtioMmio<Block>> {
    attach(raw(image, read_only, no_faults()), memory)
}

fn raw(image: &Scratch, read_only: bool, faults: Arc<FaultControl>) -> Arc<RawImage> {
    Arc::new(RawImage::open(&image.0, read_only, faults).unwrap())
}

fn attach(image: Arc<dyn Image>, memory: &Arc<GuestMemory>) -> Arc<VirtioMmio<Block>> {
    Arc::new(Block::new(0, image).attach(Arc::clone(memory)).unwrap())
}

fn no_faults() -> Arc<FaultControl> {
    Arc::new(FaultControl::new(Direction::Outgoing))
}

fn write(disk: &VirtioMmio<Block>, register: u32, value: u32) {
    disk.write(register.into(), &value.to_le_bytes());
}

fn read(disk: &VirtioMmio<Block>, register: u32) -> u32 {
    let mut value = [0; 4];
    disk.read(register.into(), &mut value);
    u32::from_le_bytes(value)
}

/// Resets the disk, sets its queue up and starts it.
fn configure(disk: &VirtioMmio<Block>, features: u64, queue_size: u32) {
    for status in [0, 1, 3] {
        write(disk, reg::VIRTIO_MMIO_STATUS, status);
    }
    for half in [0, 1] {
        write(disk, reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
        write(disk, reg::VIRTIO_MMIO_DRIVER_FEATURES, (features >> (32 * half)) as u32);
    }
    write(disk, reg::VIRTIO_MMIO_STATUS, 0xb);
    assert_eq!(read(disk, reg::VIRTIO_MMIO_STATUS), 0xb, "features accepted");
    write(disk, reg::VIRTIO_MMIO_QUEUE_SEL, 0);
    write(disk, reg::VIRTIO_MMIO_QUEUE_NUM, queue_size);
    write(disk, reg::VIRTIO_MMIO_QUEUE_DESC_LOW, DESC as u32);
    write(disk, reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, AVAIL as u32);
    write(disk, reg::VIRTIO_MMIO_QUEUE_USED_LOW, USED as u32);
    write(disk, reg::VIRTIO_MMIO_QUEUE_READY, 1);
    write(disk, reg::VIRTIO_MMIO_STATUS, 0xf);
    assert_eq!(read(disk, reg::VIRTIO_MMIO_STATUS), 0xf, "running");
}

/// Address, length and flags; `NEXT` is added where it belongs.
pub(super) type Buffer = (u64, u32, u16);

pub(super) struct Rig {
    pub(super) memory: Arc<GuestMemory>,
    pub(super) disk: Arc<VirtioMmio<Block>>,
    pub(super) image: Scratch,
    raw: Arc<RawImage>,
    faults: Arc<FaultControl>,
    pub(super) size: u16,
    pub(super) avail: u16,
}

impl Rig {
    /// A writable disk of [`SECTORS`], acquired, with a driver that took flush and event indexes.
    fn new() -> Self {
        Rig::with(false, VERSION_1 | EVENT_IDX | FLUSH)
    }

    fn with(read_only: bool, features: u64) -> Self {
        let memory = memory();
        let image = Scratch::new(SECTORS * 512);
        let faults = no_faults();
        let raw = raw(&image, read_only, faults.clone());
        let disk = attach(raw.clone(), &memory);
        configure(&disk, features, 16);
        let mut rig = Rig { memory, disk, image, raw, faults, size: 16, avail: 0 };
        rig.disk.acquire().unwrap();
        rig.disk.resume().unwrap();
        rig
    }

    fn put<T: vm_memory::ByteValued>(&self, value: T, address: u64) {
        self.memory.write_obj(value, GuestAddress(address)).unwrap();
    }

    fn get<T: vm_memory::ByteValued>(&self, address: u64) -> T {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }

    fn descriptor(&self, index: u16, (address, len, flags): Buffer, next: u16) {
        let at = DESC + u64::from(index) * 16;
        self.put(address, at);
        self.put(len, at + 8);
        self.put(flags, at + 12);
        self.put(next, at + 14);
    }

    /// Puts a chain into descriptors from `first` on.
    fn chain(&self, first: u16, buffers: &[Buffer]) {
        for (index, buffer) in (first..).zip(buffers) {
            let last = index == first + buffers.len() as u16 - 1;
            let flags = buffer.2 | if last { 0 } else { NEXT };
            self.descriptor(index, (buffer.0, buffer.1, flags), index + 1);
        }
    }

    /// Makes a chain available, without a kick.
    fn offer(&mut self, head: u16) {
        self.offer_all(&[head]);
    }

    /// Makes chains available at the same moment, without a kick.
    fn offer_all(&mut self, heads: &[u16]) {
        for head in heads {
            self.put(*head, AVAIL + 4 + 2 * u64::from(self.avail % self.size));
            self.avail = self.avail.wrapping_add(1);
        }
        self.put(self.avail, AVAIL + 2);
    }

    fn kick(&self) {
        write(&self.disk, reg::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    }

    fn header(&self, kind: u32, sector: u64) {
        self.put(kind, HEADER);
        self.put(0u32, HEADER + 4);
        self.put(sector, HEADER + 8);
    }

    fn used(&self) -> u16 {
        self.get(USED + 2)
    }

    fn wait_used(&self) {
        wait_for("the used ring", || self.used() == self.avail);
    }

    /// The newest entry of the used ring: head and length.
    fn newest(&self) -> (u32, u32) {
        let at = USED + 4 + 8 * u64::from(self.avail.wrapping_sub(1) % self.size);
        (self.get(at), self.get(at + 4))
    }

    /// One request from header to status: the status byte and the length in the used ring.
    fn request(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> (u8, u32) {
        self.header(kind, sector);
        let buffers: Vec<_> =
            [&[(HEADER, 16, 0)], data, &[(STATUS, 1, WRITE)]].into_iter().flatten().copied().collect();
        self.raw(&buffers)
    }

    /// One chain of any buffers.
    fn raw(&mut self, buffers: &[Buffer]) -> (u8, u32) {
        self.put(0xaau8, STATUS);
        self.chain(0, buffers);
        self.offer(0);
        self.kick();
        self.wait_used();
        assert_eq!(self.newest().0, 0);
        (self.get(STATUS), self.newest().1)
    }

    /// Clears the bitmap and tells what was marked, as page numbers.
    fn harvest(&self) -> Vec<u64> {
        let mut pages = Vec::new();
        for region in self.memory.iter() {
            for offset in (0..region.len()).step_by(4096) {
                if region.bitmap().dirty_at(offset as usize) {
                    pages.push((region.start_addr().0 + offset) / 4096);
                }
            }
            (**region).bitmap().reset();
        }
        pages
    }
}

fn wait_for(what: &str, ready: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !ready() {
        assert!(Instant::now() < deadline, "{what} never came");
        thread::yield_now();
    }
}
