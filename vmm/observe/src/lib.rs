//! Observability of a Ferry process: events for clients, the trace of its migrations, counters of
//! pages, errors with their causes, and the files that these are written to.
//!
//! No code here depends on KVM, sockets or a migration's driver: those publish, note and count.

// Only the command line prints: `println!` panics on a closed pipe, and a message must not end its
// thread.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod causes;
mod counters;
pub mod events;
pub mod output_file;
mod run_state;
pub mod trace;

pub use self::causes::causes;
pub use self::counters::PageCounters;
pub use self::run_state::RunState;
