//! Takes connections at the address of an incoming migration and finds out what each is.
//!
//! A connection must introduce itself with a preamble in time; what does not is told why where that helps, and forgotten. The
//! driver hears only of links that are Ferry's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;

use ferry_devices::fault::FaultControl;
use ferry_migration::wire::WireError;
use ferry_migration::wire::preamble::{Link, PREAMBLE_LEN, Preamble};
use vmm_sys_util::eventfd::EventFd;

use crate::runtime::destination::Event;
use crate::runtime::stream::{Listener, Stream};

/// Longest that a connection may take to introduce itself.
const INTRODUCTION: Duration = Duration::from_secs(2);
/// Pause before the next try when the host had nothing to take a connection with.
const SCARCITY: Duration = Duration::from_millis(100);
/// Connections that may be introducing themselves at a time; more are closed at once.
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
    let strangers = Arc::new(AtomicUsize::new(0));
    let mut threads: VecDeque<(Stream, JoinHandle<()>)> = VecDeque::new();
    loop {
        match listener.accept(cancel, faults) {
            Ok(None) => break,
            Ok(Some(stream)) => {
                threads.retain(|(_, thread)| !thread.is_finished());
                if strangers.load(SeqCst) >= MOST_STRANGERS {
                    tracing::warn!("too many connections that say nothing; one more was closed");
                    continue;
                }
                let (counted, events, introduced) = (strangers.clone(), events.clone(), stream.clone());
                counted.fetch_add(1, SeqCst);
                let spawned = crate::runtime::spawn(faults, "ferry-dst-hello", move || {
                    if !introduce(&introduced, &events) {
                        // Whoever accepts keeps a share of it until somebody else comes.
                        introduced.shutdown();
                    }
                    counted.fetch_sub(1, SeqCst);
                });
                match spawned {
                    Ok(thread) => threads.push_back((stream, thread)),
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
    for (stream, thread) in threads {
        if !thread.is_finished() {
            stream.shutdown();
        }
        if thread.join().is_err() {
            tracing::error!("a connection's thread ended unexpectedly");
        }
    }
}

/// Whether the driver has it now.
/// Whether the host is short of something, which passes (accept(2)).
fn is_scarcity(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

fn introduce(stream: &Stream, events: &Sender<Event>) -> bool {
    let mut bytes = [0; PREAMBLE_LEN];
    let read = stream.set_read_timeout(Some(INTRODUCTION)).and_then(|()| stream.read_exact(&mut bytes));
    if let Err(error) = read {
        tracing::info!(%error, "a connection did not introduce itself and was closed");
        return false;
    }
    match Preamble::decode(&bytes) {
        Ok(preamble) => {
            // The driver ends only after this thread.
            stream.set_read_timeout(None).is_ok() && events.send(Event::Arrived(preamble, stream.clone())).is_ok()
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
