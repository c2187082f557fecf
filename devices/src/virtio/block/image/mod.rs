//! The image of a disk: one trait, and the raw image that implements it.
//!
//! An image is shared storage: any process may open it, and the lock shows which process's guest
//! uses it. An implementation may keep the content itself ([`RawImage`]) or wrap another one.

mod backing;
mod error;
pub mod format;
mod interface;
mod lock;
mod raw;
mod sign;
mod vectors;

pub use self::error::BlockError;
pub use self::interface::{Image, SECTOR_BYTES};
pub use self::raw::RawImage;
pub use self::vectors::Vectors;
