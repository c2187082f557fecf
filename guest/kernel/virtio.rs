//! A driver for one virtio block device behind virtio-mmio (virtio 1.2, sections 4.2 and 5.2): one
//! split queue, several requests in flight. `disk.rs` decides what to request.

use core::sync::atomic::{Ordering, fence};

use crate::cpu::Shared;

/// Requests that can be in flight.
pub const SLOTS: usize = 8;
/// Bytes that one request moves.
pub const BLOCK: usize = 4096;
pub const SECTOR: usize = 512;

const QUEUE_SIZE: usize = 32;
/// A request's header, data and status.
const CHAIN: usize = 3;

const MAGIC: usize = 0x000;
const VERSION: usize = 0x004;
const DEVICE_ID: usize = 0x008;
const DEVICE_FEATURES: usize = 0x010;
const DEVICE_FEATURES_SELECT: usize = 0x014;
const DRIVER_FEATURES: usize = 0x020;
const DRIVER_FEATURES_SELECT: usize = 0x024;
const QUEUE_SELECT: usize = 0x030;
const QUEUE_SIZE_MAX: usize = 0x034;
const QUEUE_SIZE_REGISTER: usize = 0x038;
const QUEUE_READY: usize = 0x044;
const QUEUE_NOTIFY: usize = 0x050;
const INTERRUPT_STATUS: usize = 0x060;
const INTERRUPT_ACKNOWLEDGE: usize = 0x064;
const STATUS: usize = 0x070;
const QUEUE_DESCRIPTORS: usize = 0x080;
const QUEUE_DRIVER: usize = 0x090;
const QUEUE_DEVICE: usize = 0x0a0;
const CAPACITY: usize = 0x100;

const STATUS_ACKNOWLEDGE: u32 = 1;
const STATUS_DRIVER: u32 = 2;
const STATUS_DRIVER_OK: u32 = 4;
const STATUS_FEATURES_OK: u32 = 8;

const FEATURE_READ_ONLY: u64 = 1 << 5;
const FEATURE_FLUSH: u64 = 1 << 9;
const FEATURE_VERSION_1: u64 = 1 << 32;

const NEXT: u16 = 1;
const DEVICE_WRITES: u16 = 2;

/// VIRTIO_BLK_T_*
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Operation {
    Read = 0,
    Write = 1,
    Flush = 4,
}

#[repr(C)]
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

#[repr(C, align(4096))]
struct Queue {
    descriptors: [Descriptor; QUEUE_SIZE],
    available: Available,
    used: Used,
    headers: [Header; SLOTS],
    status: [u8; SLOTS],
}

/// virtio 1.2, section 2.7.6.
#[repr(C)]
struct Available {
    flags: u16,
    index: u16,
    ring: [u16; QUEUE_SIZE],
    event: u16,
}

/// virtio 1.2, section 2.7.8.
#[repr(C, align(4))]
struct Used {
    flags: u16,
    index: u16,
    ring: [[u32; 2]; QUEUE_SIZE],
    event: u16,
}

#[repr(C)]
struct Header {
    operation: u32,
    reserved: u32,
    sector: u64,
}

#[repr(align(4096))]
#[expect(dead_code, reason = "the device uses it")]
struct Buffers([[u8; BLOCK]; SLOTS]);

/// Shared with the device. Processor 0 alone drives it. `DiskDevice::open` writes before the
/// device reads.
#[unsafe(link_section = ".bss.uninit")]
static QUEUE: Shared<core::mem::MaybeUninit<Queue>> = Shared::new(core::mem::MaybeUninit::uninit());
#[unsafe(link_section = ".bss.uninit")]
static BUFFERS: Shared<core::mem::MaybeUninit<Buffers>> = Shared::new(core::mem::MaybeUninit::uninit());

/// Why a device cannot be used.
#[derive(Clone, Copy)]
pub enum OpenError {
    Address,
    Legacy,
    Features,
    Queue,
}

impl core::fmt::Display for OpenError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Address => "virtio_mmio.device= does not read size@address:irq with an address from 3 to 4 GiB",
            Self::Legacy => {
                "the device is no virtio 1.x device; with QEMU, give -global virtio-mmio.force-legacy=false"
            }
            Self::Features => "the device refuses the features VERSION_1 and, where offered, FLUSH",
            Self::Queue => "the device's queue is smaller than 32 entries",
        })
    }
}

