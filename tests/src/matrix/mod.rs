//! The fault matrix: what is broken when, where and how, what a third party saw of it, and who
//! judges.
//!
//! ```text
//!  catalogue ─► cell ─► run: stage ─► moment ─► act ─► drive ─► next        the experiment
//!                              └── watch, relay ──► evidence ─► oracles     what was seen of it, and the verdicts
//!                                                      ▲
//!                                          expect ─────┘                    what the promises allow
//! ```
//!
//! A [`cell`] is one fault in one migration of real processes; the [`catalogue`] makes them from
//! the protocol's tables. [`run`] carries one out and gathers an [`Evidence`](evidence::Evidence),
//! for which [`watch`] looks at the processes from outside; the [`oracles`] judge that, and
//! nothing else. [`selection`] and [`results`] are for `tests/tests/matrix.rs` and `ci/matrix`.

pub mod act;
pub mod actor;
pub mod catalogue;
pub mod cell;
pub mod drive;
pub mod evidence;
pub mod expect;
pub mod moment;
pub mod next;
pub mod note;
pub mod oracles;
pub mod plain;
pub mod results;
pub mod run;
pub mod selection;
pub mod stage;
pub mod starve;
pub mod timeline;
pub mod watch;
