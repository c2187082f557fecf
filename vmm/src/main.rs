//! The `ferry` command: everything is in the library, so that tests can reach it.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ferry_vmm::cli::main()
}
