//! The guest that is migrated, the same for every peer.

use ferry_guest::Workload;
use ferry_guest::workload::{Order, Rate, Switch};

/// Time between two reports of a vCPU: short, so that the one that spans the switchover comes
/// soon.
const REPORT_MS: u64 = 100;
/// Touches of an idle guest: enough that its gaps are known to a millisecond, too few to matter.
const IDLE_RATE: u64 = 4 << 20;
/// The same two for a guest that is to leave the host alone: a report, and a wake-up for each
/// touch, are dear where ring 0 is emulated.
const QUIET_REPORT_MS: u64 = 300;
const QUIET_RATE: u64 = 256 << 10;

/// Ferry's own default.
const DEFAULT_BACKING: &str = "anon";

/// A guest and what it does.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// RAM in bytes.
    pub memory: u64,
    /// vCPUs.
    pub cpus: u32,
    /// What backs its memory under Ferry, as `--memory` names it.
    pub backing: String,
    /// The host allocates all of its memory before anything else happens, on both sides.
    pub prealloc: bool,
    /// How Ferry finds the ownership record, as `--ownership` names it.
    pub ownership: Option<String>,
    /// How it loads its memory, in words.
    pub load: String,
    workload: Workload,
}

impl Guest {
    /// One that fills half of its memory, and then touches it at random with `rate` bytes of pages
    /// a second; next to nothing at 0.
    pub(crate) fn touching(memory: u64, cpus: u32, rate: u64) -> Self {
        let (load, rate) = match rate {
            0 => ("half of the memory filled, then idle".to_owned(), IDLE_RATE),
            rate => (format!("half of the memory touched at random at {} MiB/s", rate >> 20), rate),
        };
        Self::new(memory, cpus, load, memory / 2, Rate::BytesPerSecond(rate))
    }

    /// One that touches half of its memory at random as fast as it can.
    pub(crate) fn flat_out(memory: u64, cpus: u32) -> Self {
        Self::new(memory, cpus, "half of the memory touched at random, flat out".to_owned(), memory / 2, Rate::Max)
    }

    /// One that fills all of its memory, so that no page is zero, and then does next to nothing.
    pub(crate) fn full(memory: u64, cpus: u32) -> Self {
        let rate = Rate::BytesPerSecond(QUIET_RATE);
        // The guest caps its working set to what is free.
        let mut guest =
            Self::new(memory, cpus, "all of the memory filled, then all but asleep".to_owned(), memory, rate);
        guest.workload.report_ms = QUIET_REPORT_MS;
        guest
    }

    /// One that boots and does little.
    pub(crate) fn small_load(memory: u64, cpus: u32) -> Self {
        let small = Workload::default();
        Self::new(memory, cpus, "4 MiB touched".to_owned(), small.working_set, small.rate)
    }

    fn new(memory: u64, cpus: u32, load: String, working_set: u64, rate: Rate) -> Self {
        let workload = Workload {
            cpus,
            working_set,
            rate,
            order: Order::Rand,
            report_ms: REPORT_MS,
            disk: Switch::Off,
            // QEMU 7.2 loses the upper halves of the YMM registers on a software-nested KVM, which
            // the guest would notice.
            simd: Switch::Off,
            ..Workload::default()
        };
        Guest { memory, cpus, backing: DEFAULT_BACKING.to_owned(), prealloc: false, ownership: None, load, workload }
    }

    /// The guest in words.
    pub(crate) fn title(&self) -> String {
        let vcpus = if self.cpus == 1 { "vCPU" } else { "vCPUs" };
        format!("{} MiB, {} {vcpus}, {}", self.memory >> 20, self.cpus, self.load)
    }

    /// Bytes of its working set, as far as it fits.
    pub(crate) fn working_set(&self) -> u64 {
        self.workload.working_set
    }

    /// The same one with an ownership record under Ferry, or with `none`.
    pub(crate) fn owned_by(self, ownership: &str) -> Self {
        Guest { ownership: Some(ownership.to_owned()), ..self }
    }

    /// The same one with other memory under Ferry.
    pub(crate) fn backed_by(self, backing: &str) -> Self {
        Guest { backing: backing.to_owned(), ..self }
    }

    /// The same one with memory that is allocated at once.
    pub(crate) fn preallocated(self) -> Self {
        Guest { prealloc: true, ..self }
    }

    /// The kernel command line.
    pub(crate) fn cmdline(&self) -> String {
        self.workload.to_cmdline()
    }
}
