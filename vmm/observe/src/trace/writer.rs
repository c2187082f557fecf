//! The queue of a trace, and the thread that empties it into the file.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ferry_migration::MigrationInfo;

use super::entry::{Entry, Message, Sample, What};
use crate::output_file::{self, OutputFileError, Purpose};

/// Most entries in the queue: storage that hangs costs some megabytes, then further entries.
const QUEUE: usize = 1 << 15;
/// Entries that are written together.
const BATCH: usize = 256;
/// From one sample of a migration to the next.
const SAMPLE_EVERY: Duration = Duration::from_millis(200);
/// Longest time that the end of the process waits for the file.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why there is no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file could not be opened.
    #[error("the trace {0}")]
    Open(#[source] OutputFileError),
    /// The host could not start a thread.
    #[error("no thread can be started to write the trace: {0}")]
    Thread(std::io::Error),
}

/// Returns the progress of a migration, or `None` when it is over.
pub(super) type Watched = Box<dyn Fn() -> Option<MigrationInfo> + Send>;

enum Order {
    Write(Entry),
    Flush(Sender<()>),
}

/// A trace that is being written.
#[derive(Debug)]
pub struct Writer {
    orders: SyncSender<Order>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    connection: AtomicU32,
    lost: AtomicU64,
    watched: Mutex<Option<Watched>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("connection", &self.connection).field("lost", &self.lost).finish()
    }
}

impl Writer {
    /// Appends to the file at `path` from now on.
    ///
    /// # Errors
    /// When it cannot be opened, or the host gives no thread.
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        let file = output_file::append(path, Purpose::Trace).map_err(TraceError::Open)?;
        let (orders, inbox) = sync_channel(QUEUE);
        let shared = Arc::<Shared>::default();
        let theirs = shared.clone();
        let run = move || Job { file, shared: theirs, text: Vec::new(), told: false }.run(&inbox);
        std::thread::Builder::new().name("ferry-trace".into()).spawn(run).map_err(TraceError::Thread)?;
        Ok(Writer { orders, shared })
    }

    /// Notes something that happens now. When the queue is full the entry is lost, and counted.
    pub fn put(&self, what: What) {
        if self.orders.try_send(Order::Write(now(what))).is_err() {
            self.shared.lost.fetch_add(1, Relaxed);
        }
    }

    /// Waits until earlier entries are in the file, for [`FAREWELL`] at most.
    pub fn flush(&self) {
        let (done, wait) = channel();
        let until = Instant::now() + FAREWELL;
        // A full queue means that the file hangs.
        if self.orders.try_send(Order::Flush(done)).is_ok() {
            // A timeout is ignored: the process ends all the same.
            let _ = wait.recv_timeout(until.saturating_duration_since(Instant::now()));
        }
    }

    /// From now on messages travel on this connection.
    pub(super) fn connection(&self, number: u32) {
        self.shared.connection.store(number, Relaxed);
    }

    /// Samples come from here from now on.
    pub(super) fn watch(&self, watched: Watched) {
        *self.shared.watched.lock().unwrap_or_else(PoisonError::into_inner) = Some(watched);
    }

    /// A message of the present connection.
    pub(super) fn message(&self, name: &str, bytes: usize) -> Message {
        let connection = self.shared.connection.load(Relaxed);
        Message { message: name.to_owned(), bytes: bytes as u64, connection }
    }
}

fn now(what: What) -> Entry {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Entry { at_us: since.as_micros() as u64, what }
}

/// The writing thread.
struct Job {
    file: File,
    shared: Arc<Shared>,
    text: Vec<u8>,
    /// The failure to write has been logged.
    told: bool,
}

impl Job {
    fn run(mut self, inbox: &Receiver<Order>) {
        let mut sample_at = Instant::now() + SAMPLE_EVERY;
        loop {
            match inbox.recv_timeout(sample_at.saturating_duration_since(Instant::now())) {
                Ok(first) => self.batch(first, inbox),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if Instant::now() >= sample_at {
                sample_at = Instant::now() + SAMPLE_EVERY;
                self.sample();
            }
        }
    }

    fn batch(&mut self, first: Order, inbox: &Receiver<Order>) {
        let mut flushed = Vec::new();
        for order in std::iter::once(first).chain(inbox.try_iter().take(BATCH)) {
            match order {
                Order::Write(entry) => self.add(&entry),
                Order::Flush(done) => flushed.push(done),
            }
        }
        let entries = self.shared.lost.swap(0, Relaxed);
        if entries > 0 {
            self.add(&now(What::Lost { entries }));
        }
        self.write();
        for done in flushed {
            // The caller of `flush` may have given up.
            let _ = done.send(());
        }
    }

    fn sample(&mut self) {
        let mut watched = self.shared.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let info = watched.as_ref().and_then(|ask| ask());
        if info.is_none() {
            *watched = None;
        }
        drop(watched);
        if let Some(info) = info {
            self.add(&now(What::Sample(Sample::of(info))));
            self.write();
        }
    }

    fn add(&mut self, entry: &Entry) {
        serde_json::to_writer(&mut self.text, entry).expect("an entry is plain data");
        self.text.push(b'\n');
    }

    fn write(&mut self) {
        if let Err(error) = self.file.write_all(&self.text)
            && !std::mem::replace(&mut self.told, true)
        {
            tracing::warn!(%error, "the trace could not be written: entries are missing in it");
        }
        self.text.clear();
    }
}
