//! Postcopy on the destination: who waits for a page asks the source for it, and what arrives is
//! placed.
//!
//! [`Missing`] is one postcopy's: the armed memory, the urgent link (which may be lost and come
//! back), and the thread that turns faults into page requests. The threads that receive pages
//! place them through [`Missing::land`].

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferry_devices::DeviceId;
use ferry_devices::fault::{FaultControl, Place};
use ferry_memory::userfault::{self, Faults, HEAR, Landing, Next, UserfaultError};
use ferry_migration::destination::Input;
use ferry_migration::pages::{CHUNK_PAGES, PAGE_SIZE, PageBitmap};
use ferry_migration::wire::bulk::Chunk;
use ferry_migration::wire::request;
use vmm_sys_util::eventfd::EventFd;

use crate::machine::Machine;
use crate::runtime::control::LinkError;
use crate::runtime::destination::silence::{Owed, Silence};
use crate::runtime::destination::{Event, LinkEvent};
use crate::runtime::stream::Stream;

/// A page that has not come for so long is asked for again: its answer may have been lost, and
/// nothing else would ever tell.
const ASK_AGAIN: Duration = Duration::from_secs(2);
const MEMORY: DeviceId = DeviceId { name: "memory", instance: 0 };

/// Why received pages could not be placed.
#[derive(Debug, thiserror::Error)]
pub enum LandError {
    /// The link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The host refused.
    #[error("a received page could not be placed: {0}")]
    Place(#[from] UserfaultError),
}

/// Where the pages of a frame are.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// Still on the link, which errors call this.
    OnLink(&'a Stream, &'static str),
    /// These bytes, one page after the other.
    Here(&'a [u8]),
}

impl Payload<'_> {
    /// The next pages, as many as fill `buffer`.
    fn next(&mut self, buffer: &mut [u8]) -> Result<(), LinkError> {
        match self {
            Payload::OnLink(stream, link) => stream.read_exact(buffer).map_err(LinkError::io(link))?,
            Payload::Here(bytes) => {
                let (next, rest) = bytes.split_at(buffer.len());
                buffer.copy_from_slice(next);
                *bytes = rest;
            }
        }
        Ok(())
    }
}

/// A postcopy on its destination.
#[derive(Debug)]
pub struct Missing {
    /// The armed memory.
    pub faults: Arc<Faults>,
    /// How many pages lacked when it was armed.
    pub at_first: u64,
    session: u32,
    /// How long a link that owes pages may be silent.
    patience: Duration,
    links: Mutex<Links>,
    all_told: AtomicBool,
    stop: EventFd,
    events: Sender<Event>,
    /// What is to go wrong here.
    injected: Arc<FaultControl>,
}

/// The present connection. Nothing is waited for while this is locked: the driver locks it, too.
#[derive(Debug)]
struct Links {
    /// Which it is; none between a break and a recovery.
    connection: Option<u32>,
    urgent: Option<Stream>,
    /// The end of a request that the socket did not take as a whole.
    begun: Vec<u8>,
    /// Some request was not sent, because the socket is full.
    owes: bool,
    /// The source has sent every page.
    all_sent: bool,
    silence: Silence,
}

impl Links {
    /// None is here, and none is expected.
    fn none(patience: Duration) -> Self {
        Links {
            connection: None,
            urgent: None,
            begun: Vec::new(),
            owes: false,
            all_sent: false,
            silence: Silence::new(patience),
        }
    }

    /// Sends a request as far as the socket takes it without waiting.
    fn request(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let Some(stream) = &self.urgent else { return Ok(()) };
        if !self.begun.is_empty() {
            let sent = stream.write_now(&self.begun)?;
            self.begun.drain(..sent);
        }
        if self.begun.is_empty() {
            let sent = stream.write_now(bytes)?;
            if sent > 0 {
                self.begun.extend_from_slice(&bytes[sent..]);
            }
            self.owes |= sent < bytes.len();
        } else {
            self.owes = true;
        }
        Ok(())
    }
}

