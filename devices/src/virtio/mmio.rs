//! The virtio-mmio transport, version 2 (virtio 1.2 §4.2.2): any [`VirtioDevice`] as a device on
//! the MMIO bus.
//!
//! The machine shares it as `Arc<VirtioMmio<…>>`: on the bus for the vCPUs, and as a [`Device`]
//! for saving, loading and pausing. It connects [`VirtioMmio::interrupt`] to the interrupt
//! controller and each [`VirtioMmio::kick`] to an ioeventfd at
//! [`QUEUE_NOTIFY`](super::QUEUE_NOTIFY); a plain write there works too.
//!
//! The lock around the registers is never held while a file is read or written, with one
//! exception: a reset, and the stop of a queue, wait for requests in flight, because the driver
//! may reuse its memory as soon as they return.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_mmio as reg;
use vmm_sys_util::eventfd::EventFd;

use super::device::VirtioDevice;
use super::queue::QueueError;
use super::queue::{self, QueuePosition};
use super::registers::{CONFIG, Effect, MMIO_LEN, Registers};
use super::signals::{Signals, signal};
use super::state::{self, NEEDS_RESET, SavedQueue, SavedVirtio};
use super::worker::Worker;
use crate::bus::BusDevice;
use crate::device::{Device, DeviceId, Handle, LoadError, Offer, SaveError, Storage};
use crate::log_limit::LogLimit;
use crate::{GuestMemory, InterruptLine, saved};

/// A virtio device behind memory-mapped registers.
pub struct VirtioMmio<D> {
    device: Arc<D>,
    memory: Arc<GuestMemory>,
    pub(super) signals: Arc<Signals>,
    /// One for each queue.
    pub(super) workers: Vec<Worker<D>>,
    transport: Mutex<Transport>,
    warnings: LogLimit,
}

struct Transport {
    registers: Registers,
    /// The position in each queue that no worker serves: as loaded, and 0 after a reset.
    parked: Vec<QueuePosition>,
    /// A load has begun and `post_load` has not succeeded since: unfit to run.
    half_loaded: bool,
}

impl<D: VirtioDevice> VirtioMmio<D> {
    /// Puts `device` behind registers in their power-on state, with its queues in `memory`. No
    /// request is served before `acquire` and `resume`.
    ///
    /// # Errors
    ///
    /// The host is out of eventfds or threads.
    pub fn new(device: D, memory: Arc<GuestMemory>) -> io::Result<Self> {
        let (device, signals) = (Arc::new(device), Arc::new(Signals::default()));
        let sizes = device.queue_max_sizes();
        let workers = (0..sizes.len()).map(|queue| Worker::spawn(&device, queue, &memory, &signals));
        let workers = workers.collect::<io::Result<_>>()?;
        let transport = Transport {
            registers: Registers::new(device.device_type(), device.offer().features, sizes),
            parked: vec![QueuePosition::default(); sizes.len()],
            half_loaded: false,
        };
        let warnings = LogLimit::default();
        Ok(VirtioMmio { device, memory, signals, workers, transport: Mutex::new(transport), warnings })
    }

    /// The device behind the registers.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The interrupt line: one edge for every interrupt.
    pub fn interrupt(&self) -> &InterruptLine {
        self.signals.interrupt()
    }

    /// The eventfd for an ioeventfd at [`QUEUE_NOTIFY`](super::QUEUE_NOTIFY) with datamatch
    /// `queue`; `None` beyond the last queue.
    pub fn kick(&self, queue: usize) -> Option<&EventFd> {
        self.workers.get(queue).map(Worker::kick)
    }

    /// Number of queues.
    pub fn queue_count(&self) -> usize {
        self.workers.len()
    }

    fn lock(&self) -> MutexGuard<'_, Transport> {
        self.transport.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_register(&self, offset: u32) -> u32 {
        let signals = &self.signals;
        match offset {
            reg::VIRTIO_MMIO_INTERRUPT_STATUS => signals.interrupt_status(),
            reg::VIRTIO_MMIO_CONFIG_GENERATION => signals.config_generation(),
            reg::VIRTIO_MMIO_STATUS => {
                let needs_reset = if signals.needs_reset() { NEEDS_RESET } else { 0 };
                self.lock().registers.read(offset) | needs_reset
            }
            _ => self.lock().registers.read(offset),
        }
    }

