//! Continuous checkpoints: the two state machines of a protected guest.
//!
//! ```text
//!   primary    ── epoch 1 ──┤capture├── epoch 2 ──┤capture├── epoch 3 ──
//!                               │ checkpoint 1        │ checkpoint 2
//!                               ▼                     ▼
//!   secondary                 whole ► verified ► committed ► applied
//! ```
//!
//! A checkpoint holds the guest's memory, device state, disk and output positions at the end of an
//! epoch. What the guest puts out in an epoch leaves the primary only when the checkpoint at the
//! end of that epoch is committed (*output commit*), so the secondary can go on from its last
//! commit without taking back anything that was seen. Which of the two may be seen is decided by
//! the ownership record alone ([`Partnership`](crate::ownership::Partnership)): the primary goes
//! on without a partner only after it has won the *solo* swap, the secondary only after its
//! *takeover* swap, and both expect the same record.
//!
//! The machines are sans-IO, as those of a migration ([`crate::source`], [`crate::destination`]):
//! a step takes one input and returns the outputs to carry out in order. They begin when the
//! rounds of the first copy have converged. [`Rule`] names what they rest on; an explorer shows
//! for each rule what breaks without it.

pub mod message;
pub mod primary;
pub mod rules;
pub mod secondary;
pub mod timer;

pub use message::{ToPrimary, ToSecondary};
pub use primary::Primary;
pub use rules::{Rule, Rules};
pub use secondary::Secondary;
pub use timer::Timer;

/// The answer of the ownership record to a swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The record is as requested.
    Won,
    /// Another process changed it first. A retry cannot win.
    Lost,
    /// The outcome is unknown: the record could not be reached, or its answer was lost.
    Unreachable,
}

/// How a protection that has both sides' settings is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// In which generation the primary owns the guest.
    pub generation: u64,
    /// Both sides see an ownership record. Without one, an operator decides which side goes on.
    pub has_record: bool,
    /// A primary that the record does not answer stops its guest, in place of running on with its
    /// outputs held (`x-ferry-isolated=stop`).
    pub stops_isolated: bool,
}
