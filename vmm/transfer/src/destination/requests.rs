//! Page requests: missing pages are requested from the other process on the urgent link.
//!
//! The link may be lost and come back. A request that could not be sent is made again, and so is
//! one whose page does not come. The threads that receive pages place the answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ferry_devices::DeviceId;
use ferry_devices::fault::FaultControl;
use ferry_link::Link;
use ferry_memory::userfault::{Faults, HEAR, PageSource};
use ferry_migration::wire::request;

use crate::destination::silence::{Owed, Silence};

/// A page that has not come for this long is requested again: its answer may have been lost, which
/// nothing else would show.
const ASK_AGAIN: Duration = Duration::from_secs(2);
const MEMORY: DeviceId = DeviceId { name: "memory", instance: 0 };

/// Notifications to the driver about pages that arrive in postcopy.
#[derive(Debug)]
pub(crate) enum PageNews {
    /// None is missing any more.
    AllHere,
    /// No thread serves missing pages any more; the text says why.
    NotServed(String),
    /// A page link of this connection was lost; the text says which and how.
    LinkLost { connection: u32, reason: String },
}

/// Notifies the driver, which may have ended.
#[derive(Clone)]
pub(crate) struct Tell(pub Arc<dyn Fn(PageNews) + Send + Sync>);

impl std::fmt::Debug for Tell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tell")
    }
}

/// Requests missing pages from the source, and watches the links on which they come.
#[derive(Debug)]
pub(crate) struct Requests {
    faults: Arc<Faults>,
    session: u32,
    /// How long a link that owes pages may be silent.
    patience: Duration,
    links: Mutex<Links>,
    tell: Tell,
    /// Faults to inject here.
    injected: Arc<FaultControl>,
}

/// The present connection. No thread may block while this is locked: the driver locks it, too.
#[derive(Debug)]
struct Links {
    /// Its number; none between a break and a recovery.
    connection: Option<u32>,
    urgent: Option<Link>,
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

impl Requests {
    /// For the missing pages of `faults`. No link is here yet; one that owes pages may be silent
    /// for `patience`.
    #[must_use]
    pub(crate) fn new(
        faults: Arc<Faults>,
        (session, patience): (u32, Duration),
        tell: Tell,
        injected: Arc<FaultControl>,
    ) -> Self {
        Requests { faults, session, patience, links: Mutex::new(Links::none(patience)), tell, injected }
    }

    /// The source for [`Faults::serve`].
    #[must_use]
    pub(crate) fn source(&self) -> UrgentSource<'_> {
        UrgentSource { requests: self, asked: Instant::now() }
    }

    /// The links of this connection are expected from now on.
    pub(crate) fn expect(&self, connection: u32) {
        let mut links = self.links();
        *links = Links { connection: Some(connection), ..Links::none(self.patience) };
    }

    /// The urgent link is here, for the first time or again: awaited pages are requested on it.
    pub(crate) fn connect(&self, stream: Link) {
        let mut links = self.links();
        links.silence.answers_on(stream.clone());
        links.urgent = Some(stream);
        drop(links);
        // A fault that is read from now on finds the link; pages of earlier ones are requested
        // here, some twice.
        for page in self.faults.awaited() {
            self.request(page);
        }
    }

    /// The links are gone: requests wait for the next connection.
    pub(crate) fn disconnect(&self) {
        *self.links() = Links::none(self.patience);
    }

    /// Pages come on this link, named `link` in errors.
    pub(crate) fn comes_on(&self, link: &'static str, stream: &Link) {
        self.links().silence.comes_on(link, stream.clone());
    }

    /// The source has sent everything that it will send on this link without a request.
    pub(crate) fn has_ended(&self, stream: &Link) {
        self.links().silence.has_ended(stream);
    }

    /// The source has reported that every page was sent: those that are missing are on their way.
    pub(crate) fn all_sent(&self) {
        self.links().all_sent = true;
    }

    /// Checks whether pages that are owed come, and makes requests that could not be sent before.
    fn look(&self, waited: Duration) {
        let awaited = self.faults.awaited();
        let mut links = self.links();
        let owes = std::mem::take(&mut links.owes);
        if let Some(connection) = links.connection {
            let unsent = if links.all_sent { self.faults.remaining() } else { 0 };
            if let Some(reason) = links.silence.look(Owed { awaited: awaited.len(), unsent }, waited) {
                // Reported once; the driver disconnects.
                links.connection = None;
                (self.tell.0)(PageNews::LinkLost { connection, reason });
            }
        }
        drop(links);
        if owes {
            awaited.into_iter().for_each(|page| self.request(page));
        }
    }

    /// Requests overdue pages again, which the source then sends again; on a link that has lost a
    /// frame, the next frame shows it.
    fn ask_again(&self) {
        for page in self.faults.awaited_for(ASK_AGAIN) {
            tracing::debug!(page, "a page has not come and is asked for again");
            self.request(page);
        }
    }

    /// Never waits: a source that does not read its requests is noticed by the pages that do not
    /// come.
    fn request(&self, page: u64) {
        let mut links = self.links();
        if let Err(error) = links.request(&request::encode(page, self.session)) {
            // The thread that reads this link notifies the driver; the page is requested again on
            // the next one.
            tracing::debug!(%error, page, "a page request was not sent");
        }
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The other process as a source of pages.
#[derive(Debug)]
pub(crate) struct UrgentSource<'a> {
    requests: &'a Requests,
    /// When overdue pages were last requested again.
    asked: Instant,
}

impl PageSource for UrgentSource<'_> {
    fn get(&mut self, page: u64) -> std::io::Result<()> {
        let allowed = self.requests.injected.before_call(HEAR, &MEMORY);
        allowed.map_err(|_| std::io::Error::other(format!("told to fail in {HEAR}")))?;
        self.requests.request(page);
        Ok(())
    }

    fn every(&self) -> Duration {
        self.requests.links().silence.every()
    }

    fn look(&mut self, waited: Duration) {
        self.requests.look(waited);
        if self.asked.elapsed() >= ASK_AGAIN {
            self.asked = Instant::now();
            self.requests.ask_again();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    const REQUEST: [u8; request::REQUEST_LEN] = [5; request::REQUEST_LEN];

    /// What comes is whole requests, and as many as were sent.
    fn read_all(far: &Link) -> usize {
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
        let [near, far] = [near, far].map(|end| Link::new(end.into()).unwrap());
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
