//! Events of a source's driver: from its workers, its links and its operator.

use ferry_link::Link;
use ferry_link::endpoint::Endpoint;
use ferry_machine::Stopped;
use ferry_migration::message::ToSource;
use ferry_migration::pages::PageBitmap;
use ferry_migration::parameters::Given;
use ferry_migration::source::{Input, Resolution};

use crate::inbox::Ticket;
use crate::request::Request;

/// An event for the driver.
#[derive(Debug)]
pub(crate) enum Event {
    /// For the state machine.
    Input(Input),
    /// The guest's worker has done a job.
    Guest(GuestDone),
    /// The ownership record has answered the call of this number.
    Record(u32, Input),
    /// From the connection of this number.
    OfLink(u32, LinkEvent),
    /// The operator's command; the answer is whether it is accepted.
    Command(Request<Command, Answer>),
}

/// The result of a job of the guest's worker.
#[derive(Debug, Default)]
pub(crate) struct GuestDone {
    /// The answer for the state machine, if it has requested the job.
    pub input: Option<Input>,
    /// The framed sections that the answer announces, for the next `Rehearse` or `Package`.
    pub state: Option<Vec<u8>>,
    /// The stop that the answer announces: the last pages and the state are read through it.
    pub stopped: Option<Stopped>,
}

/// The result of a job of the page worker.
#[derive(Debug)]
pub(crate) struct PagesDone {
    /// The answer for the state machine.
    pub input: Input,
    /// Postcopy, or a round before it: the pages that remain, which the answer announces.
    pub remaining: Option<PageBitmap>,
    /// The throttling that the rounds so far call for, in percent of the vCPUs' time; 0 is none.
    pub throttle: Option<u8>,
}

impl From<Input> for PagesDone {
    fn from(input: Input) -> Self {
        PagesDone { input, remaining: None, throttle: None }
    }
}

/// An event of a connection; events of a replaced connection are ignored.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// The control link is open. With it comes, for a greeting, the map of filled chunks.
    Control(Link, Vec<u8>),
    /// A page link is open: the driver keeps it to end it from outside.
    Pages(Link),
    /// A message of the destination, with its attachment.
    Message(ToSource, Vec<u8>, Ticket),
    /// The page worker has done a job.
    PagesDone(PagesDone),
    /// The control link was lost, or could not be opened; the text says how.
    Lost(String),
    /// A page link was lost; the text says which and how.
    PagesLost(String),
}

/// Whether a command is accepted, or why not.
pub(crate) type Answer = Result<(), &'static str>;

/// An operator's command to an active migration.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    /// Give it up.
    Cancel,
    /// Let the destination run now, and send the rest afterwards.
    StartPostcopy,
    /// Break the link of a postcopy.
    Pause,
    /// Reconnect a paused postcopy; if that is accepted, with these parameters.
    Recover(Endpoint, Given),
    /// Decide who owns the guest.
    Resolve {
        /// The operator's decision.
        resolution: Resolution,
        /// Also if the destination may need pages from here.
        drop_pages: bool,
    },
}
