//! `ferry run --trace FILE`: what happens in this process's migrations, one JSON object a line.
//!
//! A process has one trace, as it has one log. Entries are noted where everything of their kind
//! passes: the drivers' inputs and outputs, the control link, the progress, the events. Without
//! `--trace` a note costs the read of one variable. With it an entry goes into a queue; a thread of
//! its own turns it into text and writes that at once, so no other thread waits for a file, and the
//! file of a killed process has its entries. `ferry report` draws it.

mod entry;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt::Debug;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ferry_migration::{MigrationInfo, Status, wire};

pub use self::entry::{Entry, FORMAT, Message, OutputPosition, Round, Sample, Side, Start, What};
pub use self::writer::{TraceError, Writer};

use crate::PageCounters;

static WRITER: OnceLock<Writer> = OnceLock::new();

/// Traces everything from now on; once in a process.
///
/// # Errors
/// When the file cannot be opened, or the host gives no thread.
pub fn start(path: &std::path::Path, start: Start) -> Result<(), TraceError> {
    let writer = Writer::open(path)?;
    writer.put(What::Start(start));
    // A second call leaves the first trace in place.
    let _ = WRITER.set(writer);
    Ok(())
}

/// Waits, for a limited time, until all earlier entries are in the file.
pub fn finish() {
    if let Some(writer) = WRITER.get() {
        writer.flush();
    }
}

/// Notes the result of `what`, which is not called without a trace.
pub fn note(what: impl FnOnce() -> What) {
    if let Some(writer) = WRITER.get() {
        writer.put(what());
    }
}

/// A migration begins; `info` is polled for its progress until the migration has ended, or `info`
/// returns `None`.
pub fn migration(
    side: Side,
    id: u128,
    peer: Option<String>,
    info: impl Fn() -> Option<MigrationInfo> + Send + 'static,
) {
    let Some(writer) = WRITER.get() else { return };
    writer.put(What::Migration { side, id: format!("{id:032x}"), peer });
    let goes_on = |info: &MigrationInfo| info.status.is_none_or(Status::is_active);
    writer.watch(Box::new(move || info().filter(goes_on)));
}

/// A control link is open, the `number`th as the source counts.
pub fn connection(number: u32) {
    if let Some(writer) = WRITER.get() {
        writer.connection(number);
        writer.put(What::Connection { number });
    }
}

/// The migration's status has changed; `info` returns its progress.
pub fn status(status: Status, info: impl Fn() -> MigrationInfo) {
    note(|| What::Status { status });
    note(|| match status.is_active() {
        true => What::Sample(Sample::of(info())),
        false => What::Summary(Box::new(info())),
    });
}

/// An event was published; without a `name` it is noted elsewhere.
pub fn event(name: impl FnOnce() -> Option<String>) {
    if let Some(writer) = WRITER.get()
        && let Some(name) = name()
    {
        writer.put(What::Event { name });
    }
}

/// A message left.
pub fn sent<M: wire::Message>(message: &M, bytes: usize) {
    if let Some(writer) = WRITER.get() {
        writer.put(What::Sent(writer.message(name(message), bytes)));
    }
}

/// A message arrived.
pub fn received<M: wire::Message>(message: &M, bytes: usize) {
    if let Some(writer) = WRITER.get() {
        writer.put(What::Received(writer.message(name(message), bytes)));
    }
}

fn name<M: wire::Message>(message: &M) -> &'static str {
    M::limits(message.kind()).map_or("", |(name, ..)| name)
}

/// The state machine has returned `output`, of this name.
pub fn step(name: &str, output: &impl Debug) {
    note(|| What::Step { name: name.to_owned(), detail: format!("{output:?}") });
}

/// The state machine receives `input`.
pub fn input(input: &impl Debug) {
    note(|| What::Input { detail: format!("{input:?}") });
}

/// A change of the ownership record, `call`, and its result.
pub fn record<E: std::error::Error>(call: &str, result: &Result<(), E>) {
    let answer = || result.as_ref().map_or_else(|error| crate::causes(error), |()| "done".to_owned());
    note(|| What::Record { call: call.to_owned(), answer: answer() });
}

/// Pages have been sent since `before` was counted: in round `number`, or as the last ones.
pub fn round(number: Option<u64>, before: [u64; 3], counters: &PageCounters, took: Duration, dirty_pages: Option<u64>) {
    note(|| {
        let [pages, zero_pages, bytes] = counters.sent();
        What::Round(Round {
            number,
            pages: pages.saturating_sub(before[0]),
            zero_pages: zero_pages.saturating_sub(before[1]),
            bytes: bytes.saturating_sub(before[2]),
            took_us: took.as_micros() as u64,
            dirty_pages,
            cpu_throttle: Some(counters.cpu_throttle.load(Relaxed)).filter(|percentage| *percentage > 0),
        })
    });
}
