//! Puts a machine together: memory, KVM, devices on their buses, threads.
//!
//! ```text
//!   0x0000_0000            RAM
//!   0xc000_0000            the hole for devices
//!   0xd000_0000  irq 5     virtio-mmio disk
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
use ferry_devices::virtio::{Block, MMIO_LEN, QUEUE_NOTIFY, VirtioDevice, VirtioMmio};
use ferry_devices::{Bus, Device, InterruptLine};
use ferry_memory::Memory;
use ferry_observe::events::Events;
use ferry_observe::output_file::{self, Purpose};
use kvm_ioctls::IoEventAddress;

use super::config::{CPUS_MAX, DiskConfig, MachineConfig, SerialSink};
use super::control::Control;
use super::error::{ExitReason, MachineError};
use super::faults::{FaultRuleError, comes_first};
use super::gate::Gate;
use super::identity::DiskCalls;
use super::reset::PowerOn;
use super::status::{Hold, ResetCause, Status};
use super::{Parts, description};
use crate::boot::BootSource;
use crate::kvm::vcpu::io_error;
use crate::kvm::{DirtyLog, Vm, create_all};

const SERIAL_PORT: u64 = 0x3f8;
const SERIAL_IRQ: u32 = 4;
/// Where the disk's registers lie.
pub(super) const DISK_ADDRESS: u64 = 0xd000_0000;
/// The disk's interrupt.
pub(super) const DISK_IRQ: u32 = 5;

/// A disk as the machine shares it.
pub(super) type Disk = Arc<VirtioMmio<Block>>;

/// Everything of a machine but its threads. Nothing runs yet; unless the guest comes from
/// elsewhere, it is loaded.
pub(super) fn assemble(config: &MachineConfig, events: Arc<Events>) -> Result<Parts, MachineError> {
    if config.cpus == 0 || config.cpus > CPUS_MAX {
        return Err(MachineError::Cpus(config.cpus));
    }
    let boot =
        BootSource::open(config.kernel.as_deref(), config.initrd.as_deref(), &config.full_command_line(), config.cpus)?;
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
    let control = Arc::new(Control::new(gate, events, has_spoken.clone(), status));
    let mut board = Board { vm: &vm, ports: Bus::ports(), mmio: Bus::mmio(), devices: Vec::new() };
    let serial = board.add_serial(sink(&config.serial, has_spoken)?)?;
    board.add_exit_devices(&control)?;
    let add_disk = |disk: &DiskConfig| board.add_disk(disk, &memory, &faults, !(disk.raw || config.incoming));
    let disk = config.disk.as_ref().map(add_disk).transpose()?;
    board.devices.push(Box::new(FaultDevice::new(0, faults.clone())));
    let Board { ports, mmio, devices, .. } = board;
    let description = description::describe(&memory, &vcpus, &devices, disk.as_ref());
    Ok(Parts {
        name: config.name.clone(),
        boot,
        power_on,
        dirty_log: Arc::new(DirtyLog::new(vm.clone(), memory.clone())),
        control,
        ports,
        mmio,
        device_names: devices.iter().map(|device| device.id().to_string()).collect(),
        devices: Mutex::new(devices),
        serial,
        disk,
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
}

impl Board<'_> {
    fn add_serial(&mut self, sink: Box<dyn Write + Send>) -> Result<Arc<Serial>, MachineError> {
        let serial = Arc::new(Serial::new(0, sink).map_err(device("serial/0"))?);
        self.connect("serial/0", serial.interrupt(), SERIAL_IRQ);
        self.ports.insert(SERIAL_PORT, SERIAL_PORTS, serial.clone())?;
        self.devices.push(Box::new(serial.clone()));
        Ok(serial)
    }

    fn add_exit_devices(&mut self, control: &Arc<Control>) -> Result<(), MachineError> {
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

    fn add_disk(
        &mut self,
        config: &DiskConfig,
        memory: &Memory,
        faults: &Arc<FaultControl>,
        check_raw: bool,
    ) -> Result<Disk, MachineError> {
        let block = Block::open(0, &config.path, config.read_only, memory.guest().clone(), faults.clone())?;
        if check_raw {
            block.check_raw()?;
        }
        let disk = Arc::new(VirtioMmio::new(block));
        let name = disk.device().id().to_string();
        self.connect(&name, disk.interrupt(), DISK_IRQ);
        let notify = IoEventAddress::Mmio(DISK_ADDRESS + QUEUE_NOTIFY);
        for queue in 0..disk.queue_count() {
            if let Some(kick) = disk.kick(queue) {
                let registered = self.vm.fd().register_ioevent(kick, &notify, queue as u32);
                registered.map_err(io_error).map_err(device(&name))?;
            }
        }
        self.mmio.insert(DISK_ADDRESS, MMIO_LEN, disk.clone())?;
        self.devices.push(Box::new(disk.clone()));
        Ok(disk)
    }

    /// Connects a device's interrupt line to a pin of KVM's interrupt controllers (KVM API,
    /// `KVM_IRQ_LINE`): up and down, an edge.
    fn connect(&self, name: &str, line: &InterruptLine, pin: u32) {
        // A worker that is left behind in a stuck request must not keep the machine.
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
    Ok(Box::new(Listened { inner, has_spoken }))
}

/// Takes note of the guest's first output.
struct Listened {
    inner: Box<dyn Write + Send>,
    has_spoken: Arc<AtomicBool>,
}

impl Write for Listened {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.has_spoken.store(true, Ordering::Relaxed);
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
