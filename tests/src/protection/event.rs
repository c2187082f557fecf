//! What can happen next in a world.

use ferry_migration::protection::Timer;

use super::{Fault, Side};
pub use crate::explorer::event::Log;

/// One thing that can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The next message arrives at a side.
    Deliver(Side),
    /// The pages of a checkpoint are all there.
    Whole,
    /// A side is told that the links are gone.
    Notice(Side),
    /// A timer fires.
    Fires(Side, Timer),
    /// The capture ends; whether it went well.
    Captures(bool),
    /// The primary writes out what was released.
    Releases,
    /// The primary's guest is stopped.
    Stops,
    /// The primary has released its disk.
    ReleasesDisk,
    /// The attempt of the primary to take its disk again ends.
    TakesDiskAgain,
    /// The record answers a side.
    RecordAnswers(Side),
    /// The record does not answer a side, and was not changed.
    RecordFails(Side),
    /// The record changes, and the answer is lost.
    ReplyIsLost(Side),
    /// The record does not answer a side, and changes later.
    RecordStalls(Side),
    /// A change that was given up happens.
    Straggler(Side, usize),
    /// The verification ends; whether it went well.
    Verifies(bool),
    /// The next page is written into the secondary's memory.
    Applies,
    /// The last commit is loaded again; whether it went well.
    Reloads(bool),
    /// The attempt to take the disk ends.
    TakesDisk,
    /// The trial ends; whether it went well.
    Tries(bool),
    /// The links break; silently, when no side is told.
    Break {
        /// No side is told.
        silently: bool,
    },
    /// A process dies.
    Death(Side),
    /// The record comes into reach of a side, or goes out of it.
    Reach(Side, bool),
    /// The operator ends the protection.
    Unprotect,
    /// The operator declares the peer of a side lost.
    LostHeartbeat(Side),
    /// The operator moves the guest.
    Failover,
    /// The guest shuts down.
    Shutdown,
    /// A third process boots the guest, if it can.
    Boots,
}

/// Why an event happens: what counts as a fault, and what leads on when there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The system goes on by itself.
    Progress,
    /// A timer fires because nothing else can happen.
    Wait,
    /// The record comes into reach again.
    Help,
    /// Something goes wrong, or an operator acts; it uses up this.
    Fault(Fault),
}
