//! The third party: looks at processes from outside while a cell runs.
//!
//! [`Sampler`] reads how much CPU time each vCPU's thread has used, [`disk::Watch`] learns who writes into the disk image, and
//! [`record::read`] reads the ownership record as its specification says, [`Strain`] measures what the machine denied them; what a process holds is
//! [`Inventory`](crate::procfs::Inventory)'s matter. None of these asks Ferry anything: [`process::process`] does, for Ferry's side of the story.

pub mod disk;
pub mod image;
pub mod left;
pub mod process;
pub mod record;
mod sampler;
pub mod strain;

pub use self::sampler::Sampler;
pub use self::strain::Strain;
