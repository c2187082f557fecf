//! What is known about a process's present or last migration, for `query-migrate`.
//!
//! Page threads count into atomics, once a chunk; the driver writes the rest when its state changes; QMP reads at any time
//! and never waits for a migration.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ferry_migration::info::{Downtime, RamStats};
use ferry_migration::pages::PAGE_SIZE;
use ferry_migration::{Handshake, MigrationInfo, Status};

use crate::events::{Event, Events};

/// Page counters of one migration, on either side.
#[derive(Debug, Default)]
pub struct PageCounters {
    /// Bytes on the bulk links, headers included.
    pub bytes: AtomicU64,
    /// Pages as data.
    pub data_pages: AtomicU64,
    /// Pages as zero bits.
    pub zero_pages: AtomicU64,
    /// Pages left in this round.
    pub remaining_pages: AtomicU64,
    /// Rounds begun.
    pub rounds: AtomicU64,
    /// Pages a second dirtied in the last round.
    pub dirty_rate: AtomicU64,
    /// Bytes a second sent in the last round.
    pub byte_rate: AtomicU64,
    /// What the last pages would take now, in microseconds.
    pub expected_us: AtomicU64,
    /// Bytes sent before the vCPUs stopped.
    pub precopy_bytes: AtomicU64,
}

/// Which way a migration goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The guest leaves.
    Outgoing,
    /// The guest arrives.
    Incoming,
}

#[derive(Debug)]
struct Facts {
    status: Option<Status>,
    direction: Direction,
    began: Instant,
    setup_ms: Option<u64>,
    ended_ms: Option<u64>,
    downtime: Option<Downtime>,
    error: Option<String>,
    handshake: Handshake,
}

/// One migration's progress.
#[derive(Debug)]
pub struct Progress {
    /// Counted by the page threads.
    pub pages: PageCounters,
    ram_bytes: u64,
    facts: Mutex<Facts>,
    events: Arc<Events>,
}

impl Progress {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(direction: Direction, ram_bytes: u64, events: Arc<Events>) -> Arc<Self> {
        let facts = Facts {
            status: None,
            direction,
            began: Instant::now(),
            setup_ms: None,
            ended_ms: None,
            downtime: None,
            error: None,
            handshake: Handshake::Setup,
        };
        let pages = PageCounters::default();
        pages.remaining_pages.store(ram_bytes / PAGE_SIZE, Relaxed);
        Arc::new(Progress { pages, ram_bytes, facts: Mutex::new(facts), events })
    }

    /// The migration's status; an end fixes the total time.
    pub fn set_status(&self, status: Status) {
        let mut facts = self.facts();
        if facts.status == Some(status) {
            return;
        }
        facts.status = Some(status);
        let elapsed = facts.began.elapsed().as_millis() as u64;
        match status {
            Status::Active => facts.setup_ms = facts.setup_ms.or(Some(elapsed)),
            Status::Completed | Status::Failed | Status::Cancelled => facts.ended_ms = Some(elapsed),
            _ => {}
        }
        drop(facts);
        self.events.publish(Event::Migration(status));
    }

    /// The status, if there is one yet.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.facts().status
    }

    /// Why it failed, or what is uncertain. Set before the status that it explains.
    pub fn set_error(&self, reason: String) {
        self.facts().error = Some(reason);
    }

    /// The handshake in force.
    pub fn set_handshake(&self, handshake: Handshake) {
        self.facts().handshake = handshake;
    }

    /// The measured downtime.
    pub fn set_downtime(&self, downtime: Downtime) {
        self.facts().downtime = Some(downtime);
    }

    /// Tells clients that a round begins.
    pub fn begin_round(&self) {
        let round = self.pages.rounds.fetch_add(1, Relaxed) + 1;
        self.events.publish(Event::MigrationPass(round));
    }

    /// As `query-migrate` shows it.
    #[must_use]
    pub fn info(&self) -> MigrationInfo {
        let ram = self.ram();
        let facts = self.facts();
        let Some(status) = facts.status else {
            return MigrationInfo::default();
        };
        let outgoing = facts.direction == Direction::Outgoing;
        MigrationInfo {
            status: Some(status),
            ram: Some(ram),
            total_time: outgoing.then(|| facts.ended_ms.unwrap_or_else(|| facts.began.elapsed().as_millis() as u64)),
            setup_time: facts.setup_ms,
            downtime: facts.downtime.map(|d| d.total_us().div_ceil(1000)),
            expected_downtime: (outgoing && status == Status::Active)
                .then(|| self.pages.expected_us.load(Relaxed).div_ceil(1000)),
            error_desc: facts.error.clone(),
            x_ferry_downtime: facts.downtime,
            x_ferry_downtime_us: facts.downtime.map(|d| d.total_us()),
            x_ferry_direction: Some(if outgoing { "outgoing" } else { "incoming" }.to_owned()),
            x_ferry_handshake: Some(facts.handshake),
        }
    }

    fn ram(&self) -> RamStats {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        let (bytes, data) = (get(&self.pages.bytes), get(&self.pages.data_pages));
        let byte_rate = get(&self.pages.byte_rate);
        let precopy = get(&self.pages.precopy_bytes);
        RamStats {
            transferred: bytes,
            remaining: get(&self.pages.remaining_pages) * PAGE_SIZE,
            total: self.ram_bytes,
            duplicate: get(&self.pages.zero_pages),
            normal: data,
            normal_bytes: data * PAGE_SIZE,
            dirty_pages_rate: get(&self.pages.dirty_rate),
            mbps: byte_rate as f64 * 8.0 / 1e6,
            dirty_sync_count: get(&self.pages.rounds),
            page_size: PAGE_SIZE,
            pages_per_second: byte_rate / PAGE_SIZE,
            precopy_bytes: if precopy == 0 { bytes } else { precopy },
            downtime_bytes: if precopy == 0 { 0 } else { bytes - precopy },
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
