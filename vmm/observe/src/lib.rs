//! What a Ferry process shows of itself: events for clients, the trace of its migrations, counters
//! of pages, errors with their causes, and the files that all this is written to.
//!
//! Nothing here knows KVM, a socket or a migration's driver: they publish, note and count.

// Printing is the command line's: a message must not end the thread that it comes from.
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