    fn write_register(&self, offset: u32, value: u32) {
        match offset {
            reg::VIRTIO_MMIO_QUEUE_NOTIFY => match self.kick(value as usize) {
                Some(kick) => signal(kick),
                None => self.warn("a queue that does not exist was notified"),
            },
            reg::VIRTIO_MMIO_INTERRUPT_ACK => self.signals.acknowledge(value),
            _ => {
                let mut transport = self.lock();
                let effect = transport.registers.write(offset, value);
                self.carry_out(&mut transport, effect);
            }
        }
    }

    fn carry_out(&self, transport: &mut Transport, effect: Effect) {
        let result = match effect {
            Effect::None => Ok(()),
            Effect::Ignored(why) => {
                self.warn(why);
                Ok(())
            }
            Effect::Reset => self.reset_transport(transport),
            Effect::Start => self.start(transport).map_err(io::Error::other),
            Effect::Stop => {
                for (queue, parked) in transport.parked.iter_mut().enumerate() {
                    *parked = self.workers[queue].position().unwrap_or(*parked);
                }
                self.stop()
            }
            Effect::StopQueue(queue) => self.workers[queue].stop().map(|()| {
                transport.registers.queue_stopped(queue);
                transport.parked[queue] = QueuePosition::default();
            }),
        };
        if let Err(error) = result {
            self.warn(&error.to_string());
            self.signals.need_reset();
        }
    }

    fn reset_transport(&self, transport: &mut Transport) -> io::Result<()> {
        self.stop()?;
        transport.registers.reset();
        transport.parked.fill(QueuePosition::default());
        self.signals.set(0, 0, false);
        Ok(())
    }

    /// Hands the queues to the workers.
    fn start(&self, transport: &Transport) -> Result<(), StartError> {
        let registers = &transport.registers;
        let features = registers.driver_features;
        let queues = registers.queues.iter().zip(&transport.parked).enumerate();
        let queues: Result<Vec<_>, QueueError> = queues
            .map(|(index, (queue, parked))| {
                queue.ready.then(|| queue::build(index, queue, *parked, features, &self.memory)).transpose()
            })
            .collect();
        let started = self.workers.iter().zip(queues?).try_for_each(|(worker, queue)| worker.start(features, queue));
        started.map_err(StartError::Device)
    }

    /// Stops all queues, and waits for requests in flight.
    fn stop(&self) -> io::Result<()> {
        self.workers.iter().try_for_each(Worker::stop)
    }

    fn warn(&self, text: &str) {
        if let Some(held_back) = self.warnings.pass() {
            tracing::warn!(device = %self.device.id(), held_back, "the driver erred: {text}");
        }
    }
}

/// Why a device did not start on its queues.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("{0}")]
    Device(io::Error),
}

impl<D: VirtioDevice> BusDevice for VirtioMmio<D> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if (CONFIG..MMIO_LEN).contains(&offset) {
            self.device.read_config(offset - CONFIG, data);
        } else if let (Some(register), Ok(data)) = (register(offset), <&mut [u8; 4]>::try_from(data)) {
            *data = self.read_register(register).to_le_bytes();
        }
    }

    /// Registers take aligned 32-bit writes (§4.2.2.2). No configuration space here is writable.
    fn write(&self, offset: u64, data: &[u8]) {
        match (register(offset), <[u8; 4]>::try_from(data)) {
            (Some(register), Ok(data)) => self.write_register(register, u32::from_le_bytes(data)),
            _ => self.warn("a write that is no aligned 32-bit register write was ignored (4.2.2.2)"),
        }
    }
}

/// The register at `offset`, if that is aligned and below the configuration space.
fn register(offset: u64) -> Option<u32> {
    let offset = u32::try_from(offset).ok()?;
    (u64::from(offset) < CONFIG && offset.is_multiple_of(4)).then_some(offset)
}

impl<D: VirtioDevice> Device for Arc<VirtioMmio<D>> {
    fn id(&self) -> DeviceId {
        self.device.id()
    }

    fn state_version(&self) -> u32 {
        state::VERSION
    }

    fn offer(&self) -> Offer {
        self.device.offer()
    }

    fn handle(&self) -> Option<Arc<dyn Handle>> {
        Some(Arc::<VirtioMmio<D>>::clone(self))
    }

