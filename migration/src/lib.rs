//! The migration protocol of Ferry: the messages between the two sides, the state machine of each,
//! and which pages remain.
//!
//! Sans-IO: no KVM, sockets, threads, clock or page data. The drivers in `ferry-transfer` feed these
//! types with the real things; tests feed the same types with made-up ones.

pub mod convergence;
pub mod description;
pub mod destination;
pub mod greeting;
pub mod guards;
pub mod identity;
pub mod info;
pub mod message;
mod named;
pub mod ownership;
pub mod package;
pub mod pages;
pub mod parameters;
pub mod protection;
pub mod section;
pub mod source;
pub mod timer;
pub mod wire;

pub use description::{Incompatibility, MachineDescription};
pub use greeting::{Greeting, PassedMemory};
pub use identity::Identity;
pub use info::{MigrationInfo, Status};
pub use message::{Failure, Handshake, ToDestination, ToSource};
pub use parameters::Parameters;
pub use section::Section;
pub use timer::Timer;
