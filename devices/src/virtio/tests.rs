//! Another kind of device behind the same transport: two queues, no storage, no status byte.

use std::sync::Arc;
use std::time::{Duration, Instant};

use virtio_bindings::virtio_mmio as reg;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::GuestMemory;
use crate::bus::BusDevice;
use crate::device::{Device, DeviceId, Handle, LoadError, Offer};

const MEMORY: usize = 0x10_0000;
const QUEUE_SIZE: u16 = 8;
const BUFFER: u64 = 0x8000;
const BUFFER_LEN: u32 = 64;
const WRITE: u16 = 2;

/// Fills what it is given with the number of the queue, plus one.
struct Filler;

impl VirtioDevice for Filler {
    type Facts = ();

    fn id(&self) -> DeviceId {
        DeviceId { name: "virtio-filler", instance: 0 }
    }

    fn device_type(&self) -> u32 {
        42
    }

    fn offer(&self) -> Offer {
        Offer { features: 1 << 32, ..Offer::default() }
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; 2]
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn serve(&self, queue: usize, request: Chain<'_>) -> Done {
        let (head, mut len) = (request.descriptors.head_index(), 0);
        for descriptor in request.descriptors {
            let fill = vec![queue as u8 + 1; descriptor.len() as usize];
            if request.memory.write_slice(&fill, descriptor.addr()).is_ok() {
                len += descriptor.len();
            }
        }
        Done { head, len, last: None, cost: len.into(), error: None }
    }

    fn facts(&self) {}

    fn take_facts(&self, (): &()) -> Result<(), LoadError> {
        Ok(())
    }
}

/// A driver of both queues.
struct Rig {
    memory: Arc<GuestMemory>,
    device: Arc<VirtioMmio<Filler>>,
    offered: [u16; 2],
}

impl Rig {
    fn new() -> Self {
        let memory = Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap());
        let device = filler(&memory);
        for status in [0, 1, 3] {
            write(&device, reg::VIRTIO_MMIO_STATUS, status);
        }
        write(&device, reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
        write(&device, reg::VIRTIO_MMIO_DRIVER_FEATURES, 1);
        write(&device, reg::VIRTIO_MMIO_STATUS, 0xb);
        for queue in 0..2 {
            write(&device, reg::VIRTIO_MMIO_QUEUE_SEL, queue);
            write(&device, reg::VIRTIO_MMIO_QUEUE_NUM, QUEUE_SIZE.into());
            let [desc, avail, used] = rings(queue as usize);
            write(&device, reg::VIRTIO_MMIO_QUEUE_DESC_LOW, desc as u32);
            write(&device, reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, avail as u32);
            write(&device, reg::VIRTIO_MMIO_QUEUE_USED_LOW, used as u32);
            write(&device, reg::VIRTIO_MMIO_QUEUE_READY, 1);
        }
        write(&device, reg::VIRTIO_MMIO_STATUS, 0xf);
        let mut rig = Rig { memory, device, offered: [0; 2] };
        rig.device.acquire().unwrap();
        rig.device.resume().unwrap();
        rig
    }

    /// Has this queue fill its buffer, if it is served.
    fn offer(&mut self, queue: usize) {
        let [desc, avail, _] = rings(queue);
        self.put(buffer(queue), desc);
        self.put(BUFFER_LEN, desc + 8);
        self.put(WRITE, desc + 12);
        self.put(0u16, avail + 4 + 2 * u64::from(self.offered[queue] % QUEUE_SIZE));
        self.offered[queue] += 1;
        self.put(self.offered[queue], avail + 2);
        write(&self.device, reg::VIRTIO_MMIO_QUEUE_NOTIFY, queue as u32);
    }

    fn wait_served(&self, queue: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.used(queue) != self.offered[queue] {
            assert!(Instant::now() < deadline, "queue {queue} is not served");
            std::thread::yield_now();
        }
    }

    fn used(&self, queue: usize) -> u16 {
        self.memory.read_obj(GuestAddress(rings(queue)[2] + 2)).unwrap()
    }

    fn put<T: vm_memory::ByteValued>(&self, value: T, address: u64) {
        self.memory.write_obj(value, GuestAddress(address)).unwrap();
    }
}

fn filler(memory: &Arc<GuestMemory>) -> Arc<VirtioMmio<Filler>> {
    Arc::new(VirtioMmio::new(Filler, memory.clone()).unwrap())
}

/// Where a queue's descriptors, available ring and used ring are.
fn rings(queue: usize) -> [u64; 3] {
    [0x1000, 0x2000, 0x3000].map(|at| at + 0x4000 * queue as u64)
}

fn buffer(queue: usize) -> u64 {
    BUFFER + 0x1000 * queue as u64
}

fn write(device: &VirtioMmio<Filler>, register: u32, value: u32) {
    device.write(register.into(), &value.to_le_bytes());
}

#[test]
fn each_queue_has_a_worker_of_its_own_and_all_of_them_pause() {
    let mut rig = Rig::new();
    for queue in [1, 0, 1] {
        rig.offer(queue);
        rig.wait_served(queue);
        let filled: u8 = rig.memory.read_obj(GuestAddress(buffer(queue) + 63)).unwrap();
        assert_eq!(usize::from(filled), queue + 1);
        let [_, _, used] = rings(queue);
        assert_eq!(rig.memory.read_obj::<u32>(GuestAddress(used + 8)).unwrap(), BUFFER_LEN, "no byte for a status");
    }
    rig.device.quiesce().unwrap();
    for queue in 0..2 {
        rig.offer(queue);
    }
    // A worker that is not parked would have served it by the end of a second pause.
    rig.device.quiesce().unwrap();
    assert_eq!([rig.used(0), rig.used(1)], [1, 2]);
    // It goes on elsewhere, in both queues.
    let state = rig.device.save().unwrap();
    rig.device.release().unwrap();
    let mut other = filler(&rig.memory);
    other.load(1, &state).unwrap();
    other.post_load().unwrap();
    assert_eq!(other.save().unwrap(), state);
    other.acquire().unwrap();
    other.resume().unwrap();
    rig.device = other;
    rig.wait_served(0);
    rig.wait_served(1);
}

#[test]
fn what_it_offers_is_what_its_kind_says() {
    let rig = Rig::new();
    let as_device: &dyn Device = &rig.device;
    assert_eq!(as_device.offer(), Offer { features: 1 << 32, capacity: None, read_only: false });
    assert!(as_device.handle().unwrap().storage().is_none());
    assert!(rig.device.storage().is_none());
}
