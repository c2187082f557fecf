//! The terminal as the guest's serial console.
//!
//! `ferry run --serial stdio` starts a [`Console`] beside the machine. A terminal is put into raw
//! mode, so that every key reaches the guest, save those after Ctrl-A; but only while the process
//! is in the terminal's foreground. Input that the guest does not take is held back and offered
//! again when it has read, so nothing typed or piped in is lost; meanwhile no more is read.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ferry_devices::serial::Serial;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::keys::{Action, Keys};
use self::terminal::{Place, Terminal};
use crate::stderr;

mod keys;
mod terminal;

/// Bytes read from standard input at once.
const INPUT_BYTES: usize = 256;
/// Between two checks of the terminal's foreground: no signal notifies a process that it has come
/// there.
const LOOK_EVERY: Duration = Duration::from_millis(200);

const HINT: &str = "Ctrl-A x leaves, Ctrl-A h helps\r\n";

const HELP: &str =
    "\r\nCtrl-A x  leave, ending the guest\r\nCtrl-A h  this help\r\nCtrl-A Ctrl-A  send Ctrl-A to the guest\r\n";

/// Passes standard input to a serial port until dropped, then restores the terminal.
#[derive(Debug)]
pub(crate) struct Console {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Console {
    /// Starts to pass input to `serial`. `leave` is called, on a thread of the console, when the
    /// user asks to leave. The end of standard input is no such request: input then simply ends.
    ///
    /// # Errors
    /// When the host gives no eventfd or thread.
    pub(crate) fn start(serial: Arc<Serial>, leave: impl Fn() + Send + 'static) -> io::Result<Self> {
        let is_terminal = io::stdin().is_terminal();
        let stop = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let mut pump = Pump {
            serial,
            stop: stop.clone(),
            keys: is_terminal.then(Keys::default),
            terminal: is_terminal.then(Terminal::new),
            hinted: false,
            waiting: Vec::new(),
            ended: false,
            leave: Box::new(leave),
        };
        let run = move || {
            if let Err(error) = pump.run(&io::stdin()) {
                tracing::warn!(%error, "standard input no longer reaches the guest");
            }
        };
        let thread = std::thread::Builder::new().name("console".to_owned()).spawn(run)?;
        Ok(Console { stop, thread: Some(thread) })
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // An eventfd takes 2^64 signals before a write could fail.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the console thread had died");
        }
    }
}

/// Moves bytes from the input to the port.
struct Pump {
    serial: Arc<Serial>,
    stop: Arc<EventFd>,
    /// Only a terminal has an escape key.
    keys: Option<Keys>,
    /// In raw mode while this process is in its foreground.
    terminal: Option<Terminal>,
    /// The hint about the escape key was shown.
    hinted: bool,
    /// Read, and not yet taken by the guest.
    waiting: Vec<u8>,
    /// No more input will come.
    ended: bool,
    leave: Box<dyn Fn() + Send>,
}

impl Pump {
    /// Runs until stopped, or until all input has been taken.
    fn run(&mut self, input: &impl AsFd) -> io::Result<()> {
        while !(self.ended && self.waiting.is_empty()) {
            let is_ours = self.look()?;
            let (stopped, readable) = self.wait(input, is_ours)?;
            if stopped {
                return Ok(());
            }
            // Reset, for the next time that the FIFO runs empty.
            let _ = self.serial.input_room().read();
            // The terminal may have gone to another process while this one waited.
            if readable && self.look()? {
                self.read(input)?;
            }
            self.offer()?;
        }
        Ok(())
    }

    /// Whether input may be read now: always, except while this process is in the background of its
    /// terminal.
    fn look(&mut self) -> io::Result<bool> {
        let Some(terminal) = &self.terminal else { return Ok(true) };
        let place = terminal.look()?;
        if place == Place::Entered && !std::mem::replace(&mut self.hinted, true) {
            stderr::write(HINT.into());
        }
        Ok(place != Place::Background)
    }

    /// Waits for the stop event, for room in the port, or, if nothing is held back and it
    /// `is_ours`, for input; with a terminal, for at most [`LOOK_EVERY`].
    fn wait(&self, input: &impl AsFd, is_ours: bool) -> io::Result<(bool, bool)> {
        let wants_input = is_ours && self.waiting.is_empty() && !self.ended;
        // SAFETY: both eventfds live as long as `self`.
        let (stop, room) = unsafe { (borrow(&self.stop), borrow(self.serial.input_room())) };
        let mut fds = vec![PollFd::new(&stop, PollFlags::IN), PollFd::new(&room, PollFlags::IN)];
        // `poll` would report a hung-up input at all times, even if it is not to be read.
        if wants_input {
            fds.push(PollFd::new(input, PollFlags::IN));
        }
        let timeout = self.terminal.as_ref().and_then(|_| Timespec::try_from(LOOK_EVERY).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        Ok((ready(0), ready(2)))
    }

    fn read(&mut self, input: &impl AsFd) -> io::Result<()> {
        let mut bytes = [0; INPUT_BYTES];
        let count = match rustix::io::read(input, &mut bytes) {
            Ok(count) => count,
            Err(Errno::INTR | Errno::AGAIN) => return Ok(()),
            // The process has just gone to the background: SIGTTIN is ignored, and a read is
            // refused.
            Err(Errno::IO) if !self.look()? => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.ended = count == 0;
        for byte in &bytes[..count] {
            match self.keys.as_mut().map_or(Action::Send(*byte), |keys| keys.press(*byte)) {
                Action::Nothing => {}
                Action::Send(byte) => self.waiting.push(byte),
                Action::Help => stderr::write(HELP.into()),
                Action::Leave => (self.leave)(),
            }
        }
        Ok(())
    }

    fn offer(&mut self) -> io::Result<()> {
        if !self.waiting.is_empty() {
            let taken = self.serial.enqueue(&self.waiting)?;
            self.waiting.drain(..taken);
        }
        Ok(())
    }
}

/// # Safety
/// The eventfd outlives the result.
unsafe fn borrow<'a>(event: &EventFd) -> std::os::fd::BorrowedFd<'a> {
    use std::os::fd::AsRawFd;
    // SAFETY: the caller promises that the descriptor stays open.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

#[cfg(test)]
mod tests;