    /// Works also while the device runs: the loading side then executes requests in flight again.
    fn save(&mut self) -> Result<Vec<u8>, SaveError> {
        let transport = self.lock();
        let registers = &transport.registers;
        // Positions are read before the interrupt status: a request that completes in between is
        // executed twice, never lost.
        let queues = registers.queues.iter().zip(&transport.parked).enumerate();
        let queues = queues.map(|(index, (queue, parked))| {
            let QueuePosition { next_avail, next_used } = self.workers[index].position().unwrap_or(*parked);
            let (size, ready, desc, avail, used) = (queue.size, queue.ready, queue.desc, queue.avail, queue.used);
            SavedQueue { size, ready, desc, avail, used, next_avail, next_used }
        });
        let queues = queues.collect();
        let signals = &self.signals;
        saved::encode(&SavedVirtio {
            status: registers.status | if signals.needs_reset() { NEEDS_RESET } else { 0 },
            device_features_sel: registers.device_features_sel,
            driver_features_sel: registers.driver_features_sel,
            driver_features: registers.driver_features,
            queue_sel: registers.queue_sel,
            interrupt_status: signals.interrupt_status(),
            config_generation: signals.config_generation(),
            queues,
            facts: self.device.facts(),
        })
    }

    fn load(&mut self, version: u32, payload: &[u8]) -> Result<(), LoadError> {
        let mut transport = self.lock();
        transport.half_loaded = true;
        self.stop().map_err(host)?;
        let saved: SavedVirtio<D::Facts> = saved::decode(version, state::VERSION, payload)?;
        saved.check(&transport.registers)?;
        self.device.take_facts(&saved.facts)?;
        let registers = &mut transport.registers;
        registers.status = saved.status & !NEEDS_RESET;
        registers.device_features_sel = saved.device_features_sel;
        registers.driver_features_sel = saved.driver_features_sel;
        registers.driver_features = saved.driver_features;
        registers.queue_sel = saved.queue_sel;
        for (registers, saved) in registers.queues.iter_mut().zip(&saved.queues) {
            (registers.size, registers.ready) = (saved.size, saved.ready);
            (registers.desc, registers.avail, registers.used) = (saved.desc, saved.avail, saved.used);
        }
        transport.parked = saved.queues.iter().map(SavedQueue::position).collect();
        let needs_reset = saved.status & NEEDS_RESET != 0;
        self.signals.set(saved.interrupt_status, saved.config_generation, needs_reset);
        Ok(())
    }

    /// Checks the queues against guest memory, without reading its content, and hands them to the
    /// workers.
    fn post_load(&mut self) -> Result<(), LoadError> {
        let mut transport = self.lock();
        self.stop().map_err(host)?;
        // As at the source: after `FAILED` or `DEVICE_NEEDS_RESET` the queues stay stopped until a
        // reset.
        let fit = !transport.registers.is_failed() && !self.signals.needs_reset();
        if transport.registers.is_started() && fit {
            self.start(&transport).map_err(|error| LoadError::Host(error.to_string()))?;
        }
        transport.half_loaded = false;
        Ok(())
    }

    /// The first queue's worker is the last to be parked, and flushes the device.
    fn quiesce(&mut self) -> io::Result<()> {
        self.workers.iter().enumerate().rev().try_for_each(|(queue, worker)| worker.quiesce(queue == 0))
    }

    /// Quiesces first if that was not done: no request may be served without the resources of a
    /// running guest.
    fn release(&mut self) -> io::Result<()> {
        let running = self.workers.iter().map(Worker::is_running).collect::<io::Result<Vec<_>>>()?;
        if running.contains(&true) {
            self.quiesce()?;
        }
        self.device.release()
    }

    fn reset(&mut self) -> io::Result<()> {
        let mut transport = self.lock();
        self.reset_transport(&mut transport)?;
        transport.half_loaded = false;
        Ok(())
    }

    fn acquire(&mut self) -> io::Result<()> {
        let transport = self.lock();
        if transport.half_loaded {
            let text = "the last load of this device did not succeed: load it again, or reset it";
            return Err(io::Error::other(text));
        }
        self.device.acquire()
    }

    fn resume(&mut self) -> io::Result<()> {
        self.workers.iter().try_for_each(Worker::resume)?;
        self.signals.raise_pending();
        Ok(())
    }
}

impl<D: VirtioDevice> Handle for VirtioMmio<D> {
    fn interrupt_pause(&self) {
        self.workers.iter().for_each(|worker| worker.shared.interrupt());
    }

    fn storage(&self) -> Option<&dyn Storage> {
        self.device.storage()
    }
}

fn host(error: io::Error) -> LoadError {
    LoadError::Host(error.to_string())
}
