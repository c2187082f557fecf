//! Events of a destination's driver: from its workers, its links and its operator.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use ferry_link::arrivals::News;
use ferry_link::listener::{BindError, Listener, Wanted};
use ferry_migration::destination::Input;
use ferry_migration::greeting::Announced;
use ferry_migration::message::ToDestination;

use crate::destination::postcopy::Postcopy;
use crate::destination::requests::PageNews;
use crate::inbox::Ticket;
use crate::request::Request;

/// An event for the driver.
#[derive(Debug)]
pub(crate) enum Event {
    /// For the state machine.
    Input(Input),
    /// Every bulk link has delivered the marker of this number.
    Marker(u32, Ticket),
    /// The memory is ready for the guest, or why it cannot be.
    Prepared(Result<(), String>),
    /// The ownership record has answered the call of this number.
    Record(u32, Input),
    /// The disk has been checked: it is the source's, which has announced this about its record; or
    /// why the guest is refused.
    DiskSeen(Result<Option<Announced>, String>),
    /// From the connection of this number.
    OfLink(u32, LinkEvent),
    /// Postcopy: the remaining pages are armed, and this thread reads the faults on them.
    Armed(Arc<Postcopy>, JoinHandle<()>),
    /// A link of some migration is here, or nothing more can arrive.
    Arriving(News),
    /// The operator's command; the answer is whether it is accepted.
    Command(Request<Command, Answer>),
}

/// An event of a connection; events of a replaced connection are ignored.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// The source's first message on this connection, with its attachment and descriptors.
    FirstMessage(ToDestination, Vec<u8>, Vec<OwnedFd>, Ticket),
    /// A message of the source, with its attachment.
    Message(ToDestination, Vec<u8>, Ticket),
    /// A page link was lost; the text says which and how.
    PagesLost(String),
    /// The control link has ended; nothing more comes from its reader.
    Lost(String),
    /// The control link took no message, or a link could not be served.
    SendFailed(String),
}

/// An operator's command to an incoming migration.
#[derive(Debug)]
pub(crate) enum Command {
    /// Break the link of a postcopy.
    Pause,
    /// Wait for the source of a paused postcopy here.
    Recover(Listener),
    /// Report whether the source of a paused postcopy is awaited.
    Listens,
    /// Wait for the source of a paused postcopy at an address that cannot be listened on beside the
    /// present one. The driver does all of it, so that a caller that gives up half-way does not
    /// lose the present address.
    RecoverInPlace(Wanted),
}

/// Whether a command is accepted, or why not.
pub(crate) type Answer = Result<(), Refusal>;

/// Why a command is not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// It does not fit.
    #[error("{0}")]
    Unfit(&'static str),
    /// The address cannot be listened at.
    #[error(transparent)]
    Bind(BindError),
    /// Neither can the previous address, which had to be released for it.
    #[error("{wanted}; nor can the source be awaited where it was: {before}")]
    Nowhere {
        /// The error of the address.
        wanted: BindError,
        /// The error of the previous address.
        before: BindError,
    },
}

impl From<PageNews> for Event {
    fn from(news: PageNews) -> Self {
        match news {
            PageNews::AllHere => Event::Input(Input::AllReceived),
            PageNews::NotServed(reason) => Event::Input(Input::FaultsDied(reason)),
            PageNews::LinkLost { connection, reason } => Event::OfLink(connection, LinkEvent::PagesLost(reason)),
        }
    }
}
