//! The two ways in which a guest ends or restarts itself: Ferry's exit port and the PC's
//! keyboard-controller reset.
//!
//! The machine puts [`ExitDevice`] at port 0x501 and [`I8042`] at ports 0x60 to 0x64, and hands
//! both the same handler. Neither has state: the machine carries out the guest's requests.

use std::sync::Arc;

use crate::bus::BusDevice;

/// The port at which guests expect [`ExitDevice`]: one byte.
pub const EXIT_PORT: u64 = 0x501;

/// The first port of [`I8042`]; it claims [`I8042_PORTS`] ports.
pub const I8042_BASE: u64 = 0x60;

/// Number of ports that [`I8042`] claims, 0x60 (data) to 0x64 (command and status).
pub const I8042_PORTS: u64 = 5;

const EXIT_SHUTDOWN: u8 = 0;
const EXIT_REBOOT: u8 = 1;

const I8042_COMMAND: u64 = 4;
const I8042_PULSE_RESET: u8 = 0xfe;

/// A request of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitRequest {
    /// Power off.
    Shutdown,
    /// Start again from reset.
    Reboot,
}

/// Carries a request out. Called on the vCPU's thread, possibly on several at once, so it should
/// only record the request.
pub type ExitHandler = Arc<dyn Fn(ExitRequest) + Send + Sync>;

/// Port 0x501: writing 0 shuts the machine down, writing 1 reboots it. Other values do nothing;
/// reads return 0.
pub struct ExitDevice {
    handler: ExitHandler,
}

impl ExitDevice {
    /// Calls `handler` with each request of the guest.
    #[must_use]
    pub fn new(handler: ExitHandler) -> Self {
        ExitDevice { handler }
    }
}

impl BusDevice for ExitDevice {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        match data.first() {
            Some(&EXIT_SHUTDOWN) => (self.handler)(ExitRequest::Shutdown),
            Some(&EXIT_REBOOT) => (self.handler)(ExitRequest::Reboot),
            other => tracing::debug!(?other, "the exit port knows 0 (shutdown) and 1 (reboot)"),
        }
    }
}

/// The keyboard controller, as far as restarting a PC needs it: 0xfe written to port 0x64 pulses
/// the reset line.
///
/// Reads return 0 (no key, input buffer empty), so a guest that waits for the controller goes on at
/// once.
pub struct I8042 {
    handler: ExitHandler,
}

impl I8042 {
    /// Calls `handler` when the guest resets the machine.
    #[must_use]
    pub fn new(handler: ExitHandler) -> Self {
        I8042 { handler }
    }
}

impl BusDevice for I8042 {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == I8042_COMMAND && data.first() == Some(&I8042_PULSE_RESET) {
            (self.handler)(ExitRequest::Reboot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Bus;
    use std::sync::Mutex;

    fn machine() -> (Bus, Arc<Mutex<Vec<ExitRequest>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let handler: ExitHandler = Arc::new(move |request| sink.lock().unwrap().push(request));
        let mut bus = Bus::ports();
        bus.insert(EXIT_PORT, 1, Arc::new(ExitDevice::new(Arc::clone(&handler)))).unwrap();
        bus.insert(I8042_BASE, I8042_PORTS, Arc::new(I8042::new(handler))).unwrap();
        (bus, seen)
    }

    #[test]
    fn the_exit_port_tells_shutdown_from_reboot_and_ignores_the_rest() {
        let (bus, seen) = machine();
        bus.write(EXIT_PORT, &[2]);
        bus.write(EXIT_PORT, &[0]);
        bus.write(EXIT_PORT, &[1]);
        assert_eq!(*seen.lock().unwrap(), [ExitRequest::Shutdown, ExitRequest::Reboot]);
    }

    #[test]
    fn only_the_reset_command_at_the_command_port_reboots() {
        let (bus, seen) = machine();
        bus.write(0x60, &[0xfe]);
        bus.write(0x64, &[0xd1]);
        assert!(seen.lock().unwrap().is_empty());
        bus.write(0x64, &[0xfe]);
        assert_eq!(*seen.lock().unwrap(), [ExitRequest::Reboot]);
        let mut status = [0xff];
        assert!(bus.read(0x64, &mut status));
        assert_eq!(status, [0]);
    }
}
