//! Drives a [`Source`](ferry_migration::source::Source) with real links, the real machine and real
//! time.
//!
//! [`Outgoing::start`] spawns the driver's thread; it ends with the migration, and by then its
//! workers, links and timers are gone and the guest either runs here (if it ran before) or belongs
//! to the destination.

pub(crate) mod chunks;
pub(crate) mod controls;
mod driver;
mod events;
mod guest_worker;
mod outgoing;
pub(crate) mod page_sender;
mod page_worker;
mod partition;
pub(crate) mod patience;
mod remaining;
mod stopwatch;
mod urgent;

pub(crate) use self::events::Command;
pub(crate) use self::outgoing::{Outgoing, command};
