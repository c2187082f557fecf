//! The `ferry` command: it joins a machine, its migrations and their management.
//!
//! Each of them is in a crate of its own, below this one; here are the command line, the terminal,
//! signals and standard error.

// A message must not end the thread that it comes from: see `stderr`, and `cli::print` for
// results.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod cli;
mod console;
mod panics;
mod process;
mod signals;
mod stderr;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
