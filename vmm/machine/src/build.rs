//! Puts a machine together: memory, KVM, devices on their buses, threads.
//!
//! ```text
//!   0x0000_0000            RAM
//!   0xc000_0000            the hole for devices
//!   0xd000_0000  irq 5     virtio-mmio, the first device; the next are 4 KiB and one free irq on
//!   0xfec0_0000            IOAPIC        (in KVM)
//!   0xfee0_0000            local APICs   (in KVM)
//!   0x1_0000_0000          RAM above 4 GiB
//!
//!   ports 0x20 0xa0        PICs          (in KVM)
//!   ports 0x40-0x43 0x61   PIT           (in KVM)
//!   ports 0x60-0x64        keyboard controller: reset (0x61 is KVM's)
//!   ports 0x3f8  irq 4     serial
//!   port  0x501            exit device
//! ```

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use ferry_devices::exit::{EXIT_PORT, ExitDevice, ExitHandler, ExitRequest, I8042, I8042_BASE, I8042_PORTS};
use ferry_devices::fault::{Direction, FaultControl, FaultDevice};
use ferry_devices::serial::{SERIAL_PORTS, Serial};
use ferry_devices::virtio::block::{Block, RawImage};
use ferry_devices::virtio::{MMIO_LEN, QUEUE_NOTIFY, VirtioDevice, VirtioMmio};
use ferry_devices::{Bus, Device, InterruptLine};
use ferry_memory::Memory;
use ferry_observe::events::Events;
use ferry_observe::output_file::{self, Purpose};
use kvm_ioctls::IoEventAddress;

use super::config::{CPUS_MAX, DiskConfig, MachineConfig, SerialSink};
use super::description;
use super::error::{ExitReason, FaultRuleError, MachineError};
use super::faults::comes_first;
use super::gate::Gate;
use super::identity::DiskCalls;
use super::parts::Parts;
use super::power_on::PowerOn;
use super::run_control::RunControl;
use super::status::{Hold, ResetCause, Status};
use crate::boot::BootSource;
use crate::kvm::vcpu::io_error;
use crate::kvm::{DirtyLog, Vm, create_all};

const SERIAL_PORT: u64 = 0x3f8;
const SERIAL_IRQ: u32 = 4;
/// Address of the registers of the first virtio device.
const VIRTIO_ADDRESS: u64 = 0xd000_0000;
/// The interrupts of virtio devices, in order.
const VIRTIO_IRQS: [u32; 4] = [5, 6, 7, 9];

/// Builds all of a machine but its threads. No guest is loaded and nothing runs yet.
pub(super) fn assemble(config: &MachineConfig, events: Arc<Events>) -> Result<Parts, MachineError> {
    if config.cpus == 0 || config.cpus > CPUS_MAX {
        return Err(MachineError::Cpus(config.cpus));
    }
    let mut boot = BootSource::open(config.kernel.as_deref(), config.initrd.as_deref(), config.cpus)?;
    let memory = Arc::new(Memory::new(&config.memory)?);
    let direction = if config.incoming { Direction::Incoming } else { Direction::Outgoing };
    let faults = Arc::new(FaultControl::new(direction));
    for rule in config.faults.iter().filter(|rule| comes_first(rule)) {
        faults.set(rule.clone()).map_err(FaultRuleError::from)?;
    }
    let vm = Arc::new(Vm::create(&memory, &faults)?);
    let mut vcpus = create_all(&vm, config.cpus)?;
    let power_on = PowerOn::take(&vm, &vcpus)?;
    let has_spoken = Arc::new(AtomicBool::new(config.incoming));
    let gate = Gate::new(vcpus.iter_mut().map(|vcpu| vcpu.run_area()).collect());
    let status =
        Status { wants: !config.paused, hold: config.incoming.then_some(Hold::Incoming), ..Default::default() };
    let control = Arc::new(RunControl::new(gate, events, has_spoken.clone(), status));
    let mut board =
        Board { vm: &vm, ports: Bus::ports(), mmio: Bus::mmio(), devices: Vec::new(), boot_words: Vec::new() };
    let serial = board.add_serial(sink(&config.serial, has_spoken)?)?;
    board.add_exit_devices(&control)?;
    if let Some(disk) = &config.disk {
        board.add_virtio(attach(disk, &memory, &faults, !config.incoming)?)?;
    }
    board.devices.push(Box::new(FaultDevice::new(0, faults.clone())));
    let Board { ports, mmio, devices, boot_words, .. } = board;
    boot.set_own_command_line(command_line(config, &boot_words));
    let description = description::describe(&memory, &vcpus, &devices);
    Ok(Parts {
        name: config.name.clone(),
        boot,
        power_on,
        dirty_log: Arc::new(DirtyLog::new(vm.clone(), memory.clone())),
        control,
        ports,
        mmio,
        device_names: devices.iter().map(|device| device.id().to_string()).collect(),
        handles: devices.iter().filter_map(|device| Some((device.id(), device.handle()?))).collect(),
        devices: Mutex::new(devices),
        serial,
        faults,
        description: Arc::new(description),
        arrived: Default::default(),
        came_through: Mutex::default(),
        disk_calls: DiskCalls::default(),
        custody: Default::default(),
        vcpus: vcpus.into_iter().map(Mutex::new).collect(),
        vm,
        memory,
    })
}

/// A machine's buses and devices while they are being put together.
struct Board<'a> {
    vm: &'a Vm,
    ports: Bus,
    mmio: Bus,
    devices: Vec<Box<dyn Device>>,
    /// Command-line words for devices that the guest cannot detect by itself.
    boot_words: Vec<String>,
}

