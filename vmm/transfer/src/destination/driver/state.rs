//! The state of a destination's driver: its links, the record, the attachments of messages, and the
//! path of the pages.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use ferry_devices::fault::FaultControl;
use ferry_link::Link;
use ferry_link::arrivals::{self, Listening};
use ferry_link::control;
use ferry_link::listener::{Bound, Listener};
use ferry_migration::greeting::Announced;
use ferry_migration::ownership::Handover;
use ferry_migration::pages::PageBitmap;
use ferry_migration::parameters::DiskSharing;
use ferry_record::{Call, HandoverRecord, OwnRecord};

use crate::destination::events::Event;
use crate::destination::markers::Markers;
use crate::destination::populate::Populating;
use crate::destination::postcopy::{Armed, Postcopy};
use crate::inbox::HeldLoss;

/// The listener, and the links of the present connection.
pub(super) struct Links {
    pub(super) listening: Listening,
    /// The address at which it listens, or last listened.
    pub(super) bound: Arc<Mutex<Bound>>,
    /// The thread that accepts connections; none if no address was available.
    pub(super) accepting: Option<JoinHandle<()>>,
    /// The control link's reader has not reported its end.
    pub(super) reading: bool,
    pub(super) control: Option<control::Sender>,
    /// Shows whether its reader has more to deliver.
    pub(super) unread: Option<control::Unread>,
    /// Bytes received on it at the last look.
    pub(super) heard: u64,
    /// All of the present connection, to end them from outside.
    pub(super) open: Vec<Link>,
    pub(super) loss: HeldLoss,
    /// The newest sources that came second: their links stay open until this migration ends, so
    /// that they can read the reason.
    pub(super) refused: VecDeque<control::Sender>,
    pub(super) bulk: Vec<(u8, Link)>,
    /// How many bulk links the source has announced.
    pub(super) announced_links: u8,
    /// The markers of the bulk links of the present connection.
    pub(super) markers: Arc<Markers>,
    /// Counts connections, and their ends: late events of an earlier one are ignored.
    pub(super) connection: u32,
    /// The source's number of the present connection.
    pub(super) source_connection: u32,
    /// The present connection has an urgent link; a further one is closed.
    pub(super) has_urgent: bool,
    /// The urgent link, while the memory is not armed yet.
    pub(super) urgent: Option<Link>,
}

impl Links {
    /// Accepts links from now on; none is here yet.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn new(listener: Listener, events: Sender<Event>, faults: Arc<FaultControl>) -> std::io::Result<Self> {
        let (listening, stop) = Listening::new()?;
        let bound = Arc::new(Mutex::new(listener.bound().clone()));
        let accepting = arrivals::listen(listener, stop, move |news| drop(events.send(Event::Arriving(news))), faults)?;
        Ok(Links {
            listening,
            bound,
            accepting: Some(accepting),
            reading: false,
            control: None,
            unread: None,
            heard: 0,
            open: Vec::new(),
            loss: HeldLoss::default(),
            refused: VecDeque::new(),
            bulk: Vec::new(),
            announced_links: 1,
            markers: Arc::new(Markers::new(1)),
            connection: 0,
            source_connection: 0,
            has_urgent: false,
            urgent: None,
        })
    }
}

/// A question to the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Show the source's nonce.
    Show(u64),
    /// Name this side.
    Claim,
    /// Name the source again.
    GiveBack,
}

/// The ownership record, and the disk that it belongs to.
pub(super) struct Record {
    /// The process's, also if this migration does not use it.
    pub(super) own: Option<Arc<OwnRecord>>,
    /// This migration's.
    pub(super) handover: Option<Arc<HandoverRecord>>,
    /// The hand-over that the source has announced, while this side checks whether its record shows
    /// it.
    pub(super) announced: Option<Handover>,
    pub(super) call: Call<Question>,
    /// This side's parameter for the disk.
    pub(super) disk: DiskSharing,
    /// Deadline of the check whether the disk is the source's.
    pub(super) disk_look: Option<Instant>,
}

impl Record {
    /// Nothing has been asked.
    pub(super) fn new(own: Option<Arc<OwnRecord>>, disk: DiskSharing) -> Self {
        Record { own, handover: None, announced: None, call: Call::default(), disk, disk_look: None }
    }
}

/// The source's announcements about the storage that both sides see.
#[derive(Debug)]
pub(super) struct Shared {
    /// The nonce that the disk must show, if there is anything to prove.
    pub(super) nonce: Option<u64>,
    /// The ownership record's part.
    pub(super) record: Option<Announced>,
}

/// Attachments of the messages so far, and their times.
pub(super) struct Package {
    /// Chunks that the source has filled.
    pub(super) filled: Option<PageBitmap>,
    /// The newest attachment and when it arrived.
    pub(super) attachment: (Vec<u8>, Instant),
    pub(super) gathered: Instant,
    /// When `Ready` was sent, and when the permit arrived.
    pub(super) ready: Option<Instant>,
    pub(super) permitted: Instant,
    /// Descriptors of the source's first message, while it is handled.
    pub(super) passed: Vec<OwnedFd>,
    /// The announcements about storage, and whether memory is viewed, while memory is being
    /// prepared.
    pub(super) preparing: Option<(Shared, bool)>,
}

/// The path of the pages into memory.
#[derive(Default)]
pub(super) struct Pages {
    pub(super) receiving: bool,
    pub(super) populating: Arc<Populating>,
    pub(super) populator: Option<JoinHandle<()>>,
    pub(super) armed: Arc<Armed>,
    pub(super) postcopy: Option<Arc<Postcopy>>,
    /// The memory came as a whole: there are no pages to receive.
    pub(super) as_a_whole: bool,
}
