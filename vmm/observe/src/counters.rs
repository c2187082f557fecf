//! Counters of a migration's pages: page threads increment them, the progress and the trace read
//! them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Page counters of one migration, on either side.
#[derive(Debug, Default)]
pub struct PageCounters {
    /// Bytes on the bulk links, headers included.
    pub bytes: AtomicU64,
    /// Bytes that compression has saved on the bulk links. Counted at the source.
    pub saved_bytes: AtomicU64,
    /// Pages as data.
    pub data_pages: AtomicU64,
    /// Pages as zero bits.
    pub zero_pages: AtomicU64,
    /// Source: pages left in this round. Destination: pages of which no version has arrived yet.
    pub remaining_pages: AtomicU64,
    /// Rounds begun.
    pub rounds: AtomicU64,
    /// Pages a second dirtied in the last round.
    pub dirty_rate: AtomicU64,
    /// Bytes a second sent in the last round.
    pub byte_rate: AtomicU64,
    /// The same before compression.
    pub unpacked_rate: AtomicU64,
    /// The time that the last pages would take now, in microseconds.
    pub expected_us: AtomicU64,
    /// Bytes sent before the vCPUs stopped.
    pub precopy_bytes: AtomicU64,
    /// Percentage of their time that vCPUs are kept from running now; 0 is not at all.
    pub cpu_throttle: AtomicU64,
    /// The highest value so far.
    pub cpu_throttle_highest: AtomicU64,
    /// Postcopy has begun.
    pub is_postcopy: AtomicBool,
    /// Pages that were missing when postcopy began.
    pub missing_at_first: AtomicU64,
    /// Pages that the destination requested.
    pub requests: AtomicU64,
    /// Of `bytes`, answers to page requests.
    pub urgent_bytes: AtomicU64,
    /// Of `bytes`, postcopy's background stream.
    pub background_bytes: AtomicU64,
}

impl PageCounters {
    /// Pages as data, pages as zero bits, and bytes so far, by which a round is measured.
    #[must_use]
    pub fn sent(&self) -> [u64; 3] {
        [&self.data_pages, &self.zero_pages, &self.bytes].map(|counter| counter.load(Relaxed))
    }
}
