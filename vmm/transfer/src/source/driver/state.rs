//! The state of a source's driver: its links, the record, the attachments of the next messages, and
//! the path of the pages.

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
    /// The address given for the destination.
    pub(super) to: Endpoint,
    /// The address that the control link has reached and page links use: a name may have several.
    pub(super) reached: Endpoint,
    /// Cancels links that are being opened.
    pub(super) cancel: EventFd,
    pub(super) control: Option<control::Sender>,
    /// Shows whether its reader has more to deliver.
    pub(super) unread: Option<control::Unread>,
    /// Bytes received on it at the last look.
    pub(super) heard: u64,
    /// All of the present connection, to end them from outside.
    pub(super) open: Vec<Link>,
    /// Bulk links of this migration.
    pub(super) bulk_links: u8,
    pub(super) loss: HeldLoss,
    /// Counts connections: late events of an earlier one are ignored.
    pub(super) epoch: u32,
    /// Postcopy, while recovering: where the destination listens now.
    pub(super) recover_to: Option<Endpoint>,
}

impl Links {
    /// None is open yet.
    ///
    /// # Errors
    /// When no eventfd can be created.
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

/// A question to the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Write the nonce.
    Announce,
    /// Name the source again.
    TakeBack,
}

/// The ownership record, and the owner that it or the operator names.
pub(super) struct Record {
    /// The process's, also if this migration does not use it.
    pub(super) own: Option<Arc<OwnRecord>>,
    /// This migration's.
    pub(super) handover: Option<Arc<HandoverRecord>>,
    /// The handshake is automatic: `owned` if the process has a record and both sides see it.
    pub(super) expects_owned: bool,
    pub(super) call: Call<Question>,
    /// The owner that the operator has named.
    pub(super) resolved: Option<Owner>,
    /// The owner that the operator wants to name, and the client that waits for the record's
    /// answer.
    pub(super) resolving: Option<(Owner, Sender<Answer>)>,
}

impl Record {
    /// Nothing has been asked.
    pub(super) fn new(own: Option<Arc<OwnRecord>>, handover: Option<Arc<HandoverRecord>>, expects_owned: bool) -> Self {
        Record { own, handover, expects_owned, call: Call::default(), resolved: None, resolving: None }
    }
}

/// Attachments of the next messages.
#[derive(Default)]
pub(super) struct Package {
    /// The map of filled chunks, for the greeting.
    pub(super) filled: Vec<u8>,
    /// The switchover's stop, at which the last pages and the state are read.
    pub(super) stopped: Option<Stopped>,
    /// Framed sections for the next message that carries them.
    pub(super) state: Vec<u8>,
    /// Postcopy: the pages that remained at the switchover.
    pub(super) remaining: Option<PageBitmap>,
    /// Postcopy, while recovering: the pages that the destination has.
    pub(super) received: Option<PageBitmap>,
}

/// The path of the pages.
pub(super) struct Pages {
    pub(super) controls: Controls,
    pub(super) throttle: Throttle,
    pub(super) jobs: Option<Sender<PageJob>>,
    /// The memory is handed over as a whole.
    pub(super) as_a_whole: bool,
    /// Its mark when it was passed.
    pub(super) passed_mark: Option<bool>,
}