/// A block device that works.
pub struct DiskDevice {
    base: usize,
    pub irq: u32,
    /// In sectors.
    pub capacity: u64,
    pub read_only: bool,
    pub has_flush: bool,
    available: u16,
    seen: u16,
}

impl DiskDevice {
    /// Finds the first block device on the command line
    /// (`virtio_mmio.device=<size>@<address>:<irq>`, as Linux reads it).
    pub fn open(cmdline: &str) -> Result<Option<Self>, OpenError> {
        for word in cmdline.split_ascii_whitespace() {
            let Some(place) = word.strip_prefix("virtio_mmio.device=") else { continue };
            let (base, irq) = read_place(place).ok_or(OpenError::Address)?;
            let device = Self { base, irq, capacity: 0, read_only: false, has_flush: false, available: 0, seen: 0 };
            if device.read(MAGIC) == u32::from_le_bytes(*b"virt") && device.read(DEVICE_ID) == 2 {
                return device.set_up().map(Some);
            }
        }
        Ok(None)
    }

    /// Initialises the device (virtio 1.2, 3.1.1 and 4.2.3).
    fn set_up(mut self) -> Result<Self, OpenError> {
        if self.read(VERSION) != 2 {
            return Err(OpenError::Legacy);
        }
        self.write(STATUS, 0);
        self.write(STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
        self.write(DEVICE_FEATURES_SELECT, 0);
        let low = self.read(DEVICE_FEATURES);
        self.write(DEVICE_FEATURES_SELECT, 1);
        let offered = u64::from(low) | u64::from(self.read(DEVICE_FEATURES)) << 32;
        let accepted = offered & (FEATURE_VERSION_1 | FEATURE_FLUSH | FEATURE_READ_ONLY);
        self.write(DRIVER_FEATURES_SELECT, 0);
        self.write(DRIVER_FEATURES, accepted as u32);
        self.write(DRIVER_FEATURES_SELECT, 1);
        self.write(DRIVER_FEATURES, (accepted >> 32) as u32);
        self.write(STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
        if accepted & FEATURE_VERSION_1 == 0 || self.read(STATUS) & STATUS_FEATURES_OK == 0 {
            return Err(OpenError::Features);
        }
        self.read_only = accepted & FEATURE_READ_ONLY != 0;
        self.has_flush = accepted & FEATURE_FLUSH != 0;
        self.capacity = u64::from(self.read(CAPACITY)) | u64::from(self.read(CAPACITY + 4)) << 32;
        self.set_up_queue()?;
        self.write(STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
        Ok(self)
    }

    fn set_up_queue(&self) -> Result<(), OpenError> {
        self.write(QUEUE_SELECT, 0);
        if (self.read(QUEUE_SIZE_MAX) as usize) < QUEUE_SIZE {
            return Err(OpenError::Queue);
        }
        let queue = queue();
        // SAFETY: the queue is ours, and the device does not know of it yet.
        unsafe {
            queue.write_bytes(0, 1);
            for slot in 0..SLOTS {
                let header = &raw const (*queue).headers[slot] as u64;
                let status = &raw const (*queue).status[slot] as u64;
                let at = slot * CHAIN;
                let descriptor =
                    |address, length, flags, next: usize| Descriptor { address, length, flags, next: next as u16 };
                (*queue).descriptors[at] = descriptor(header, size_of::<Header>() as u32, NEXT, at + 1);
                (*queue).descriptors[at + 1] = descriptor(buffer(slot) as u64, BLOCK as u32, NEXT, at + 2);
                (*queue).descriptors[at + 2] = descriptor(status, 1, DEVICE_WRITES, 0);
            }
            self.write(QUEUE_SIZE_REGISTER, QUEUE_SIZE as u32);
            self.write_address(QUEUE_DESCRIPTORS, &raw const (*queue).descriptors as u64);
            self.write_address(QUEUE_DRIVER, &raw const (*queue).available as u64);
            self.write_address(QUEUE_DEVICE, &raw const (*queue).used as u64);
        }
        self.write(QUEUE_READY, 1);
        Ok(())
    }

    /// The data of a slot whose request is not in flight.
    pub fn data(&mut self, slot: usize) -> &mut [u8; BLOCK] {
        // SAFETY: the buffer is this driver's; the caller keeps away while the device has it.
        unsafe { &mut *buffer(slot) }
    }

    /// Puts a request of one block into the queue. The device learns of it by
    /// [`DiskDevice::notify`].
    pub fn submit(&mut self, slot: usize, operation: Operation, sector: u64) {
        let queue = queue();
        let at = slot * CHAIN;
        // SAFETY: the slot's request is not in flight, so the device does not look at its header,
        // status and descriptors. The index is written last, after the fence.
        unsafe {
            (*queue).headers[slot] = Header { operation: operation as u32, reserved: 0, sector };
            (&raw mut (*queue).status[slot]).write_volatile(0xff);
            (*queue).descriptors[at + 1].flags = if operation == Operation::Read { NEXT | DEVICE_WRITES } else { NEXT };
            // A flush has no data.
            (*queue).descriptors[at].next = if operation == Operation::Flush { at + 2 } else { at + 1 } as u16;
            (&raw mut (*queue).available.ring[self.available as usize % QUEUE_SIZE]).write_volatile(at as u16);
            self.available = self.available.wrapping_add(1);
            fence(Ordering::SeqCst);
            (&raw mut (*queue).available.index).write_volatile(self.available);
        }
    }

    /// Tells the device that there are requests.
    pub fn notify(&self) {
        fence(Ordering::SeqCst);
        self.write(QUEUE_NOTIFY, 0);
    }

    /// Acknowledges the device's interrupt.
    pub fn acknowledge(&self) {
        let status = self.read(INTERRUPT_STATUS);
        self.write(INTERRUPT_ACKNOWLEDGE, status);
    }

    /// Whether a request has completed that was not taken yet.
    pub fn has_completed(&self) -> bool {
        // SAFETY: the index lies in the queue's memory, which is never freed; the device writes it
        // whole.
        unsafe { (&raw const (*queue()).used.index).read_volatile() != self.seen }
    }

    /// The next completed request: its slot and VIRTIO_BLK_S_* status. An error is what the device
    /// wrote in place of a slot.
    pub fn completed(&mut self) -> Option<Result<(usize, u8), u32>> {
        let queue = queue();
        // SAFETY: the used ring is read after its index and after the fence; the status belongs to
        // a request that the device gave back.
        unsafe {
            if !self.has_completed() {
                return None;
            }
            fence(Ordering::SeqCst);
            let [id, _] = (&raw const (*queue).used.ring[self.seen as usize % QUEUE_SIZE]).read_volatile();
            self.seen = self.seen.wrapping_add(1);
            let slot = id as usize / CHAIN;
            if slot >= SLOTS || !(id as usize).is_multiple_of(CHAIN) {
                return Some(Err(id));
            }
            Some(Ok((slot, (&raw const (*queue).status[slot]).read_volatile())))
        }
    }

    fn read(&self, register: usize) -> u32 {
        // SAFETY: `base` lies in the devices' GiB, which is mapped; the registers are 4-byte
        // aligned.
        u32::from_le(unsafe { ((self.base + register) as *const u32).read_volatile() })
    }

    fn write(&self, register: usize, value: u32) {
        // SAFETY: as in `read`.
        unsafe { ((self.base + register) as *mut u32).write_volatile(value.to_le()) };
    }

    fn write_address(&self, register: usize, address: u64) {
        self.write(register, address as u32);
        self.write(register + 4, (address >> 32) as u32);
    }
}

fn queue() -> *mut Queue {
    QUEUE.get().cast()
}

fn buffer(slot: usize) -> *mut [u8; BLOCK] {
    BUFFERS.get().cast::<[u8; BLOCK]>().wrapping_add(slot)
}

/// Reads `size@address:irq`, perhaps with `:id` behind it.
fn read_place(text: &str) -> Option<(usize, u32)> {
    let (address, irq) = text.split_once('@')?.1.split_once(':')?;
    let address = match address.strip_prefix("0x") {
        Some(hex) => usize::from_str_radix(hex, 16).ok()?,
        None => address.parse().ok()?,
    };
    let irq = irq.split(':').next()?.parse().ok()?;
    ((3 << 30..4 << 30).contains(&address) && address % 8 == 0 && irq < 24).then_some((address, irq))
}
