//! The inputs and outputs of a primary's state machine.

use crate::message::Failure;
use crate::named::named;
use crate::protection::Answer;
use crate::protection::message::{ToPrimary, ToSecondary};
use crate::protection::timer::Timer;

/// An input of a primary.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The capture of this checkpoint has ended. Unless it was to stay stopped and the capture has
    /// succeeded, the guest runs again.
    Captured {
        /// Which.
        epoch: u64,
        /// Why nothing was captured, if so.
        result: Result<(), Failure>,
    },
    /// A message from the secondary.
    Message(ToPrimary),
    /// A link broke or carried invalid data; the text says which and how.
    LinkLost(String),
    /// A timer that was started ran out.
    Timer(Timer),
    /// The enrolment has been answered.
    Enrolled(Answer),
    /// The solo swap has been answered.
    Soloed(Answer),
    /// The epoch is to end now: held output or dirty pages have reached their caps, the oldest
    /// held output is old enough, or a client has requested a checkpoint.
    EpochEnds,
    /// The guest is stopped, as `StopGuest` requested.
    GuestStopped,
    /// The disk was released, as `ReleaseDisk` requested, or why not.
    DiskReleased(Result<(), Failure>),
    /// The disk is held again, as `TakeDisk` requested, or why not.
    DiskTaken(Result<(), Failure>),
    /// The guest shut down or the process is about to end. Clients do not see it yet.
    GuestGone(String),
    /// The operator ends the protection.
    Unprotect,
    /// The operator asserts that the secondary is lost (`x-colo-lost-heartbeat`).
    LostHeartbeat,
    /// The operator moves the guest to the secondary.
    Failover,
    /// The operator decides which side goes on, with the other side fenced (`x-ferry-resolve`).
    Resolve(Survivor),
}

/// The side that goes on, by an operator's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Survivor {
    /// The side that ran the guest.
    Primary,
    /// The side that has its checkpoints.
    Secondary,
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Publish the phase.
    Phase(Phase),
    /// Stop the guest, save its state, harvest and copy its dirty pages, let it go on; answer with
    /// `Captured`.
    Capture {
        /// Which checkpoint.
        epoch: u64,
        /// From this stop on, hold what the guest puts out.
        holds: bool,
        /// Leave the guest stopped.
        stays: bool,
    },
    /// The capture takes too long: abort what can be aborted; its `Captured` comes.
    InterruptCapture,
    /// Hold what the guest puts out from now on.
    Hold,
    /// Send the checkpoint that was captured.
    SendCheckpoint {
        /// Which.
        epoch: u64,
    },
    /// Send on the control link.
    Send(ToSecondary),
    /// Write the disk writes up to the end of this epoch into the image, then let out what the
    /// guest has put out up to there.
    Release {
        /// Which.
        epoch: u64,
    },
    /// The same for everything, held or to come.
    ReleaseAll,
    /// Discard everything that is held: it was never seen.
    DropOutputs,
    /// The pages of this checkpoint are at the secondary: they count as sent.
    Forget {
        /// Which.
        epoch: u64,
    },
    /// The pages of this checkpoint are dirty again: the next one sends them.
    Restore {
        /// Which.
        epoch: u64,
    },
    /// Make the ownership record name the secondary as partner; answer with `Enrolled`.
    Enrol,
    /// Make the ownership record name this side, without a partner, in a new generation; answer
    /// with `Soloed`.
    Solo,
    /// The operator has decided in the record's place: the same, in the background, until the
    /// record says so. There is no answer.
    SoloLater,
    /// Settle the ownership record: no hand-over is under way. There is no answer: the driver
    /// retries until the record is settled.
    Settle,
    /// Start a timer, anew if it runs.
    StartTimer(Timer),
    /// Stop a timer.
    StopTimer(Timer),
    /// Close all links.
    CloseLinks,
    /// Stop the guest; answer with `GuestStopped`.
    StopGuest,
    /// Let the guest run that was left stopped.
    ResumeGuest,
    /// Release the disk, once everything that was released is written; answer with `DiskReleased`.
    ReleaseDisk,
    /// Take the disk again, which was released; answer with `DiskTaken`.
    TakeDisk,
    /// The guest belongs to the secondary for good: release its disk, and never run it here again.
    HandOver,
    /// Refuse the operator's command, with the reason.
    Refuse(&'static str),
    /// The planned failover did not happen; the guest goes on here.
    FailoverFailed(String),
    /// The protection has ended.
    Finish(Outcome),
}

named!(Output, "output's name":
    Output::Phase(_) => "Phase",
    Output::Capture { .. } => "Capture",
    Output::InterruptCapture => "InterruptCapture",
    Output::Hold => "Hold",
    Output::SendCheckpoint { .. } => "SendCheckpoint",
    Output::Send(_) => "Send",
    Output::Release { .. } => "Release",
    Output::ReleaseAll => "ReleaseAll",
    Output::DropOutputs => "DropOutputs",
    Output::Forget { .. } => "Forget",
    Output::Restore { .. } => "Restore",
    Output::Enrol => "Enrol",
    Output::Solo => "Solo",
    Output::SoloLater => "SoloLater",
    Output::Settle => "Settle",
    Output::StartTimer(_) => "StartTimer",
    Output::StopTimer(_) => "StopTimer",
    Output::CloseLinks => "CloseLinks",
    Output::StopGuest => "StopGuest",
    Output::ResumeGuest => "ResumeGuest",
    Output::ReleaseDisk => "ReleaseDisk",
    Output::TakeDisk => "TakeDisk",
    Output::HandOver => "HandOver",
    Output::Refuse(_) => "Refuse",
    Output::FailoverFailed(_) => "FailoverFailed",
    Output::Finish(_) => "Finish",
);

/// What a client sees of a primary.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The first checkpoint is on its way: the guest is not protected yet.
    Syncing,
    /// The first checkpoint is committed, and the record has not answered whether it names the
    /// secondary.
    Enrolling,
    /// The secondary may take over.
    Protected,
    /// The protection ends as soon as the record answers; outputs are held until then.
    Parting(String),
    /// The record does not answer, or there is none: outputs are held until it does, or until an
    /// operator decides.
    Isolated(String),
    /// The guest goes on here and is stopped: its disk is held by another process.
    AwaitsDisk(String),
}

/// How a protection ended on the primary.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The guest goes on here, without a partner; the text says why.
    Unprotected(String),
    /// The secondary has the guest; nothing that was held here was seen. The text says what made
    /// this side ask.
    Deposed(String),
    /// The guest was moved to the secondary as the operator requested.
    Moved,
}
