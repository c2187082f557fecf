//! What a source's driver has in hand: its links, the record, what the next messages carry, and the
//! way of the pages.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use ferry_link::Link;
use ferry_link::control;
use ferry_link::endpoint::Endpoint;
use ferry_machine::Stopped;
use ferry_migration::pages::PageBitmap;
use ferry_migration::source::Owner;
use ferry_record::{Call, HandoverRecord, OwnRecord};
use vmm_sys_util::eventfd::EventFd;

use super::throttle::Throttle;
use crate::inbox::HeldLoss;
use crate::source::controls::Controls;
use crate::source::events::Answer;
use crate::source::page_worker::PageJob;

/// The connections of a migration, one after the other.
pub(super) struct Links {
    /// Where the destination is asked for.
    pub(super) to: Endpoint,
    /// Where the control link has come to, which page links follow: a name may stand for several
    /// addresses.
    pub(super) reached: Endpoint,
    /// Ends what is being opened.
    pub(super) cancel: EventFd,
    pub(super) control: Option<control::Sender>,
    /// What its reader has not delivered yet.
    pub(super) unread: Option<control::Unread>,
    /// Bytes that had come on it when the destination was last heard.
    pub(super) heard: u64,
    /// All of the present connection, to end them from outside.
    pub(super) open: Vec<Link>,
    /// Bulk links of this migration.
    pub(super) bulk_links: u8,
    pub(super) loss: HeldLoss,
    /// Counts connections: what a link of an earlier one says late is not heard.
    pub(super) epoch: u32,
    /// Postcopy, while recovering: where the destination listens now.
    pub(super) recover_to: Option<Endpoint>,
}

impl Links {
    /// None is open yet.
    ///
    /// # Errors
    /// When no eventfd can be had.
    pub(super) fn new(to: Endpoint, bulk_links: u8) -> std::io::Result<Self> {
        Ok(Links {
            reached: to.clone(),
            to,
            cancel: EventFd::new(libc::EFD_CLOEXEC)?,
            control: None,
            unread: None,
            heard: 0,
            open: Vec::new(),
            bulk_links,
            loss: HeldLoss::default(),
            epoch: 0,
            recover_to: None,
        })
    }
}

/// What the record can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Write the nonce.
    Announce,
    /// Name the source again.
    TakeBack,
}

/// The ownership record, and whom it or the operator names.
pub(super) struct Record {
    /// The process's, also if this migration goes without.
    pub(super) own: Option<Arc<OwnRecord>>,
    /// This migration's.
    pub(super) handover: Option<Arc<HandoverRecord>>,
    /// The handshake is the record's, where the process has one and both sides see it.
    pub(super) expects_owned: bool,
    pub(super) call: Call<Question>,
    /// Whom the operator has named as the owner.
    pub(super) resolved: Option<Owner>,
    /// Whom the operator would name, and the client that waits for the record's answer to that.
    pub(super) resolving: Option<(Owner, Sender<Answer>)>,
}

impl Record {
    /// Nothing has been asked.
    pub(super) fn new(own: Option<Arc<OwnRecord>>, handover: Option<Arc<HandoverRecord>>, expects_owned: bool) -> Self {
        Record { own, handover, expects_owned, call: Call::default(), resolved: None, resolving: None }
    }
}

/// What the next messages carry beside themselves.
#[derive(Default)]
pub(super) struct Package {
    /// Which chunks of memory hold something, for the greeting.
    pub(super) filled: Vec<u8>,
    /// The switchover's stop, of which the last pages and the state are.
    pub(super) stopped: Option<Stopped>,
    /// Framed sections for the next message that carries them.
    pub(super) state: Vec<u8>,
    /// Postcopy: the pages that remained at the switchover.
    pub(super) remaining: Option<PageBitmap>,
    /// Postcopy, while recovering: the pages that the destination has.
    pub(super) received: Option<PageBitmap>,
}

/// The way of the pages.
pub(super) struct Pages {
    pub(super) controls: Controls,
    pub(super) throttle: Throttle,
    pub(super) jobs: Option<Sender<PageJob>>,
    /// The memory goes as a whole.
    pub(super) as_a_whole: bool,
    /// Its mark when it was passed.
    pub(super) passed_mark: Option<bool>,
}
