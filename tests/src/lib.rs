//! The harness that the integration tests share: starting `ferry`, speaking QMP, following a
//! guest, spoiling a migration.
//!
//! A test takes a [`Lab`] (a directory of its own and the check for `/dev/kvm`), describes
//! machines with a [`Spec`], starts them as [`Ferry`] processes, and follows the guest with a
//! [`GuestLog`] through every process that it visits. A [`Relay`] between two processes cuts,
//! stalls or corrupts a migration at a chosen message. Every wait is a condition with a deadline
//! ([`wait`]); a test that fails shows the standard error and the last serial lines of its
//! processes.

pub mod bad_input;
pub mod disk;
pub mod explorer;
pub mod failing;
pub mod ferry;
mod file_lock;
pub mod guest;
pub mod image;
pub mod lab;
pub mod local;
pub mod loops;
pub mod matrix;
pub mod memory;
pub mod migration;
pub mod model;
pub mod ownership;
pub mod peer;
pub mod postcopy;
pub mod procfs;
pub mod protection;
pub mod random;
pub mod relay;
pub mod replay;
pub mod scene;
pub mod simulator;
pub mod soak;
pub mod spec;
pub mod stranger;
pub mod wait;
mod watchdog;

pub use ferry::Ferry;
pub use guest::GuestLog;
pub use lab::Lab;
pub use postcopy::Postcopy;
pub use relay::Relay;
pub use scene::Scene;
pub use spec::Spec;
pub use wait::{LONG, SOON, wait_until};
