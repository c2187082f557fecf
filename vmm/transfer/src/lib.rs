//! Moves a guest: drives the state machines of `ferry-migration` with real links, threads and the
//! machine.
//!
//! [`Migrations`] is what a management client commands. Under it, `source` and `destination` each
//! run one state machine on a thread of its own, with workers for what blocks: the guest, the
//! pages, the links.

// Printing is the command line's: a message must not end the thread that it comes from.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod adoption;
#[cfg(test)]
mod allocations;
mod compression;
mod custody;
mod destination;
mod end;
#[cfg(test)]
mod ending_tests;
mod error;
mod failure;
mod inbox;
mod migrations;
#[cfg(test)]
mod page_path_tests;
mod progress;
mod request;
mod settings;
mod source;
mod threads;
mod timers;

pub use self::adoption::LocalError;
pub use self::custody::Custodian;
pub use self::error::MigrationError;
pub use self::migrations::{Migrations, Needed};
pub use self::request::Unanswered;
pub use self::settings::Settings;
