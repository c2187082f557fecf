//! The inputs and outputs of a source's state machine.

use crate::convergence::Decision;
use crate::info::Status;
use crate::message::{Failure, Handshake, ToDestination, ToSource};
use crate::named::named;
use crate::timer::Timer;

/// The plan of a migration, from the operator's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Which run of the guest this is.
    pub generation: u64,
    /// Load the state on trial before the guest stops.
    pub rehearse: bool,
    /// Postcopy is allowed.
    pub postcopy: bool,
    /// What ends the switchover.
    pub handshake: Handshake,
    /// With `Owned`: give up when the destination does not see the record, in place of going on
    /// with `Setup`.
    pub insist_on_record: bool,
    /// This side has an ownership record. With every handshake, the migration is announced there
    /// before the guest stops.
    pub has_record: bool,
}

/// An input of a source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The control link is open.
    Connected,
    /// A new nonce stands in the ownership record, or could not be written.
    NonceWritten(Result<(), String>),
    /// A message from the destination.
    Message(ToSource),
    /// A link broke, could not be opened, or carried invalid data; the text says which and how.
    LinkLost(String),
    /// A timer that was started ran out.
    Timer(Timer),
    /// A round has been sent or was ended, with the decision from its numbers.
    RoundDone(Decision),
    /// The state for the rehearsal was saved; the guest runs.
    Snapshotted(Result<(), Failure>),
    /// The vCPUs are stopped, the devices drained, the disk released.
    Stopped(Result<(), Failure>),
    /// The final device state was saved.
    Saved(Result<(), Failure>),
    /// The last pages (in postcopy: none of them) and the marker behind them were handed to the
    /// bulk links.
    LastPagesSent {
        /// The marker's number.
        marker: u32,
    },
    /// The attempt to take the guest back in the ownership record has ended.
    TookBack(TakeBack),
    /// Postcopy: every page that the destination lacks has been handed to the links.
    AllSent,
    /// The guest runs again on the source, or could not be started.
    Resumed(Result<(), Failure>),
    /// The guest shut down or the process is about to end.
    GuestGone(String),
    /// The operator requests postcopy now.
    StartPostcopy,
    /// The operator breaks the link on purpose (`migrate-pause`).
    Pause,
    /// The operator reconnects a paused postcopy (`migrate` with `resume`).
    Recover,
    /// The operator decides which side owns the guest, with the other side fenced
    /// (`x-ferry-resolve`): in an uncertainty, or in a paused postcopy whose destination needs
    /// nothing more.
    Resolve(Resolution),
    /// The operator cancels.
    Cancel,
}

/// One of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The side that had the guest.
    Source,
    /// The side that was to get it.
    Destination,
}

/// An operator's decision about which side owns the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Resolution {
    /// The owner.
    pub owner: Owner,
    /// The operator knows that the destination has never run the guest: then the source may have it
    /// even if the record cannot be reached, or names the destination in this very migration.
    pub never_ran: bool,
}

impl Resolution {
    /// The guest is `owner`'s; the destination may have run it.
    #[must_use]
    pub fn to(owner: Owner) -> Self {
        Resolution { owner, never_ran: false }
    }
}

/// The result of taking the guest back in the ownership record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TakeBack {
    /// The record names the source: the destination is fenced.
    Won,
    /// The record names the destination for good: it has run the guest and settled the record.
    Lost,
    /// The record names a process that had no part in the migration: it has booted the guest.
    Taken,
    /// The record names the destination, which has not settled it yet: it is starting the guest,
    /// and may still find that it cannot and give it back.
    Claimed,
    /// The outcome is unknown: the record could not be reached, or its answer was lost.
    Unreachable,
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Publish the status.
    Status(Status),
    /// Open the control link; answer with `Connected` or `LinkLost`.
    Connect,
    /// Write a new nonce to the ownership record; answer with `NonceWritten`.
    WriteNonce,
    /// Publish the handshake in force.
    Handshake(Handshake),
    /// Send on the control link, with its attachment.
    Send(ToDestination),
    /// Start a timer, anew if it runs.
    StartTimer(Timer),
    /// Stop a timer.
    StopTimer(Timer),
    /// Send one round; answer with `RoundDone`.
    SendRound,
    /// End the present round early; its `RoundDone` comes.
    EndRound,
    /// Save the state between two guest instructions; answer with `Snapshotted`.
    Snapshot,
    /// Stop the vCPUs, drain the devices, release the disk; answer with `Stopped`.
    StopGuest,
    /// Save the final state; answer with `Saved`.
    Save,
    /// Send the dirty pages (in postcopy only determine which they are), then a marker; answer with
    /// `LastPagesSent`.
    SendLastPages {
        /// Leave the pages for after the start.
        postcopy: bool,
    },
    /// Postcopy: serve page requests and send the rest in the background; answer with `AllSent`.
    ServePages,
    /// Postcopy, after a recover: the same, for the pages that the destination lacks.
    ServeMissingPages,
    /// Abort sending and saving at once. Pending answers may still arrive, or not.
    Interrupt,
    /// Try to make the ownership record name the source; answer with `TookBack`.
    TakeBack,
    /// Take the disk back and let the guest run; answer with `Resumed`.
    ResumeGuest,
    /// The guest belongs to the destination: never run it here again.
    HandOver,
    /// Close all links.
    CloseLinks,
    /// Refuse the operator's command, with the reason.
    Refuse(&'static str),
    /// Answer the operator whose [`Resolution`] had to wait for the record.
    Resolved(Result<(), &'static str>),
    /// Settle the ownership record: no migration is under way, the guest is here, and its disk is
    /// held. There is no answer: the driver retries until the record is settled.
    Settle,
    /// The migration has ended.
    Finish(Outcome),
}

named!(Output, "output's name":
    Output::Status(_) => "Status",
    Output::Connect => "Connect",
    Output::WriteNonce => "WriteNonce",
    Output::Handshake(_) => "Handshake",
    Output::Send(_) => "Send",
    Output::StartTimer(_) => "StartTimer",
    Output::StopTimer(_) => "StopTimer",
    Output::SendRound => "SendRound",
    Output::EndRound => "EndRound",
    Output::Snapshot => "Snapshot",
    Output::StopGuest => "StopGuest",
    Output::Save => "Save",
    Output::SendLastPages { .. } => "SendLastPages",
    Output::ServePages => "ServePages",
    Output::ServeMissingPages => "ServeMissingPages",
    Output::Interrupt => "Interrupt",
    Output::TakeBack => "TakeBack",
    Output::ResumeGuest => "ResumeGuest",
    Output::HandOver => "HandOver",
    Output::CloseLinks => "CloseLinks",
    Output::Refuse(_) => "Refuse",
    Output::Resolved(_) => "Resolved",
    Output::Settle => "Settle",
    Output::Finish(_) => "Finish",
);

/// How a migration ended on the source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The destination runs the guest.
    Completed,
    /// The guest stays here; the text says why.
    Failed(String),
    /// The guest may run nowhere: only the handshake `none` can end like this.
    Stranded(String),
    /// The operator cancelled; the guest stays here.
    Cancelled,
}
