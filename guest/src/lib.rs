//! The tiny guest's host side: its ELF image, its command line, and the parser of its reports.

/// The guest kernel: a statically linked PVH ELF64.
pub const ELF: &[u8] = &[];
