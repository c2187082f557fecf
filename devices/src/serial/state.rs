//! The saved state of a serial port: the registers and the bytes that the guest has not read yet.
//!
//! [`Serial`](super::Serial) encodes and decodes it; [`SavedSerial::check`] refuses a state that
//! the port could not have reached.

use serde::{Deserialize, Serialize};
use vm_superio::serial::SerialState;

use crate::device::LoadError;
use crate::saved::check;

/// Version of [`SavedSerial`].
pub(super) const VERSION: u32 = 1;

/// Bytes that the receive FIFO holds.
pub(super) const FIFO_BYTES: usize = 64;

/// Interrupt enable: received data, transmitter empty, line status, modem status.
const IER_BITS: u8 = 0b1111;
/// Interrupt enable and identification of received data.
const IER_RECEIVED: u8 = 0b0001;
const IIR_RECEIVED: u8 = 0b0100;
/// Interrupt enable and identification of an empty transmitter.
const IER_TRANSMITTER: u8 = 0b0010;
const IIR_TRANSMITTER: u8 = 0b0010;
const IIR_NONE: u8 = 0b0001;
/// Line status: data ready; transmitter empty and idle, which this port always is.
const LSR_DATA_READY: u8 = 0b0000_0001;
const LSR_IDLE: u8 = 0b0110_0000;

/// The registers of a 16550 by their usual names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedSerial {
    divisor: [u8; 2],
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    received: Vec<u8>,
}

impl SavedSerial {
    /// Checks that a port can reach the value of every field.
    pub(super) fn check(self) -> Result<SerialState, LoadError> {
        let ier = self.interrupt_enable;
        check(ier & !IER_BITS == 0, "interrupt_enable", ier, "bits 0 to 3")?;
        let iir = self.interrupt_identification;
        let pending = iir != 0 && iir & !(IIR_RECEIVED | IIR_TRANSMITTER) == 0;
        check(pending || iir == IIR_NONE, "interrupt_identification", iir, "1 (none), or bits 1 and 2")?;
        let count = self.received.len();
        check(count <= FIFO_BYTES, "received", count, format!("at most {FIFO_BYTES} bytes"))?;
        let expected = LSR_IDLE | if count > 0 { LSR_DATA_READY } else { 0 };
        check(self.line_status == expected, "line_status", self.line_status, format!("{expected} for {count} bytes"))?;
        let idle = SerialState::default().modem_status;
        check(self.modem_status == idle, "modem_status", self.modem_status, format!("{idle}"))?;
        Ok(SerialState {
            baud_divisor_low: self.divisor[0],
            baud_divisor_high: self.divisor[1],
            interrupt_enable: ier,
            interrupt_identification: iir,
            line_control: self.line_control,
            line_status: self.line_status,
            modem_control: self.modem_control,
            modem_status: self.modem_status,
            scratch: self.scratch,
            in_buffer: self.received,
        })
    }
}

impl From<SerialState> for SavedSerial {
    fn from(state: SerialState) -> Self {
        SavedSerial {
            divisor: [state.baud_divisor_low, state.baud_divisor_high],
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            received: state.in_buffer,
        }
    }
}

/// Whether a port in this state asserts its interrupt.
pub(super) fn interrupt_pending(state: &SerialState) -> bool {
    let (ier, iir) = (state.interrupt_enable, state.interrupt_identification);
    (ier & IER_RECEIVED != 0 && iir & IIR_RECEIVED != 0) || (ier & IER_TRANSMITTER != 0 && iir & IIR_TRANSMITTER != 0)
}
