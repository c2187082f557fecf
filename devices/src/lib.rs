//! Emulated devices and the buses that route a guest's accesses to them.
//!
//! No code here depends on KVM, sockets or migration: a device sees guest memory, eventfds, its
//! interrupt line and plain saved-state values. The machine (`ferry-machine`) builds devices, puts
//! them on buses, and saves and loads them through [`Device`].

// `println!` and `eprintln!` panic on a closed pipe: a message must not end its thread.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod advice;
pub mod bus;
pub mod device;
pub mod exit;
pub mod fault;
mod interrupt;
mod log_limit;
pub mod one_call;
mod saved;
pub mod serial;
pub mod virtio;

pub use bus::{Bus, BusDevice, BusError};
pub use device::{Device, DeviceId, Handle, LoadError, Offer, SaveError, Storage};
pub use interrupt::InterruptLine;

/// Guest memory as every device sees it.
///
/// Its bitmap (one bit for each 4 KiB page) records the pages that devices write, because KVM's
/// dirty log covers only the vCPUs.
pub type GuestMemory = vm_memory::GuestMemoryMmap<vm_memory::bitmap::AtomicBitmap>;
