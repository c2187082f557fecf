//! The lines that the guest prints, as types and as text: the one definition that kernel and host
//! share.
//!
//! The kernel (which includes this file by path) prints a [`Line`]; [`crate::report`] reads it
//! back. Only `core` is used. Every line begins with `ferry ` and its kind; then come `key=value`
//! pairs. Serial output is slow, hence the short keys.

use core::fmt::{self, Display, Formatter};

/// Buckets of a [`Histogram`].
pub const BUCKETS: usize = 24;
/// A touch that takes at least so long is a stall, in µs. A first write to a page that is logged
/// takes less, an access to one that has to come from another host takes more.
pub const STALL_US: u64 = 16;
/// Buckets of [`Stalls`].
pub const STALL_BUCKETS: usize = 128;
/// Buckets of [`Stalls`] from one power of two to the next.
pub const STALL_STEPS: u64 = 8;

/// One line of the guest. `S` is its text type: borrowed or formatted on the fly in the guest,
/// owned on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "the kernel has no heap to box a report in")]
pub enum Line<S> {
    /// The kernel is up. The first line.
    Boot(Boot),
    /// A vCPU has written its part of the working set for the first time; from now on it is paced
    /// and measured.
    Ready(Ready),
    /// The regular account of one vCPU.
    Report(Report),
    /// Something is wrong and the guest goes on.
    Error(Fault<S>),
    /// Something is wrong and the guest powers off.
    Fatal(Fault<S>),
    /// The guest shuts down or reboots, as it was asked to. The last line.
    End(End),
}

/// The kernel is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// vCPUs that the command line promises.
    pub cpus: u32,
    /// RAM by the VMM's memory map, in bytes.
    pub memory_bytes: u64,
    /// The working set, capped to the RAM that there is, in bytes.
    pub working_set_bytes: u64,
    /// Frequency of the TSC, in kHz.
    pub tsc_khz: u64,
    /// Where the frequency comes from.
    pub tsc_source: TscSource,
    /// The vector registers that are checked.
    pub simd: Simd,
    /// Whether kvmclock is there and checked.
    pub kvmclock: bool,
    /// The timer that paces and ticks.
    pub timer: Timer,
    /// The disk that is used.
    pub disk: Disk,
}

/// A vCPU's part of the working set is filled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The vCPU.
    pub cpu: u32,
    /// Pages in its part.
    pub pages: u64,
    /// Milliseconds since boot, by the TSC.
    pub uptime_ms: u64,
}

/// What a vCPU did and saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The vCPU.
    pub cpu: u32,
    /// Counts this vCPU's reports from 1.
    pub sequence: u64,
    /// Pages touched since `ready`.
    pub pages: u64,
    /// Longest gap since the previous report, in µs. A gap is the time by which a touch ended
    /// later than it was due and later than the touch before it: pacing and printing are none.
    pub gap_us: u64,
    /// Longest gap since `ready`, in µs.
    pub worst_gap_us: u64,
    /// All gaps since `ready`.
    pub gaps: Histogram,
    /// Timer interrupts since boot.
    pub ticks: u64,
    /// Completed disk requests since boot; 0 on vCPUs that do not drive the disk.
    pub disk_requests: u64,
    /// Errors of this vCPU since boot, also those beyond what it prints.
    pub errors: u64,
    /// Milliseconds since boot, by the raw TSC, which never stops.
    pub uptime_ms: u64,
    /// kvmclock in milliseconds; absent without it.
    pub kvmclock_ms: Option<u64>,
    /// Touches since the previous report that took long by themselves, however late they were.
    pub stalls: Stalls,
}

/// Something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault<S> {
    /// The vCPU that noticed.
    pub cpu: u32,
    /// Milliseconds since boot, by the TSC.
    pub uptime_ms: u64,
    /// What, where, what was expected and what was found.
    pub text: S,
}

/// The guest ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// How.
    pub exit: crate::workload::Exit,
    /// Errors of all vCPUs.
    pub errors: u64,
    /// Milliseconds since boot, by the TSC.
    pub uptime_ms: u64,
}

/// Counts durations by magnitude: bucket 0 those below 2 µs, bucket k those from 2^k µs to below
/// 2^(k+1) µs, the last one all that is longer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram(pub [u64; BUCKETS]);

impl Histogram {
    /// Counts one duration, in µs.
    pub fn add(&mut self, us: u64) {
        self.0[Self::bucket(us)] += 1;
    }

    /// The bucket of a duration, in µs.
    pub fn bucket(us: u64) -> usize {
        (us.max(1).ilog2() as usize).min(BUCKETS - 1)
    }
}

/// Touches of [`STALL_US`] or longer, counted finely enough to tell percentiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stalls {
    /// All of them added up, in µs.
    pub total_us: u64,
    /// How many took from [`Stalls::floor_us`] of the bucket to below that of the next; the last
    /// one counts all that is longer.
    pub counts: [u32; STALL_BUCKETS],
}

impl Default for Stalls {
    fn default() -> Self {
        Stalls { total_us: 0, counts: [0; STALL_BUCKETS] }
    }
}

