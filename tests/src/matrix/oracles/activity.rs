//! Who ran the guest, and when, by the samples of CPU time.
//!
//! A sample says how much a thread had used up to then; between two samples of a thread its
//! account grew at an unknown moment. So what can be proved is: *not before* the earlier one and
//! *not after* the later one. A sampler that was kept waiting makes these stretches long and
//! proofs fewer, never wrong.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::matrix::evidence::{Evidence, Sample};

/// CPU time that a process's vCPU threads may use without running the guest: they begin, and wake
/// to look whether they may run. Measured: 0.05 ms each from their beginning to their first run,
/// and nothing once the guest has left. A guest that runs uses 0.2 to 0.8 ms in each millisecond,
/// so it is known for one within 5 to 15 ms.
pub(super) const RUN: Duration = Duration::from_millis(2);

/// A stretch in which a vCPU's account grew.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    process: usize,
    from: SystemTime,
    to: SystemTime,
    used: Duration,
}

/// When which process used CPU time for its vCPUs.
#[derive(Debug)]
pub(super) struct Activity {
    /// In the order of their ends.
    stretches: Vec<Stretch>,
}

impl Activity {
    /// From the samples.
    #[must_use]
    pub(super) fn of(evidence: &Evidence) -> Self {
        let mut newest: BTreeMap<(usize, u32), &Sample> = BTreeMap::new();
        let mut stretches = Vec::new();
        for sample in &evidence.samples {
            let Some(before) = newest.insert((sample.process, sample.vcpu), sample) else { continue };
            if sample.on_cpu_ns > before.on_cpu_ns {
                let used = Duration::from_nanos(sample.on_cpu_ns - before.on_cpu_ns);
                stretches.push(Stretch { process: sample.process, from: before.at, to: sample.at, used });
            }
        }
        stretches.sort_by_key(|stretch| stretch.to);
        Activity { stretches }
    }

    /// The moment by which a process had run the guest for sure; `None`: it never did.
    #[must_use]
    pub(super) fn had_run_by(&self, process: usize) -> Option<SystemTime> {
        self.had_run_since(process, SystemTime::UNIX_EPOCH)
    }

    /// The same, counting only what it used after `since`.
    #[must_use]
    pub(super) fn had_run_since(&self, process: usize, since: SystemTime) -> Option<SystemTime> {
        let mut used = Duration::ZERO;
        let own = self.stretches.iter().filter(|stretch| stretch.process == process && stretch.from >= since);
        own.into_iter().find_map(|stretch| {
            used += stretch.used;
            (used >= RUN).then_some(stretch.to)
        })
    }

    /// CPU time that a process used in stretches within this time.
    #[must_use]
    pub(super) fn used(&self, process: usize, from: SystemTime, to: SystemTime) -> Duration {
        let within = |stretch: &&Stretch| stretch.process == process && stretch.from >= from && stretch.to <= to;
        self.stretches.iter().filter(within).map(|stretch| stretch.used).sum()
    }
}