impl Missing {
    /// Arms `pages`, of which some have been `discarded` before, and starts to listen for faults.
    /// Requests wait for the urgent link. A link that owes pages may be silent for `patience`.
    ///
    /// # Errors
    /// When the host does not offer what is needed.
    pub fn arm(
        machine: &Machine,
        pages: &PageBitmap,
        discarded: &PageBitmap,
        (session, patience): (u32, Duration),
        events: Sender<Event>,
    ) -> Result<(Arc<Self>, JoinHandle<()>), UserfaultError> {
        userfault::before_open(machine.memory().backing(), machine.faults())?;
        let faults = Faults::arm_after(machine.memory(), pages, discarded)?;
        let stop = EventFd::new(libc::EFD_CLOEXEC).map_err(UserfaultError::Open)?;
        let missing = Arc::new(Missing {
            faults,
            at_first: pages.count(),
            session,
            patience,
            links: Mutex::new(Links::none(patience)),
            all_told: AtomicBool::new(false),
            stop,
            events,
            injected: machine.faults().clone(),
        });
        let (handler, dead) = (missing.clone(), missing.clone());
        let thread = crate::runtime::spawn_watched(
            machine.faults(),
            "ferry-dst-faults",
            move || handler.hear_faults(),
            move |reason| dead.died(reason),
        );
        let thread = thread.map_err(UserfaultError::Open)?;
        missing.look_if_all_here();
        Ok((missing, thread))
    }

    /// The links of this connection are expected from now on.
    pub fn expect(&self, connection: u32) {
        let mut links = self.links();
        *links = Links { connection: Some(connection), ..Links::none(self.patience) };
    }

    /// The urgent link is here, for the first time or again: what is awaited is asked for on it.
    pub fn connect(&self, stream: Stream) {
        let mut links = self.links();
        links.silence.answers_on(stream.clone());
        links.urgent = Some(stream);
        drop(links);
        // A page that is read as a fault from now on finds the link; the ones before are asked for
        // here, some twice.
        for page in self.faults.awaited() {
            self.request(page);
        }
    }

    /// The links are gone: requests wait for the next connection.
    pub fn disconnect(&self) {
        *self.links() = Links::none(self.patience);
    }

    /// Pages come on this link, which errors call `link`.
    pub fn comes_on(&self, link: &'static str, stream: &Stream) {
        self.links().silence.comes_on(link, stream.clone());
    }

    /// The source has sent everything that it will send on this link unasked.
    pub fn has_ended(&self, stream: &Stream) {
        self.links().silence.has_ended(stream);
    }

    /// The source says that it has sent every page: those that are missing are on their way.
    pub fn all_sent(&self) {
        self.links().all_sent = true;
    }

    /// Ends the thread that hears faults.
    pub fn stop(&self) {
        // An eventfd takes 2^64 signals before a write could fail.
        let _ = self.stop.write(1);
    }

    /// Takes the pages of a frame and places them. Returns how many were new.
    ///
    /// # Errors
    /// The link failed, or the host refused to place them.
    pub fn land(&self, chunk: &Chunk, mut payload: Payload<'_>, landing: &mut Landing) -> Result<u64, LandError> {
        let mut placed = 0;
        for (at, (data, zero)) in chunk.data.iter().zip(&chunk.zero).enumerate() {
            let first_page = u64::from(chunk.index) * CHUNK_PAGES + at as u64 * 64;
            if *zero != 0 || *data != 0 {
                let allowed = self.injected.before(Place::HostMemory);
                allowed.map_err(|source| UserfaultError::Place { page: first_page, source })?;
            }
            if *zero != 0 {
                placed += u64::from(landing.place_zero(first_page, *zero)?.count_ones());
            }
            if *data != 0 {
                let buffer = landing.buffer(data.count_ones());
                debug_assert_eq!(buffer.len() as u64, u64::from(data.count_ones()) * PAGE_SIZE);
                payload.next(buffer)?;
                placed += u64::from(landing.place(first_page, *data)?.count_ones());
            }
        }
        self.look_if_all_here();
        Ok(placed)
    }

