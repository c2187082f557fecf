//! The inputs and outputs of a secondary's state machine.

use crate::message::Failure;
use crate::named::named;
use crate::ownership::partnership::Reading;
use crate::protection::Answer;
use crate::protection::message::{ToPrimary, ToSecondary};
use crate::protection::primary::Survivor;
use crate::protection::timer::Timer;

/// An input of a secondary.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// A message from the primary.
    Message(ToSecondary),
    /// Everything of this checkpoint is here: every link has delivered its marker, and every disk
    /// write that belongs to it has arrived.
    Whole {
        /// Which.
        epoch: u64,
    },
    /// The verification has ended.
    Verified(Result<(), Failure>),
    /// The committed checkpoint is in guest memory, in full.
    Applied,
    /// The state of the last commit was loaded again, or could not be.
    Reloaded(Result<(), Failure>),
    /// A link broke or carried invalid data; the text says which and how.
    LinkLost(String),
    /// A timer that was started ran out.
    Timer(Timer),
    /// What the ownership record says; `None` when it did not answer.
    Read(Option<Reading>),
    /// The disk is locked for this process, and holds what was committed; or why not.
    DiskTaken(Result<(), Failure>),
    /// The trial has ended: the guest was entered with its outputs held, or why not.
    Tried(Result<(), Failure>),
    /// The takeover swap has been answered.
    Claimed(Answer),
    /// The operator asserts that the primary is lost (`x-colo-lost-heartbeat`).
    LostHeartbeat,
    /// The process has to end; the text says why.
    Leave(String),
    /// The operator decides which side goes on, with the other side fenced (`x-ferry-resolve`).
    Resolve(Survivor),
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Publish the phase.
    Phase(Phase),
    /// Send on the control link.
    Send(ToPrimary),
    /// Check the staged checkpoint and load its device state for real; answer with `Verified`.
    Verify {
        /// Which.
        epoch: u64,
    },
    /// From here on a takeover goes on from this checkpoint, at the latest.
    Commit {
        /// Which.
        epoch: u64,
        /// Disk writes up to this epoch are in the primary's image for good: the journal drops
        /// them.
        drops_journal: u64,
    },
    /// Write the committed checkpoint into guest memory; answer with `Applied`.
    Apply {
        /// Which.
        epoch: u64,
    },
    /// Discard the staged checkpoint that was refused, and load the device state of this one
    /// again; answer with `Reloaded`.
    Reload {
        /// Which.
        epoch: u64,
    },
    /// Read the ownership record; answer with `Read`.
    ReadRecord,
    /// Lock the disk, and write to it what was committed and the primary may not have written;
    /// answer with `DiskTaken`.
    TakeDisk,
    /// Do everything that can fail in a takeover: load the device state, start what the guest
    /// needs, enter it with its outputs held; answer with `Tried`.
    Try {
        /// From this checkpoint.
        epoch: u64,
    },
    /// Undo a trial: stop the guest, put back every page that it has written, release the disk.
    UndoTrial,
    /// Work takes too long: abort what can be aborted; its answer comes.
    InterruptWork,
    /// Make the ownership record name this side, in a new generation; answer with `Claimed`.
    Claim,
    /// The operator has decided in the record's place: the same, in the background, until the
    /// record says so. There is no answer.
    ClaimLater,
    /// The guest is this side's: repeat what the primary may not have let out, let out what is
    /// held, replay the inputs.
    GoLive,
    /// The guest is another process's: discard it.
    Discard,
    /// Start a timer, anew if it runs.
    StartTimer(Timer),
    /// Stop a timer.
    StopTimer(Timer),
    /// Close all links.
    CloseLinks,
    /// Refuse the operator's command, with the reason.
    Refuse(&'static str),
    /// The secondary's part has ended.
    Finish(Outcome),
}

named!(Output, "output's name":
    Output::Phase(_) => "Phase",
    Output::Send(_) => "Send",
    Output::Verify { .. } => "Verify",
    Output::Commit { .. } => "Commit",
    Output::Apply { .. } => "Apply",
    Output::Reload { .. } => "Reload",
    Output::ReadRecord => "ReadRecord",
    Output::TakeDisk => "TakeDisk",
    Output::Try { .. } => "Try",
    Output::UndoTrial => "UndoTrial",
    Output::InterruptWork => "InterruptWork",
    Output::Claim => "Claim",
    Output::ClaimLater => "ClaimLater",
    Output::GoLive => "GoLive",
    Output::Discard => "Discard",
    Output::StartTimer(_) => "StartTimer",
    Output::StopTimer(_) => "StopTimer",
    Output::CloseLinks => "CloseLinks",
    Output::Refuse(_) => "Refuse",
    Output::Finish(_) => "Finish",
);

/// What a client sees of a secondary.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The first checkpoint is on its way.
    Syncing,
    /// It may take over.
    Protecting,
    /// It takes over, if the record allows it; the text is the reason, or what the last attempt
    /// failed by.
    TakingOver(String),
    /// There is no record: an operator decides.
    Isolated(String),
}

/// How a secondary's part ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The guest goes on here.
    TookOver,
    /// The guest is another process's; the text says how that was learned.
    Superseded(String),
    /// This side had nothing to go on from, or could not.
    Failed(String),
}