impl Stalls {
    /// Counts one touch, in µs, if it is a stall.
    pub fn add(&mut self, us: u64) {
        if us >= STALL_US {
            self.total_us = self.total_us.saturating_add(us);
            self.counts[Self::bucket(us)] += 1;
        }
    }

    /// The bucket of a stall, in µs: [`STALL_STEPS`] equal steps from each power of two to the
    /// next.
    pub fn bucket(us: u64) -> usize {
        let octave = u64::from(us.max(STALL_US).ilog2() - STALL_US.ilog2());
        let step = (us.max(STALL_US) >> octave) / (STALL_US / STALL_STEPS) - STALL_STEPS;
        ((octave * STALL_STEPS + step) as usize).min(STALL_BUCKETS - 1)
    }

    /// The shortest stall of a bucket, in µs.
    pub fn floor_us(bucket: usize) -> u64 {
        let (octave, step) = (bucket as u64 / STALL_STEPS, bucket as u64 % STALL_STEPS);
        ((STALL_STEPS + step) * (STALL_US / STALL_STEPS)) << octave
    }
}

/// A value that is printed as one word, and the words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// The value that this word stands for.
            pub fn from_word(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The word that stands for this value.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// Where the TSC's frequency comes from.
    TscSource {
        /// CPUID leaf 0x40000010, by which a hypervisor tells it.
        Hypervisor = "leaf40000010",
        /// CPUID leaf 0x15, the ratio to a crystal of known frequency.
        Crystal = "leaf15",
        /// The scale that kvmclock publishes.
        Kvmclock = "kvmclock",
        /// Measured against the PIT.
        Pit = "pit",
        /// CPUID leaf 0x16, the nominal frequency of the processor.
        Nominal = "leaf16",
        /// Neither CPUID nor kvmclock states it, and nothing could be measured: 1 GHz is assumed,
        /// so all times are wrong by some factor.
        Unknown = "unknown",
    }
}

words! {
    /// The vector registers that are checked.
    Simd {
        /// None.
        Off = "off",
        /// XMM0–15.
        Sse = "sse",
        /// XMM0–15, and the upper halves of YMM0–15.
        Avx = "avx",
    }
}

words! {
    /// How the local APIC's timer is used.
    Timer {
        /// IA32_TSC_DEADLINE.
        Deadline = "deadline",
        /// One-shot counts.
        OneShot = "oneshot",
    }
}

words! {
    /// The disk that is used.
    Disk {
        /// None was found, or it is switched off.
        None = "none",
        /// Written, flushed, read and checked.
        ReadWrite = "rw",
        /// Only read.
        ReadOnly = "ro",
    }
}

impl<S: Display> Display for Line<S> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Line::Boot(boot) => boot.fmt(f),
            Line::Ready(ready) => {
                write!(f, "ferry ready c={} n={} u={}", ready.cpu, ready.pages, ready.uptime_ms)
            }
            Line::Report(report) => report.fmt(f),
            Line::Error(fault) => write!(f, "ferry error {fault}"),
            Line::Fatal(fault) => write!(f, "ferry fatal {fault}"),
            Line::End(end) => write!(f, "ferry {} e={} u={}", end.exit, end.errors, end.uptime_ms),
        }
    }
}

impl Display for Boot {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "ferry boot cpus={} mem={} ws={} ", self.cpus, self.memory_bytes, self.working_set_bytes)?;
        write!(f, "khz={} tsc={} simd={} ", self.tsc_khz, self.tsc_source, self.simd)?;
        write!(f, "kvmclock={} timer={} disk={}", u8::from(self.kvmclock), self.timer, self.disk)
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "ferry r c={} s={} p={} ", self.cpu, self.sequence, self.pages)?;
        write!(f, "g={} G={} h={} ", self.gap_us, self.worst_gap_us, self.gaps)?;
        write!(f, "t={} d={} e={} u={}", self.ticks, self.disk_requests, self.errors, self.uptime_ms)?;
        if let Some(ms) = self.kvmclock_ms {
            write!(f, " k={ms}")?;
        }
        if self.stalls.total_us == 0 {
            return Ok(());
        }
        write!(f, " W={} w=", self.stalls.total_us)?;
        sparse(f, &self.stalls.counts)
    }
}

/// The counts that are not 0, as `bucket:count,…`; `-` when all are.
impl Display for Histogram {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        sparse(f, &self.0)
    }
}

fn sparse<N: Copy + Display + Default + PartialEq>(f: &mut Formatter<'_>, counts: &[N]) -> fmt::Result {
    let mut separator = "";
    for (bucket, count) in counts.iter().enumerate().filter(|(_, count)| **count != N::default()) {
        write!(f, "{separator}{bucket}:{count}")?;
        separator = ",";
    }
    if separator.is_empty() { f.write_str("-") } else { Ok(()) }
}

/// The text comes last, because it may hold anything but a line end.
impl<S: Display> Display for Fault<S> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "c={} u={} {}", self.cpu, self.uptime_ms, self.text)
    }
}