    fn look_if_all_here(&self) {
        if self.faults.remaining() == 0 && !self.all_told.swap(true, SeqCst) {
            // A driver that has ended needs no event.
            let _ = self.events.send(Event::Input(Input::AllReceived));
        }
    }

    fn hear_faults(&self) {
        let mut handler = self.faults.handler();
        let every = self.links().silence.every();
        let (mut looked, mut asked) = (Instant::now(), Instant::now());
        loop {
            if looked.elapsed() >= every {
                self.look(looked.elapsed());
                looked = Instant::now();
            }
            if asked.elapsed() >= ASK_AGAIN {
                asked = Instant::now();
                self.ask_again();
            }
            match handler.next(every, &self.stop) {
                Ok(Next::Page(page)) if self.injected.before_call(HEAR, &MEMORY).is_ok() => self.request(page),
                Ok(Next::Page(page)) => return self.died(format!("told to fail in {HEAR}, of page {page}")),
                Ok(Next::TimedOut) => {}
                Ok(Next::Cancelled) => return,
                Err(error) => return self.died(ferry_observe::causes(&error)),
            }
        }
    }

    /// Looks whether what is owed comes, and asks for what could not be asked for before.
    fn look(&self, waited: Duration) {
        let awaited = self.faults.awaited();
        let mut links = self.links();
        let owes = std::mem::take(&mut links.owes);
        if let Some(connection) = links.connection {
            let unsent = if links.all_sent { self.faults.remaining() } else { 0 };
            if let Some(reason) = links.silence.look(Owed { awaited: awaited.len(), unsent }, waited) {
                // Said once; the driver disconnects.
                links.connection = None;
                // A driver that has ended needs no event.
                let _ = self.events.send(Event::OfLink(connection, LinkEvent::PagesLost(reason)));
            }
        }
        drop(links);
        if owes {
            awaited.into_iter().for_each(|page| self.request(page));
        }
    }

    /// The source sends a page that is asked for twice twice; on a link that has lost a frame, the
    /// next one shows it.
    fn ask_again(&self) {
        for page in self.faults.awaited_for(ASK_AGAIN) {
            tracing::debug!(page, "a page has not come and is asked for again");
            self.request(page);
        }
    }

    /// No thread reads faults any more: an access to a missing page would wait for ever.
    fn died(&self, reason: String) {
        // A driver that has ended needs no event.
        let _ = self.events.send(Event::Input(Input::FaultsDied(reason)));
    }

    /// Never waits: a source that does not read its requests is noticed by the pages that do not
    /// come.
    fn request(&self, page: u64) {
        let mut links = self.links();
        if let Err(error) = links.request(&request::encode(page, self.session)) {
            // The thread that reads this link tells the driver; the page is asked for again on the
            // next one.
            tracing::debug!(%error, page, "a page request was not sent");
        }
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    const REQUEST: [u8; request::REQUEST_LEN] = [5; request::REQUEST_LEN];

    /// What comes is whole requests, and as many as were sent.
    fn read_all(far: &Stream) -> usize {
        let mut bytes = Vec::new();
        while far.is_readable() {
            let mut byte = [0];
            far.read_exact(&mut byte).unwrap();
            bytes.push(byte[0]);
        }
        assert!(bytes.len() % REQUEST.len() == 0 && bytes.iter().all(|byte| *byte == 5));
        bytes.len() / REQUEST.len()
    }

    #[test]
    fn a_source_that_reads_no_requests_holds_up_nobody() {
        let (near, far) = UnixStream::pair().unwrap();
        let [near, far] = [near, far].map(|end| Stream::new(end.into()).unwrap());
        let mut links = Links { urgent: Some(near), ..Links::none(Duration::from_secs(1)) };
        let mut sent = 0;
        while !links.owes {
            links.request(&REQUEST).unwrap();
            sent += 1;
            assert!(sent < 1 << 20, "a socket has a bound");
        }
        assert!(links.begun.len() < REQUEST.len());
        assert!(read_all(&far) >= sent - 1);
        links.owes = false;
        links.request(&REQUEST).unwrap();
        assert!(!links.owes && read_all(&far) >= 1, "there is room again");
    }
}
