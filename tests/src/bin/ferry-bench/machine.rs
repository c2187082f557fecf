//! The guest that is migrated, the same for every peer.

use ferry_guest::Workload;
use ferry_guest::workload::{Order, Rate, Switch};

/// Time between two reports of a vCPU: short, so that the one that spans the switchover comes soon.
const REPORT_MS: u64 = 100;
/// Touches of an idle guest: enough that its gaps are known to a millisecond, too few to matter.
const IDLE_RATE: u64 = 4 << 20;

/// Ferry's own default.
const DEFAULT_BACKING: &str = "anon";

/// A guest and what it does.
#[derive(Clone, Debug)]
pub struct Guest {
    /// RAM in bytes.
    pub memory: u64,
    /// vCPUs.
    pub cpus: u32,
    /// What backs its memory under Ferry, as `--memory` names it.
    pub backing: String,
    /// How it loads its memory, in words.
    pub load: String,
    workload: Workload,
}

impl Guest {
    /// One that fills half of its memory, and then touches it at random with `rate` bytes of pages a second.
    pub fn new(memory: u64, cpus: u32, rate: u64, idle: bool) -> Self {
        let load = if idle {
            "half of the memory filled, then idle".to_owned()
        } else {
            format!("half of the memory touched at random at {} MiB/s", rate >> 20)
        };
        let workload = Workload {
            cpus,
            working_set: memory / 2,
            rate: Rate::BytesPerSecond(if idle { IDLE_RATE } else { rate }),
            order: Order::Rand,
            report_ms: REPORT_MS,
            disk: Switch::Off,
            // QEMU 7.2 loses the upper halves of the YMM registers on a software-nested KVM, which the guest would notice.
            simd: Switch::Off,
            ..Workload::default()
        };
        Guest { memory, cpus, backing: DEFAULT_BACKING.to_owned(), load, workload }
    }

    /// One that boots and does little.
    pub fn small_load(memory: u64, cpus: u32) -> Self {
        let workload = Workload { cpus, report_ms: REPORT_MS, disk: Switch::Off, ..Workload::default() };
        Guest { memory, cpus, backing: DEFAULT_BACKING.to_owned(), load: "4 MiB touched".to_owned(), workload }
    }

    /// The same one with other memory under Ferry.
    pub fn backed_by(self, backing: &str) -> Self {
        Guest { backing: backing.to_owned(), ..self }
    }

    /// The kernel command line.
    pub fn cmdline(&self) -> String {
        self.workload.to_cmdline()
    }
}
