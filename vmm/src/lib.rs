//! The machine around a guest: KVM, boot, devices put together, and the runtime that moves it to
//! another process.
//!
//! The `ferry` binary is a thin front over this crate. A reader looks here for "is it the
//! machine?"; what a device does is in `ferry-devices`, how a migration is agreed on is in
//! `ferry-migration`.

// A message must not end the thread that it comes from: see `stderr`, and `cli::print` for
// results.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

#[cfg(test)]
mod allocations;
pub mod cli;
pub mod console;
pub mod panics;
pub mod process;
pub mod runtime;
pub mod signals;
pub mod stderr;
