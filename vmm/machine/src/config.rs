//! The configuration of a machine, as given on the command line.

use std::path::PathBuf;

use ferry_devices::fault::FaultSpec;

use ferry_memory::MemoryConfig;

/// The most vCPUs that a machine may have.
pub const CPUS_MAX: u32 = 16;

/// Where the guest's serial port goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SerialSink {
    /// Standard output; input comes from the console of the process.
    #[default]
    Stdio,
    /// A file, which is appended to.
    File(PathBuf),
    /// Nowhere.
    Null,
}

/// A disk of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// A raw image: a regular file or a block device.
    pub path: PathBuf,
    /// The guest may only read.
    pub read_only: bool,
    /// Its content is raw, also if it looks like another format.
    pub raw: bool,
}

/// The configuration for [`Machine::build`](super::Machine::build).
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// The guest's name; both ends of a migration must agree on it.
    pub name: String,
    /// Guest RAM.
    pub memory: MemoryConfig,
    /// Number of vCPUs, from 1 to [`CPUS_MAX`].
    pub cpus: u32,
    /// Kernel image; `None` boots the built-in guest.
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Kernel command line; the machine appends the words that its devices need.
    pub command_line: String,
    /// The disk, if any.
    pub disk: Option<DiskConfig>,
    /// Where the serial port goes.
    pub serial: SerialSink,
    /// The guest waits for `cont`.
    pub paused: bool,
    /// The guest comes from another process: nothing is booted, and nothing runs before it has
    /// arrived.
    pub incoming: bool,
    /// First rules of the fault device.
    pub faults: Vec<FaultSpec>,
}

impl Default for MachineConfig {
    fn default() -> Self {
        MachineConfig {
            name: "guest".to_owned(),
            memory: MemoryConfig::default(),
            cpus: 1,
            kernel: None,
            initrd: None,
            command_line: String::new(),
            disk: None,
            serial: SerialSink::default(),
            paused: false,
            incoming: false,
            faults: Vec::new(),
        }
    }
}
