//! Output of a serial port: a buffer for its bytes, and a thread that writes them out in place of
//! the vCPU.
//!
//! A terminal that is stopped, or a pipe that no process reads, may block a write indefinitely, and
//! a vCPU must not wait for it. So [`Output::write`] only ever appends to a buffer of [`CAPACITY`]
//! bytes. When the buffer is full, further bytes are dropped and counted. A sink that reports an
//! error other than "try again" is given up: output is discarded from then on, with one warning;
//! the guest is not affected.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that may wait for the sink.
pub(crate) const CAPACITY: usize = 1024 * 1024;

/// Pause before the next write to a sink that has no room.
const RETRY: Duration = Duration::from_millis(10);

/// How long a port that is dropped waits for its last bytes to be written.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// The guest's end of the buffer. Clones share it; the thread ends when the last is gone.
#[derive(Clone)]
pub(crate) struct Output {
    end: Arc<End>,
}

struct End {
    shared: Arc<Shared>,
}

struct Shared {
    buffer: Mutex<Buffer>,
    changed: Condvar,
}

#[derive(Default)]
struct Buffer {
    waiting: VecDeque<u8>,
    /// The thread has taken bytes that are not written yet.
    writing: bool,
    /// No more bytes follow: the thread ends when all are written.
    closed: bool,
    /// The sink failed; bytes are discarded.
    given_up: bool,
    dropped: u64,
    /// Bytes that were accepted, ever.
    position: u64,
}

impl Output {
    /// Starts the thread that feeds `sink`.
    ///
    /// # Errors
    ///
    /// The host refuses another thread.
    pub(crate) fn new(sink: Box<dyn Write + Send>) -> io::Result<Self> {
        let shared = Arc::new(Shared { buffer: Mutex::default(), changed: Condvar::new() });
        let feeder = Arc::clone(&shared);
        thread::Builder::new().name("serial-output".to_owned()).spawn(move || feeder.feed(sink))?;
        Ok(Output { end: Arc::new(End { shared }) })
    }

    /// Bytes that were accepted since the port was created, written out or not.
    pub(crate) fn position(&self) -> u64 {
        self.end.shared.lock().position
    }

    /// Waits until every byte is written or discarded.
    ///
    /// # Errors
    ///
    /// `TimedOut` when the sink took longer than `within`; the bytes stay queued.
    pub(crate) fn drain(&self, within: Duration) -> io::Result<()> {
        self.end.shared.drain(within)
    }
}

/// The port writes here: never blocks, never fails.
impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.end.shared.append(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        // A sink that still blocks then holds up only its thread.
        let _ = self.shared.drain(CLOSE_DEADLINE);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, bytes: &[u8]) {
        let mut buffer = self.lock();
        if buffer.given_up {
            return;
        }
        let room = CAPACITY - buffer.waiting.len();
        let taken = bytes.len().min(room);
        if taken < bytes.len() && buffer.dropped == 0 {
            tracing::warn!("serial output is not being read: dropping what does not fit in {CAPACITY} bytes");
        }
        buffer.dropped += (bytes.len() - taken) as u64;
        buffer.position += taken as u64;
        buffer.waiting.extend(&bytes[..taken]);
        drop(buffer);
        self.changed.notify_all();
    }

    fn drain(&self, within: Duration) -> io::Result<()> {
        let deadline = Instant::now() + within;
        let mut buffer = self.lock();
        while buffer.writing || !buffer.waiting.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let text =
                    format!("serial output: the sink took nothing for {within:?}; read it, or send it to a file");
                return Err(io::Error::new(ErrorKind::TimedOut, text));
            }
            buffer = self.changed.wait_timeout(buffer, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// The thread's loop, until the port is dropped and everything is written, or the sink fails.
    fn feed(&self, mut sink: Box<dyn Write + Send>) {
        while let Some(bytes) = self.next() {
            if let Err(error) = self.write_out(&mut *sink, &bytes) {
                tracing::warn!(%error, "serial output failed and is discarded from now on");
                let mut buffer = self.lock();
                buffer.given_up = true;
                buffer.waiting.clear();
            }
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Option<Vec<u8>> {
        let mut buffer = self.lock();
        loop {
            if !buffer.waiting.is_empty() {
                buffer.writing = true;
                if buffer.dropped > 0 {
                    tracing::warn!(bytes = buffer.dropped, "serial output was dropped; it is being read again");
                    buffer.dropped = 0;
                }
                return Some(std::mem::take(&mut buffer.waiting).into());
            }
            if buffer.closed || buffer.given_up {
                return None;
            }
            buffer = self.changed.wait(buffer).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write_out(&self, sink: &mut dyn Write, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match sink.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.lock().closed {
                        return Err(error);
                    }
                    thread::sleep(RETRY);
                }
                Err(error) => return Err(error),
            }
        }
        match sink.flush() {
            Err(error) if !matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    const SOON: Duration = Duration::from_secs(10);

    /// A sink that blocks until told how the next write ends.
    struct Scripted(Receiver<io::Result<()>>, Sender<Vec<u8>>);

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().unwrap_or(Ok(()))?;
            self.1.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn scripted() -> (Output, Sender<io::Result<()>>, Receiver<Vec<u8>>) {
        let (script, steps) = channel();
        let (sent, written) = channel();
        (Output::new(Box::new(Scripted(steps, sent))).unwrap(), script, written)
    }

    #[test]
    fn a_blocked_sink_never_blocks_the_guest() {
        let (mut output, script, written) = scripted();
        // The thread takes at most the first buffer; the second and third must fit or be dropped.
        for _ in 0..3 {
            output.write_all(&vec![b'x'; CAPACITY]).unwrap();
        }
        assert_eq!(output.drain(Duration::from_millis(1)).unwrap_err().kind(), ErrorKind::TimedOut);
        drop(script);
        output.drain(SOON).unwrap();
        let total: usize = written.try_iter().map(|bytes| bytes.len()).sum();
        assert!((CAPACITY..=2 * CAPACITY).contains(&total), "{total}");
        assert_eq!(output.position(), total as u64, "dropped bytes have no position");
    }

    #[test]
    fn a_sink_that_says_try_again_gets_every_byte() {
        let (mut output, script, written) = scripted();
        output.write_all(b"hello").unwrap();
        for step in [Err(ErrorKind::WouldBlock.into()), Err(ErrorKind::Interrupted.into()), Ok(())] {
            script.send(step).unwrap();
        }
        assert_eq!(written.recv_timeout(SOON).unwrap(), b"hello");
    }

    #[test]
    fn a_sink_that_fails_is_given_up_and_the_guest_goes_on() {
        let (mut output, script, written) = scripted();
        output.write_all(b"lost").unwrap();
        script.send(Err(ErrorKind::BrokenPipe.into())).unwrap();
        output.drain(SOON).unwrap();
        output.write_all(b"discarded").unwrap();
        output.drain(SOON).unwrap();
        assert!(written.try_recv().is_err());
    }

    #[test]
    fn the_last_bytes_are_written_before_the_port_is_gone() {
        let (mut output, script, written) = scripted();
        drop(script);
        output.write_all(b"bye").unwrap();
        drop(output);
        assert_eq!(written.try_recv().unwrap(), b"bye");
    }
}
