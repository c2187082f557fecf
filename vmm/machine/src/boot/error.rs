//! Errors in a kernel, an initrd or a command line, each with a remedy.

use std::fmt;
use std::io;

/// Which input a message is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The kernel at a path.
    Kernel(std::path::PathBuf),
    /// The initrd at a path.
    Initrd(std::path::PathBuf),
    /// The guest that is built into the program.
    BuiltIn,
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Input::Kernel(path) => write!(f, "kernel '{}'", path.display()),
            Input::Initrd(path) => write!(f, "initrd '{}'", path.display()),
            Input::BuiltIn => f.write_str("the built-in guest"),
        }
    }
}

/// The guest cannot be booted.
#[derive(Debug, thiserror::Error)]
#[error("{input}: {problem}")]
pub struct BootError {
    /// The input that was being read or loaded.
    pub input: Input,
    /// The problem in it.
    #[source]
    pub problem: Problem,
}

/// A problem in an image.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file does not open.
    #[error("cannot be opened ({0}); check the path and its permissions")]
    Open(io::Error),
    /// The file opens but does not read.
    #[error("cannot be read ({0}); check the storage it is on")]
    Read(io::Error),
    /// A directory, a pipe, a device.
    #[error("is not a regular file; give the path of an image file")]
    NotAFile,
    /// The file is empty.
    #[error("is empty; give a complete image")]
    Empty,
    /// The file ends before something that its headers promise.
    #[error("ends before its {part} (needs {needed} bytes, has {len}); it was cut short, copy it again")]
    Truncated {
        /// What is missing.
        part: &'static str,
        /// File length that would hold it.
        needed: u64,
        /// File length found.
        len: u64,
    },
    /// Neither ELF nor bzImage.
    #[error("is neither an ELF file nor a Linux bzImage; give an uncompressed vmlinux, a bzImage or a PVH kernel")]
    NotAKernel,
    /// An ELF file for another machine.
    #[error("is an ELF file but not a little-endian one for x86-64 or i386 ({0}); build the kernel for x86-64")]
    WrongElf(&'static str),
    /// A 32-bit ELF file that is no PVH kernel.
    #[error("is a 32-bit ELF file without a PVH entry note; give a PVH kernel, or build it for x86-64")]
    NoPvhNote,
    /// A header field has a value that makes no sense.
    #[error("has a bad header: {0}; the file is damaged, copy or build it again")]
    BadHeader(&'static str),
    /// No PT_LOAD segment.
    #[error("has nothing to load; give an executable kernel, not an object file")]
    NoSegments,
    /// A segment lies outside of RAM.
    #[error(
        "needs guest memory from {start:#x} to {end:#x}, which is not there; give more with --memory or link it lower"
    )]
    OutsideRam {
        /// First address needed.
        start: u64,
        /// First address not needed.
        end: u64,
    },
    /// A segment lies below 1 MiB.
    #[error("loads at {start:#x}, below 1 MiB, where boot data lies; link the kernel at 1 MiB or above")]
    TooLow {
        /// First address needed.
        start: u64,
    },
    /// Two segments overlap.
    #[error("has two segments that overlap at {at:#x}; link it again")]
    Overlap {
        /// The first address that both need.
        at: u64,
    },
    /// The entry point lies in no loaded segment.
    #[error("has its entry point at {entry:#x}, outside of everything it loads; link it again")]
    NoEntry {
        /// The entry point found.
        entry: u64,
    },
    /// A bzImage without the 64-bit entry.
    #[error("is a bzImage that cannot be entered in 64-bit mode (boot protocol {}.{:02}); use an x86-64 kernel, Linux 3.8 or newer", .version >> 8, .version & 0xff)]
    OldBzImage {
        /// Boot protocol version, major in the high byte.
        version: u16,
    },
    /// The command line is too long.
    #[error("takes a command line of at most {max} bytes, but {len} were given; shorten --cmdline")]
    CommandLine {
        /// Bytes given.
        len: usize,
        /// Bytes possible.
        max: usize,
    },
    /// The command line holds a zero byte.
    #[error("cannot take a command line with a zero byte in it; remove it from --cmdline")]
    CommandLineZero,
    /// The initrd does not fit between kernel and end of memory.
    #[error("of {len} bytes does not fit into guest memory beside the kernel; give more with --memory")]
    InitrdTooLarge {
        /// Its size in bytes.
        len: u64,
    },
    /// Guest memory refused a write that was checked before.
    #[error("cannot be written to guest memory ({0}); this is a fault of the program, report it")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

impl Problem {
    pub(super) fn of(self, input: &Input) -> BootError {
        BootError { input: input.clone(), problem: self }
    }
}
