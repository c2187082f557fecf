//! What bytes travel on: addresses, listeners, links with deadlines, control messages, descriptors
//! that go along, a limit to the rate.
//!
//! The drivers of a migration know no socket. A [`Link`] reads into guest memory and writes from it,
//! is ended from outside, and tells when the peer has gone or nothing moves; below it is a `wire`,
//! of which a stream socket is one kind. [`control`] carries whole messages over a link, each with a
//! deadline for all of it; [`arrivals`] takes the links that come.

// Printing is the command line's: a message must not end the thread that it comes from.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod arrivals;
mod connect;
pub mod control;
pub mod endpoint;
mod link;
pub mod listener;
mod lookup;
mod outbox;
pub mod rate;
mod socket;
pub mod unix_socket;
mod until;
mod wire;

pub use self::link::{Allowance, LOOK, Link, Unconfirmed, silent};
