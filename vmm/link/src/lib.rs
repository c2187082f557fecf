//! The transport: addresses, listeners, links with deadlines, control messages, passed descriptors,
//! a rate limit.
//!
//! The drivers of a migration use no socket. A [`Link`] reads into guest memory and writes from it,
//! can be ended by another thread, and reports when the peer has gone or nothing moves; below it is
//! a `wire`, of which a stream socket is one kind. [`control`] carries whole messages over a link,
//! each with a deadline for all of it; [`arrivals`] accepts incoming links.

// Only the command line prints: a message must not end the thread that writes it.
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
