//! The simulator of protections: a guest that is protected again and again, by both state machines
//! talking in real encoded frames over links with latency, in virtual time, while things go wrong
//! at random. Then everything is mended, and the guest must come to be protected.
//!
//! Where the explorer tries every order of few faults, the simulator tries many faults in one
//! plausible order, over many protections in a row: processes that are frozen and wake up as
//! primaries which were deposed long ago, changes of the record that come late, failovers from one
//! process to the next. The oracles trust no process: an [`Observer`] outside sees every output,
//! each of which carries a hash of all before it, and the pages of every commit are compared with
//! those at its capture.

mod calls;
mod faults;
mod guest;
mod link;
mod primary_host;
mod process;
mod secondary_host;
mod sim;

pub use guest::Observer;
pub use sim::{Ending, Failure, run, run_with};

/// Microseconds of virtual time.
pub type Micros = u64;
