//! The tiny guest's host side: its ELF image, its command line, and the parser of its reports.
//!
//! The machine boots [`ELF`] when no other kernel is given; tests, benchmarks and the demo tell it
//! what to do with a [`Workload`] and read what it says with [`parse_line`]. The kernel itself is
//! in `guest/kernel/`.

pub mod lines;
pub mod report;
pub mod workload;

pub use report::{Line, ParseError, parse_line};
pub use workload::Workload;

/// The guest kernel: a statically linked PVH ELF64 (Xen note `XEN_ELFNOTE_PHYS32_ENTRY`), linked
/// to run at 1 MiB.
pub const ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ferry-guest.elf"));

impl Workload {
    /// The kernel command line for this workload: what differs from the default, separated by
    /// spaces.
    pub fn to_cmdline(&self) -> String {
        self.to_string()
    }
}
