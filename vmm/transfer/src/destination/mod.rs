//! Drives a [`Destination`](ferry_migration::destination::Destination) with real links, the real
//! machine and real time.
//!
//! [`Incoming::listen`] spawns the driver's thread. It waits for a source as long as it takes,
//! carries out one migration, and ends with the guest here or with the reason why not; by then its
//! listener, workers and links are gone.

mod driver;
mod events;
mod incoming;
mod markers;
pub(crate) mod page_receiver;
mod populate;
mod postcopy;
mod requests;
mod silence;
mod worker;

pub(crate) use self::incoming::Incoming;
