//! Takes connections at the address of an incoming migration and finds out what each is.
//!
//! A connection must introduce itself with a preamble in time; what does not is told why where that helps, and forgotten. The
//! driver hears only of links that are Ferry's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;

use ferry_devices::fault::FaultControl;
use ferry_migration::wire::WireError;
use ferry_migration::wire::preamble::{Link, PREAMBLE_LEN, Preamble};
use vmm_sys_util::eventfd::EventFd;

use crate::runtime::destination::Event;
use crate::runtime::stream::{Handle, Listener, Stream};

/// Longest that a connection may take to introduce itself.
const INTRODUCTION: Duration = Duration::from_secs(2);
/// Pause before the next try when the host had nothing to take a connection with.
const SCARCITY: Duration = Duration::from_millis(100);
/// Connections that may be introducing themselves at a time. One more, and the one that has been silent for the longest is
/// closed: the newest may be the source, which introduces itself at once.
const MOST_STRANGERS: usize = 16;

/// Ends the thread that listens, when it is dropped: whatever becomes of its owner, the address is free again.
pub struct Listening(EventFd);

impl Listening {
    /// With the other end, for [`listen`].
    ///
    /// # Errors
    /// When the host gives no descriptor.
    pub fn new() -> std::io::Result<(Self, EventFd)> {
        let stop = EventFd::new(libc::EFD_CLOEXEC)?;
        let heard = stop.try_clone()?;
        Ok((Listening(stop), heard))
    }

    /// Ends it now.
    pub fn end(&self) {
        // An eventfd takes 2^64 signals before a write could fail.
        let _ = self.0.write(1);
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts the thread that listens until `cancel` is signalled.
pub fn listen(
    listener: Listener,
    cancel: EventFd,
    events: Sender<Event>,
    faults: Arc<FaultControl>,
) -> std::io::Result<JoinHandle<()>> {
    let own = faults.clone();
    crate::runtime::spawn(&own, "ferry-dst-accept", move || accept_all(&listener, &cancel, &events, &faults))
}

fn accept_all(listener: &Listener, cancel: &EventFd, events: &Sender<Event>, faults: &FaultControl) {
    let mut strangers: VecDeque<Stranger> = VecDeque::new();
    loop {
        match listener.accept(cancel, faults) {
            Ok(None) => break,
            Ok(Some(stream)) => {
                strangers.retain(|stranger| !stranger.thread.is_finished());
                if strangers.len() >= MOST_STRANGERS
                    && let Some(oldest) = strangers.pop_front()
                {
                    tracing::warn!("too many connections that say nothing; the oldest was closed");
                    oldest.give_up();
                }
                match Stranger::new(stream, events, faults) {
                    Ok(stranger) => strangers.push_back(stranger),
                    Err(error) => tracing::warn!(%error, "no thread for a connection"),
                }
            }
            Err(error) if is_scarcity(&error) => {
                tracing::warn!(%error, "a connection could not be taken; the next is in a moment");
                std::thread::sleep(SCARCITY);
            }
            Err(error) => {
                // The driver ends only after this thread.
                let _ = events.send(Event::ListenFailed(error));
                break;
            }
        }
    }
    strangers.into_iter().for_each(Stranger::give_up);
}

/// A connection that is introducing itself, in a thread of its own.
struct Stranger {
    stream: Handle,
    settled: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Stranger {
    fn new(stream: Stream, events: &Sender<Event>, faults: &FaultControl) -> std::io::Result<Self> {
        let settled = Arc::new(AtomicBool::new(false));
        let (handle, ours, events) = (stream.handle(), settled.clone(), events.clone());
        let thread = crate::runtime::spawn(faults, "ferry-dst-hello", move || {
            if !introduce(&stream, &ours, &events) {
                stream.shutdown();
            }
        })?;
        Ok(Stranger { stream: handle, settled, thread })
    }

    /// Closes the connection, unless it is a link by now.
    fn give_up(self) {
        if !self.settled.swap(true, SeqCst) {
            self.stream.shutdown();
        }
        if self.thread.join().is_err() {
            tracing::error!("a connection's thread ended unexpectedly");
        }
    }
}

/// Whether the host is short of something, which passes (accept(2)).
fn is_scarcity(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Reads a preamble; whether the driver has the connection now. `settled` says that it is a link, or that it was given up.
fn introduce(stream: &Stream, settled: &AtomicBool, events: &Sender<Event>) -> bool {
    let mut bytes = [0; PREAMBLE_LEN];
    let read = stream.set_read_timeout(Some(INTRODUCTION)).and_then(|()| stream.read_exact(&mut bytes));
    if let Err(error) = read {
        tracing::info!(%error, "a connection did not introduce itself and was closed");
        return false;
    }
    match Preamble::decode(&bytes) {
        Ok(preamble) => {
            // The driver ends only after this thread.
            !settled.swap(true, SeqCst)
                && stream.set_read_timeout(None).is_ok()
                && events.send(Event::Arrived(preamble, stream.clone())).is_ok()
        }
        Err(error) => {
            tracing::warn!(%error, "a connection was refused");
            if matches!(error, WireError::Version { .. }) {
                // Our own preamble tells the other Ferry which version is spoken here.
                let ours = Preamble { migration_id: 0, connection: 0, link: Link::Control };
                if stream.write_all(&ours.encode()).is_ok() {
                    stream.finish_sending();
                    stream.drain();
                }
            }
            false
        }
    }
}
