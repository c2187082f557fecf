//! Moves a guest: drives the state machines of `ferry-migration` with real links, threads and the
//! machine.
//!
//! [`Migrations`] takes a management client's commands. Under it, `source` and `destination` each
//! run one state machine on a thread of its own, with workers for blocking work: the guest, the
//! pages, the links.

// Only the command line prints: a message must not end the thread that writes it.
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
