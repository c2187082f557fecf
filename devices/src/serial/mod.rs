//! A 16550 serial port, on `vm-superio`'s register model: the guest's console.
//!
//! The machine puts an `Arc<Serial>` at eight consecutive I/O ports, connects
//! [`Serial::interrupt`] to the interrupt controller, feeds it with [`Serial::enqueue`], and saves
//! and loads it as a [`Device`]. Output goes through a buffer and a thread of its own, so that no
//! vCPU ever waits for a terminal: see the module `output`.

mod output;
mod state;

use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vm_superio::Trigger;
use vm_superio::serial::{Error as UartError, Serial as Uart, SerialEvents, SerialState};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::output::Output;
use self::state::{SavedSerial, interrupt_pending};
use crate::InterruptLine;
use crate::bus::BusDevice;
use crate::device::{Device, DeviceId, LoadError, SaveError};
use crate::saved;

/// Number of I/O ports that a [`Serial`] claims.
pub const SERIAL_PORTS: u64 = 8;

/// How long a pause waits for output that the guest has already written.
const QUIESCE_DEADLINE: Duration = Duration::from_millis(200);

/// A serial port. The machine shares it as `Arc<Serial>`, which is also the [`Device`].
pub struct Serial {
    id: DeviceId,
    uart: Mutex<Uart<Line, InputRoom, Output>>,
    line: Line,
    room: InputRoom,
    output: Output,
}

impl Serial {
    /// The `instance`th port, with its output going to `sink`.
    ///
    /// # Errors
    ///
    /// The host has no eventfd or no thread left.
    pub fn new(instance: u32, sink: Box<dyn Write + Send>) -> io::Result<Self> {
        let line = Line::default();
        let room = InputRoom(Arc::new(EventFd::new(EFD_NONBLOCK)?));
        let output = Output::new(sink)?;
        let uart = Mutex::new(Uart::with_events(line.clone(), room.clone(), output.clone()));
        Ok(Serial { id: DeviceId { name: "serial", instance }, uart, line, room, output })
    }

    /// The interrupt line: one edge whenever the port raises its interrupt.
    #[must_use]
    pub fn interrupt(&self) -> &InterruptLine {
        &self.line.edges
    }

    /// Signalled when the guest has read all input, so that more may be offered. Non-blocking.
    #[must_use]
    pub fn input_room(&self) -> &EventFd {
        &self.room.0
    }

    /// Offers input to the guest and returns how many bytes the port took: fewer than offered, or
    /// none, when its FIFO is full or looped back. Offer the rest after [`Serial::input_room`] was
    /// signalled.
    ///
    /// # Errors
    ///
    /// The interrupt cannot be raised; the bytes were taken.
    pub fn enqueue(&self, input: &[u8]) -> io::Result<usize> {
        match self.lock().enqueue_raw_bytes(input) {
            Ok(taken) => Ok(taken),
            Err(UartError::FullFifo) => Ok(0),
            Err(UartError::Trigger(error) | UartError::IOError(error)) => Err(error),
        }
    }

    /// Waits until the sink has taken everything that the guest wrote.
    ///
    /// # Errors
    ///
    /// `TimedOut` when that took longer than `within`.
    pub fn drain_output(&self, within: Duration) -> io::Result<()> {
        self.output.drain(within)
    }

    fn lock(&self) -> MutexGuard<'_, Uart<Line, InputRoom, Output>> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the port into `state`, which was checked, without touching the interrupt line: the
    /// interrupt controller may not be loaded yet.
    fn set_state(&self, state: &SerialState) -> Result<(), LoadError> {
        let mut uart = self.lock();
        self.line.muted.store(true, Ordering::Relaxed);
        let made = Uart::from_state(state, self.line.clone(), self.room.clone(), self.output.clone());
        self.line.muted.store(false, Ordering::Relaxed);
        *uart = made.map_err(|error| LoadError::Malformed(error.to_string()))?;
        Ok(())
    }
}

impl BusDevice for Serial {
    /// The registers are a byte wide: a wider access reads as many neighbouring registers.
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut uart = self.lock();
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = register(offset, index).map_or(0xff, |register| uart.read(register));
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut uart = self.lock();
        for (index, byte) in data.iter().enumerate() {
            let Some(register) = register(offset, index) else { return };
            if let Err(error) = uart.write(register, *byte) {
                tracing::debug!(%error, device = %self.id, "an interrupt was lost");
            }
        }
    }
}

/// The register that byte `index` of an access at `offset` reaches.
fn register(offset: u64, index: usize) -> Option<u8> {
    u8::try_from(offset.checked_add(index as u64)?).ok()
}

impl Device for Arc<Serial> {
    fn id(&self) -> DeviceId {
        self.id.clone()
    }

    fn state_version(&self) -> u32 {
        state::VERSION
    }

    fn output_position(&self) -> Option<u64> {
        Some(self.output.position())
    }

    fn save(&mut self) -> Result<Vec<u8>, SaveError> {
        saved::encode(&SavedSerial::from(self.lock().state()))
    }

    fn load(&mut self, version: u32, payload: &[u8]) -> Result<(), LoadError> {
        let saved: SavedSerial = saved::decode(version, state::VERSION, payload)?;
        self.set_state(&saved.check()?)
    }

    /// Waits a moment for output to be written. A sink that does not read must not block a
    /// migration.
    fn quiesce(&mut self) -> io::Result<()> {
        if let Err(error) = self.drain_output(QUIESCE_DEADLINE) {
            tracing::warn!(%error, device = %self.id, "going on without waiting for the rest of the output");
        }
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.set_state(&SerialState::default()).map_err(io::Error::other)
    }

    /// Raises a pending interrupt again: an earlier one may have been lost between this port and
    /// the interrupt controller's state, and a spurious one is harmless.
    fn resume(&mut self) -> io::Result<()> {
        let pending = interrupt_pending(&self.lock().state());
        if pending { self.line.trigger() } else { Ok(()) }
    }
}

/// The interrupt line, as the register model triggers it.
#[derive(Clone, Default)]
struct Line {
    edges: Arc<InterruptLine>,
    muted: Arc<AtomicBool>,
}

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        if !self.muted.load(Ordering::Relaxed) {
            self.edges.pulse();
        }
        Ok(())
    }
}

/// Notifies the thread that feeds the port that its FIFO is empty.
#[derive(Clone)]
struct InputRoom(Arc<EventFd>);

impl SerialEvents for InputRoom {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        let _ = signal(&self.0);
    }
}

/// Signals a non-blocking eventfd. While the counter is full, its reader has yet to read it and
/// needs no further signal.
fn signal(event: &EventFd) -> io::Result<()> {
    match event.write(1) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
