//! What can happen next in a world, and what a step leaves behind for a trace.

use ferry_migration::Timer;
use ferry_migration::source::Owner;

use super::Side;
use super::job::{DestinationJob, SourceJob};

/// One thing that can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The next message arrives at a side.
    Deliver(Side),
    /// A side is told that the link is gone.
    Notice(Side),
    /// What was on its way to a side over a broken link is lost.
    Drop(Side),
    /// A job of the source answers; the flag is whether it went well.
    Source(SourceJob, bool),
    /// An interrupted job of the source answers all the same.
    SourceLate(SourceJob),
    /// A job of the destination answers.
    Destination(DestinationJob, bool),
    /// An interrupted job of the destination answers all the same.
    DestinationLate(DestinationJob),
    /// The record changes as a side asked, or not; the answer is on its way.
    RecordDecides(Side),
    /// The record's answer arrives.
    RecordReplies(Side),
    /// The record's answer is lost, or the record is out of reach: the side hears that it was
    /// unreachable.
    RecordFails(Side),
    /// The side hears that the record was unreachable, and the change happens later.
    RecordStalls(Side),
    /// A change that was given up as unreachable happens.
    Straggler(Side),
    /// The record is settled in the background.
    Settles,
    /// The marker behind the last pages arrives.
    MarkerArrives,
    /// The last missing page arrives.
    PagesArrive,
    /// A timer fires.
    Fires(Side, Timer),
    /// The record comes into reach, or goes out of it.
    Reach(Side, bool),
    /// The control link breaks; silently, when nobody is told.
    Break {
        /// Nobody is told.
        silently: bool,
    },
    /// A side is told that a bulk link broke.
    BulkBreak(Side),
    /// A side's wire refuses a frame.
    Garble(Side),
    /// A process dies.
    Crash(Side),
    /// What serves the destination's missing pages dies.
    FaultsDie,
    /// A message of another run reaches the destination.
    Foreign(Foreign),
    /// An operator speaks.
    Operator(Operator),
    /// The record is settled by the source, in the background.
    SourceSettles,
    /// The record is made to name the source, in the background, as its operator has decided.
    Seizes,
    /// The record is made to say that the claimed guest runs, in the background.
    ClaimSettles,
    /// The record is asked to name the source, to which the guest has come.
    Asserts,
    /// A process that was told to end does so.
    Leaves,
    /// Another process does something.
    Third(Third),
}

impl Third {
    /// Whether it only goes on with what it has begun.
    #[must_use]
    pub fn goes_on(self) -> bool {
        let begins = matches!(self, Third::Looks { .. } | Third::PastLocks | Third::Arrives { .. } | Third::OtherLocks);
        !begins && self != Third::Ends
    }
}

/// What a process does that has no part in the migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Third {
    /// It is to boot the guest, and reads the record.
    Looks {
        /// Whatever migration the record tells of.
        take: bool,
    },
    /// It takes the disk's lock.
    Locks,
    /// It is to boot the guest past its record, and takes the disk's lock.
    PastLocks,
    /// That one looks for the sign of a hand-over at the disk.
    PastLooks,
    /// It makes the record name itself.
    Swaps,
    /// It runs the guest from its disk.
    Runs,
    /// A copy of the guest arrives there, stopped, and it takes the disk's lock.
    Arrives {
        /// It comes from the process to which the source's first migration has led, by one more,
        /// after the source has got its guest back.
        on_from_first: bool,
    },
    /// It asks the record for that guest.
    Asserts,
    /// It ends.
    Ends,
    /// A process takes the disk's lock, and nothing else.
    OtherLocks,
    /// It lets the lock go.
    OtherUnlocks,
}

/// Messages of another run of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// Its device state.
    Package,
    /// Its permit.
    Permit,
    /// Its source, on a connection of its own.
    Recover,
}

/// What an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `migrate-start-postcopy`.
    StartPostcopy,
    /// `migrate_cancel`, or the end of an incoming attempt.
    Cancel(Side),
    /// `migrate-pause`.
    Pause(Side),
    /// `migrate` with `resume`.
    Recover,
    /// `ferry resolve`, after having looked at the other side.
    Resolve(Owner),
    /// The same for the source, with the word that the destination never ran.
    NeverRan,
    /// `stop` at the source.
    Stop,
    /// `cont` at the source.
    Cont,
    /// The same, refused by a device; behind the claim, if the disk was let go of.
    ContFails,
    /// `migrate`, the first of a guest that has come to the source.
    Migrate,
    /// `migrate` again, after a failure.
    Again,
    /// `ferry resolve --owner source` in a paused postcopy.
    RashResolve,
}

/// Why an event happens: what counts as a fault, and what leads on when there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The system goes on by itself.
    Progress,
    /// A timer fires because nothing else can happen.
    Wait,
    /// An operator does what the state asks for, or the record comes into reach again.
    Help,
    /// Something goes wrong, or comes late, or an operator interferes.
    Fault,
}

/// What one step did, for a trace; off while exploring.
#[derive(Debug, Default)]
pub struct Log {
    on: bool,
    /// What the steps did, in order.
    pub did: Vec<String>,
}

impl Log {
    /// Keeps nothing.
    #[must_use]
    pub fn off() -> Self {
        Log::default()
    }

    /// Keeps everything.
    #[must_use]
    pub fn on() -> Self {
        Log { on: true, did: Vec::new() }
    }

    /// Keeps what `text` says, if anything is kept.
    pub fn note(&mut self, text: impl FnOnce() -> Option<String>) {
        if self.on
            && let Some(text) = text()
        {
            self.did.push(text);
        }
    }
}