/// The command line as the guest gets it.
fn command_line(config: &MachineConfig, boot_words: &[String]) -> String {
    let cpus = config.kernel.is_none().then(|| format!("ferry.cpus={}", config.cpus));
    let words = [&config.command_line].into_iter().chain(&cpus).chain(boot_words);
    words.filter(|word| !word.is_empty()).cloned().collect::<Vec<_>>().join(" ")
}

/// A disk with its image; if a guest boots from it, its content is checked.
fn attach(
    disk: &DiskConfig,
    memory: &Memory,
    faults: &Arc<FaultControl>,
    boots: bool,
) -> Result<VirtioMmio<Block>, MachineError> {
    let image = RawImage::open(&disk.path, disk.read_only, faults.clone())?;
    if boots && !disk.raw {
        image.check_raw()?;
    }
    Ok(Block::new(0, Arc::new(image)).attach(memory.guest().clone())?)
}

impl Board<'_> {
    fn add_serial(&mut self, sink: Box<dyn Write + Send>) -> Result<Arc<Serial>, MachineError> {
        let serial = Arc::new(Serial::new(0, sink).map_err(device("serial/0"))?);
        self.connect("serial/0", serial.interrupt(), SERIAL_IRQ);
        self.ports.insert(SERIAL_PORT, SERIAL_PORTS, serial.clone())?;
        self.devices.push(Box::new(serial.clone()));
        Ok(serial)
    }

    fn add_exit_devices(&mut self, control: &Arc<RunControl>) -> Result<(), MachineError> {
        let control = Arc::downgrade(control);
        let handler: ExitHandler = Arc::new(move |request| {
            let Some(control) = control.upgrade() else { return };
            match request {
                ExitRequest::Shutdown => control.end(ExitReason::Shutdown),
                ExitRequest::Reboot => control.request_reset(ResetCause::Guest),
            }
        });
        self.ports.insert(EXIT_PORT, 1, Arc::new(ExitDevice::new(handler.clone())))?;
        Ok(self.ports.insert(I8042_BASE, I8042_PORTS, Arc::new(I8042::new(handler)))?)
    }

    /// Gives a virtio device the next place on the bus, and its interrupt.
    fn add_virtio<D: VirtioDevice>(&mut self, device: VirtioMmio<D>) -> Result<(), MachineError> {
        let device = Arc::new(device);
        let name = Device::id(&device).to_string();
        let (address, irq) = self.next_place().ok_or_else(|| MachineError::Device {
            device: name.clone(),
            source: io::Error::other(format!("a machine has {} virtio devices at most", VIRTIO_IRQS.len())),
        })?;
        self.connect(&name, device.interrupt(), irq);
        let notify = IoEventAddress::Mmio(address + QUEUE_NOTIFY);
        for queue in 0..device.queue_count() {
            if let Some(kick) = device.kick(queue) {
                let registered = self.vm.fd().register_ioevent(kick, &notify, queue as u32);
                registered.map_err(io_error).map_err(self::device(&name))?;
            }
        }
        self.mmio.insert(address, MMIO_LEN, device.clone())?;
        self.boot_words.push(format!("virtio_mmio.device=4K@{address:#x}:{irq}"));
        self.devices.push(Box::new(device));
        Ok(())
    }

    fn next_place(&self) -> Option<(u64, u32)> {
        let number = self.boot_words.len();
        let irq = *VIRTIO_IRQS.get(number)?;
        Some((VIRTIO_ADDRESS + number as u64 * MMIO_LEN, irq))
    }

    /// Connects a device's interrupt line to a pin of KVM's interrupt controllers (KVM API,
    /// `KVM_IRQ_LINE`): up and down, an edge.
    fn connect(&self, name: &str, line: &InterruptLine, pin: u32) {
        // A worker that hangs in a request must not keep the machine alive.
        let (vm, device) = (Arc::downgrade(self.vm.fd()), name.to_owned());
        line.connect(move || {
            let Some(vm) = vm.upgrade() else { return };
            if let Err(error) = vm.set_irq_line(pin, true).and_then(|()| vm.set_irq_line(pin, false)) {
                tracing::error!(%error, device, pin, "an interrupt was lost: KVM_IRQ_LINE failed");
            }
        });
    }
}

fn device(name: &str) -> impl FnOnce(io::Error) -> MachineError {
    let device = name.to_owned();
    move |source| MachineError::Device { device, source }
}

fn sink(config: &SerialSink, has_spoken: Arc<AtomicBool>) -> Result<Box<dyn Write + Send>, MachineError> {
    let inner: Box<dyn Write + Send> = match config {
        SerialSink::Stdio => Box::new(io::stdout()),
        SerialSink::Null => Box::new(io::sink()),
        SerialSink::File(path) => {
            Box::new(output_file::append(path, Purpose::SerialLog).map_err(MachineError::Serial)?)
        }
    };
    Ok(Box::new(NotesOutput { inner, has_spoken }))
}

/// Records that the guest has written output.
struct NotesOutput {
    inner: Box<dyn Write + Send>,
    has_spoken: Arc<AtomicBool>,
}

impl Write for NotesOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.has_spoken.store(true, Ordering::Relaxed);
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_tells_of_the_devices_and_the_vcpus() {
        let mut config = MachineConfig { cpus: 2, ..Default::default() };
        assert_eq!(command_line(&config, &[]), "ferry.cpus=2");
        config.command_line = "a=b".into();
        let words = ["virtio_mmio.device=4K@0xd0000000:5".to_owned()];
        assert_eq!(command_line(&config, &words), "a=b ferry.cpus=2 virtio_mmio.device=4K@0xd0000000:5");
        config.kernel = Some("/k".into());
        assert_eq!(command_line(&config, &words), "a=b virtio_mmio.device=4K@0xd0000000:5");
    }
}
