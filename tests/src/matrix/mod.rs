//! The fault matrix: what is broken when, where and how, what a third party saw of it, and who judges.
//!
//! A cell is one fault in one migration of real processes. The runner carries it out and gathers an
//! [`Evidence`](evidence::Evidence), for which [`watch`] looks at the processes from outside; the [`oracles`] judge that, and nothing else.

pub mod evidence;
pub mod oracles;
pub mod watch;
