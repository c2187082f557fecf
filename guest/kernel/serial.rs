//! The serial port COM1 (a 16550A at 0x3f8), driven from ring 3 through the I/O bitmap: whole
//! lines out, single bytes in.
//!
//! Each access is an exit to the VMM, 4.5 µs or more. A regular report is therefore handed out in
//! small pieces between page touches ([`Pending`]); all else is printed at once.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

use crate::lines::Line;
use crate::port::{read, write};
use crate::{time, timer};

const DATA: u16 = 0x3f8;
const INTERRUPT_ENABLE: u16 = DATA + 1;
const FIFO_CONTROL: u16 = DATA + 2;
const MODEM_CONTROL: u16 = DATA + 4;
const LINE_STATUS: u16 = DATA + 5;

const RECEIVED: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Bytes that the transmitter takes at once.
pub const FIFO: usize = 16;
/// How long the other side may take to drain the FIFO before bytes are lost.
const DRAIN_US: u64 = 1_000_000;
/// How long a line waits for another processor's line to end.
const LOCK_US: u64 = 10_000_000;

const NOBODY: u32 = u32::MAX;
/// The processor whose line is being printed: lines never mix.
static OWNER: AtomicU32 = AtomicU32::new(NOBODY);

/// Switches on the FIFO and the receive interrupt. Speed and framing stay as they are: no VMM
/// minds.
pub fn init() {
    write(FIFO_CONTROL, 0x07);
    write(MODEM_CONTROL, 0x0b);
    write(INTERRUPT_ENABLE, 0x01);
}

/// The next received byte.
pub fn receive() -> Option<u8> {
    (read(LINE_STATUS) & RECEIVED != 0).then(|| read(DATA))
}

/// Prints a line now. A line of this processor that is under way is finished first.
///
/// Returns the number of port accesses.
pub fn print<S: fmt::Display>(cpu: u32, pending: &mut Pending, line: &Line<S>) -> usize {
    let accesses = pending.flush(cpu);
    pending.queue(line);
    accesses + pending.flush(cpu)
}

/// Prints a line now, whoever else is printing: for the last words of a broken guest.
pub fn print_regardless<S: fmt::Display>(line: &Line<S>) {
    let mut pending = Pending::new();
    pending.queue(line);
    OWNER.store(NOBODY, Ordering::Relaxed);
    send(b"\r\n");
    while pending.pump(NOBODY - 1) != 0 {}
}

/// Room for a line: the longest report that a guest can bring about.
const LINE: usize = 1536;

/// A line on its way out.
pub struct Pending {
    text: [u8; LINE],
    length: usize,
    sent: usize,
}

impl Pending {
    pub const fn new() -> Self {
        Self { text: [0; LINE], length: 0, sent: 0 }
    }

    /// Whether a line is still under way.
    pub fn unsent(&self) -> bool {
        self.sent < self.length
    }

    /// Takes a line to be pumped out. The one before must be gone.
    pub fn queue<S: fmt::Display>(&mut self, line: &Line<S>) {
        self.length = 0;
        self.sent = 0;
        // A line that is too long is cut.
        let _ = write!(self, "{line}");
        self.length = self.length.min(self.text.len() - 2);
        self.text[self.length..self.length + 2].copy_from_slice(b"\r\n");
        self.length += 2;
    }

    /// Sends all that is left. A processor that holds the port for too long is taken for dead.
    /// Returns the number of port accesses.
    pub fn flush(&mut self, cpu: u32) -> usize {
        let mut accesses = 0;
        let deadline = time::now() + time::cycles_of_us(LOCK_US);
        while self.unsent() {
            let more = self.pump(cpu);
            accesses += more;
            if more == 0 && time::now() > deadline {
                OWNER.store(NOBODY, Ordering::Relaxed);
            } else if more == 0 {
                timer::nap();
            }
        }
        accesses
    }

    /// Sends what fits the FIFO, when no other processor is printing. Returns the number of port
    /// accesses.
    pub fn pump(&mut self, cpu: u32) -> usize {
        if !self.unsent() {
            return 0;
        }
        if self.sent == 0 && OWNER.compare_exchange(NOBODY, cpu, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return 0;
        }
        let end = self.length.min(self.sent + FIFO);
        let accesses = send(&self.text[self.sent..end]);
        self.sent = end;
        if !self.unsent() {
            OWNER.store(NOBODY, Ordering::Release);
        }
        accesses
    }
}

impl Write for Pending {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.text[self.length..];
        let taken = text.len().min(room.len());
        room[..taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        Ok(())
    }
}

/// Sends at most a FIFO's worth of bytes. Returns the number of port accesses.
fn send(bytes: &[u8]) -> usize {
    let deadline = time::now() + time::cycles_of_us(DRAIN_US);
    let mut polls = 1;
    while read(LINE_STATUS) & TRANSMITTER_EMPTY == 0 && time::now() < deadline {
        polls += 1;
    }
    for byte in bytes {
        write(DATA, *byte);
    }
    polls + bytes.len()
}
