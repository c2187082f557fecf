//! Standard error, without waiting for its reader: log lines and messages queue here, and a thread
//! of its own writes them.
//!
//! A pipe whose reader has stopped, or a terminal on hold, can block a write indefinitely; a full
//! disk fails it. Neither may reach the threads that run or move a guest. The queue has a bound:
//! messages that do not fit are dropped and counted, and the count is written as soon as the reader
//! goes on. An error of the file is no error of the process.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

/// Most bytes in the queue.
const CAPACITY: usize = 1 << 20;
/// Longest that the end of the process waits for the reader.
const EXIT_PATIENCE: Duration = Duration::from_secs(1);

static STDERR: OnceLock<Option<Queue>> = OnceLock::new();

/// Writes a line. Does not wait, and cannot fail.
pub(crate) fn say(line: impl Display) {
    write(format!("{line}\n").into_bytes());
}

/// Writes these bytes. Does not wait, and cannot fail.
pub(crate) fn write(bytes: Vec<u8>) {
    match STDERR.get_or_init(start) {
        Some(queue) => queue.push(bytes),
        // The host has no thread to spare: the message is worth the wait.
        None => drop(io::stderr().write_all(&bytes)),
    }
}

/// Waits until all is written, for at most `within`.
pub(crate) fn flush_within(within: Duration) {
    if let Some(Some(queue)) = STDERR.get() {
        queue.flush(within);
    }
}

/// Dropped at the end of the process, even by a panic: waits until all is written, for a second at
/// most.
#[derive(Debug)]
pub(crate) struct FlushAtExit;

impl Drop for FlushAtExit {
    fn drop(&mut self) {
        flush_within(EXIT_PATIENCE);
    }
}

/// A writer for log lines, each given as a whole.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn start() -> Option<Queue> {
    // SAFETY: descriptor 2 is open from the start of the process on (the standard library opens
    // what was closed), and is not closed by it.
    Queue::start(unsafe { BorrowedFd::borrow_raw(libc::STDERR_FILENO) }).ok()
}

/// The queue and its thread, which ends with the process.
struct Queue {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Messages that did not fit since the last one that did.
    dropped: u64,
    /// The thread has taken a message that is not written yet.
    writing: bool,
}

impl Queue {
    fn start<F: AsFd + Send + 'static>(file: F) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let theirs = shared.clone();
        let run = move || theirs.run(&file);
        // Signals are for the threads that wait for them (`signals`).
        crate::signals::without(|| thread::Builder::new().name("stderr".into()).spawn(run))??;
        Ok(Queue { shared })
    }

    fn push(&self, bytes: Vec<u8>) {
        let mut state = self.shared.lock();
        if state.bytes + bytes.len() > CAPACITY {
            state.dropped += 1;
            return;
        }
        state.note_dropped();
        state.add(bytes);
        drop(state);
        self.shared.changed.notify_all();
    }

    fn flush(&self, within: Duration) {
        let deadline = Instant::now() + within;
        let mut state = self.shared.lock();
        while state.writing || !state.waiting.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    fn add(&mut self, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        self.waiting.push_back(bytes);
    }

    /// Queues the count of the dropped messages in their place.
    fn note_dropped(&mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            self.add(format!("ferry: {dropped} messages are missing here: standard error was not read\n").into_bytes());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, file: &impl AsFd) {
        loop {
            let bytes = self.next();
            // A closed pipe or a full disk loses the message.
            let _ = write_all(file, &bytes);
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut state = self.lock();
        loop {
            if state.waiting.is_empty() {
                state.note_dropped();
            }
            if let Some(bytes) = state.waiting.pop_front() {
                state.bytes -= bytes.len();
                state.writing = true;
                return bytes;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn write_all(file: &impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            // Another process may have made the shared file non-blocking.
            Err(rustix::io::Errno::AGAIN) => drop(poll(&mut [PollFd::new(file, PollFlags::OUT)], None)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn a_reader_that_stops_costs_messages_and_no_time() {
        let (mut reader, writer) = io::pipe().unwrap();
        let queue = Queue::start(writer).unwrap();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        // The pipe takes 64 KiB, the queue a MiB, the thread one line.
        let lines = 2 * CAPACITY / line.len();
        for _ in 0..lines {
            queue.push(line.clone());
        }
        queue.flush(Duration::from_millis(1));
        let kept = std::thread::spawn(move || {
            let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
            while !text.ends_with(b"the end\n") {
                let count = reader.read(&mut buffer).unwrap();
                text.extend_from_slice(&buffer[..count]);
            }
            String::from_utf8(text).unwrap()
        });
        queue.flush(SOON);
        queue.push(b"the end\n".to_vec());
        let text = kept.join().unwrap();
        let whole = text.lines().filter(|line| line.starts_with('x')).count();
        // Lines fit again while the thread fills the pipe: there may be several counts.
        let counts =
            text.lines().filter_map(|line| line.strip_prefix("ferry: ")?.split(' ').next()?.parse::<usize>().ok());
        let missing: usize = counts.sum();
        assert_eq!(whole + missing, lines, "every line is there or counted");
        assert!(missing > 0, "some did not fit");
    }

    #[test]
    fn a_file_that_takes_nothing_ends_nothing() {
        let queue = Queue::start(std::fs::File::options().write(true).open("/dev/full").unwrap()).unwrap();
        for _ in 0..3 {
            queue.push(b"lost\n".to_vec());
            queue.flush(SOON);
        }
        assert!(!queue.shared.lock().writing, "the thread goes on");
    }

    #[test]
    fn what_is_flushed_is_written() {
        let (mut reader, writer) = io::pipe().unwrap();
        let queue = Queue::start(writer).unwrap();
        queue.push(b"one\n".to_vec());
        queue.push(b"two\n".to_vec());
        queue.flush(SOON);
        let mut bytes = [0; 8];
        reader.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"one\ntwo\n");
    }
}
