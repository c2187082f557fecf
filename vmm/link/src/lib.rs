//! What bytes travel on: addresses, listeners, connections with deadlines, control messages,
//! descriptors that go along, a limit to the rate.
//!
//! The drivers of a migration know no socket. [`stream::Stream`] reads into guest memory and
//! writes from it, is ended from outside, and tells when the peer has gone or nothing moves;
//! [`control`] carries whole messages over one, each with a deadline for all of it.

// Printing is the command line's: a message must not end the thread that it comes from.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod connect;
pub mod control;
pub mod endpoint;
pub mod listener;
mod lookup;
mod outbox;
mod passing;
pub mod rate;
pub mod stream;
pub mod unix_socket;
mod until;
