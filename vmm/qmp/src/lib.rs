//! QMP, the management protocol of a Ferry process, with QEMU's names and shapes.
//!
//! Bytes become values in `framing`, values become requests in `wire`, requests find their command
//! in `commands`, and commands act on a [`Target`]: the process's machine and migrations. `server`
//! holds the socket and its clients; nothing in it waits for a migration, so the socket answers at
//! all times. `client` is the other end, for the `ferry` command and for tests.

// Printing is the command line's: a message must not end the thread that it comes from.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod arguments;
pub mod client;
mod commands;
mod connection;
mod framing;
mod json;
#[cfg(any(test, feature = "testing"))]
pub mod mock;
mod outbox;
mod server;
mod session;
mod target;
#[cfg(test)]
mod tests;
mod wire;

pub use commands::command_names;
pub use server::{Server, ServerError};
pub use target::{Done, Target};
pub use wire::{CommandError, ErrorClass};
