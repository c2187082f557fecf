//! The progress of a process's present or last migration, for `query-migrate`.
//!
//! Page threads count into atomics, once a chunk; the driver writes the rest when its state
//! changes; QMP reads at any time and never waits for a migration.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ferry_memory::userfault::{Blocktime, Faults};
use ferry_migration::info::{Downtime, PageWaits, PostcopyStats, RamStats};
use ferry_migration::pages::PAGE_SIZE;
use ferry_migration::{Handshake, MigrationInfo, Status};
use ferry_observe::PageCounters;
use ferry_observe::events::{Event, Events};

use crate::error::MigrationError;

/// Which way a migration goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
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
    handshake_why: Option<String>,
    local: bool,
    waits: Waits,
}

/// Figures about accesses to missing pages.
#[derive(Debug, Default)]
enum Waits {
    /// No postcopy, or this is its source.
    #[default]
    None,
    /// Postcopy is under way.
    Live(Arc<Faults>),
    /// The final figures.
    Past(&'static str, Box<Blocktime>),
}

impl Waits {
    fn read(&self) -> Option<(&'static str, Blocktime, u64)> {
        match self {
            Waits::None => None,
            Waits::Live(faults) => Some((faults.mode(), faults.blocktime(), faults.awaited().len() as u64)),
            Waits::Past(mode, blocktime) => Some((mode, **blocktime, 0)),
        }
    }
}

/// One migration's progress.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Counted by the page threads.
    pub pages: PageCounters,
    ram_bytes: u64,
    facts: Mutex<Facts>,
    events: Arc<Events>,
}

impl Progress {
    /// Nothing has happened yet.
    #[must_use]
    pub(crate) fn new(direction: Direction, ram_bytes: u64, events: Arc<Events>) -> Arc<Self> {
        let facts = Facts {
            status: None,
            direction,
            began: Instant::now(),
            setup_ms: None,
            ended_ms: None,
            downtime: None,
            error: None,
            handshake: Handshake::Setup,
            handshake_why: None,
            local: false,
            waits: Waits::None,
        };
        let pages = PageCounters::default();
        pages.remaining_pages.store(ram_bytes / PAGE_SIZE, Relaxed);
        Arc::new(Progress { pages, ram_bytes, facts: Mutex::new(facts), events })
    }

    /// Reads the progress for the trace; `None` once this is gone.
    pub(crate) fn watched(self: &Arc<Self>) -> impl Fn() -> Option<MigrationInfo> + Send + 'static {
        let watched = Arc::downgrade(self);
        move || watched.upgrade().map(|progress| progress.info())
    }

    /// The migration's status; an end fixes the total time.
    pub(crate) fn set_status(&self, status: Status) {
        let mut facts = self.facts();
        if facts.status == Some(status) {
            return;
        }
        if facts.status.is_none() {
            // A destination may have waited for its source for long: that is no part of the
            // migration.
            facts.began = Instant::now();
        }
        facts.status = Some(status);
        let elapsed = facts.began.elapsed().as_millis() as u64;
        match status {
            Status::Active => facts.setup_ms = facts.setup_ms.or(Some(elapsed)),
            Status::Completed | Status::Failed | Status::Cancelled => facts.ended_ms = Some(elapsed),
            _ => {}
        }
        drop(facts);
        ferry_observe::trace::status(status, || self.info());
        self.events.publish(Event::Migration(status));
    }

    /// The status, if there is one yet.
    #[must_use]
    pub(crate) fn status(&self) -> Option<Status> {
        self.facts().status
    }

    /// Sets why it failed or is uncertain, before the status that this explains.
    pub(crate) fn set_error(&self, reason: String) {
        ferry_observe::trace::note(|| ferry_observe::trace::What::Error { text: reason.clone() });
        self.facts().error = Some(reason);
    }

    /// The error no longer applies.
    pub(crate) fn clear_error(&self) {
        self.facts().error = None;
    }

    /// The handshake in force.
    pub(crate) fn set_handshake(&self, handshake: Handshake) {
        self.facts().handshake = handshake;
    }

    /// Why the handshake is not the expected one.
    pub(crate) fn set_handshake_why(&self, why: String) {
        self.facts().handshake_why = Some(why);
    }

    /// The memory is handed over as a whole: there are no pages to send.
    pub(crate) fn set_local(&self) {
        self.pages.remaining_pages.store(0, Relaxed);
        self.facts().local = true;
    }

    /// Destination: postcopy has begun, and `faults` has its figures.
    ///
    /// `missing` pages were missing when memory was armed: some may have come since.
    pub(crate) fn watch_faults(&self, faults: Arc<Faults>, missing: u64) {
        self.pages.is_postcopy.store(true, Relaxed);
        self.pages.missing_at_first.store(missing, Relaxed);
        self.pages.remaining_pages.store(faults.remaining(), Relaxed);
        self.facts().waits = Waits::Live(faults);
    }

    /// Destination: postcopy has ended; its figures stay.
    pub(crate) fn keep_faults(&self) {
        let mut facts = self.facts();
        if let Some((mode, blocktime, _)) = facts.waits.read() {
            facts.waits = Waits::Past(mode, Box::new(blocktime));
        }
    }

    /// Whether guest memory here is complete and the guest's own, as far as this migration matters;
    /// `is_handed_over`: the guest belongs to the destination for good.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn memory_is_whole(&self, is_handed_over: bool) -> Result<(), MigrationError> {
        let facts = self.facts();
        match (facts.direction, facts.status) {
            (Direction::Incoming, Some(status)) if self.pages.is_postcopy.load(Relaxed) => match status {
                // The last page may be here a moment before both sides have reported it.
                _ if self.pages.remaining_pages.load(Relaxed) == 0 => Ok(()),
                Status::Failed => Err(MigrationError::PagesLost),
                _ => Err(MigrationError::PagesMissing),
            },
            (Direction::Outgoing, Some(Status::Device | Status::Uncertain)) if facts.local => {
                Err(MigrationError::MemoryHandedOver)
            }
            (Direction::Outgoing, _) if facts.local && is_handed_over => Err(MigrationError::MemoryHandedOver),
            _ => Ok(()),
        }
    }

    /// The measured downtime.
    pub(crate) fn set_downtime(&self, downtime: Downtime) {
        self.facts().downtime = Some(downtime);
    }

    /// vCPUs are kept from running for this percentage of their time from now on.
    pub(crate) fn set_cpu_throttle(&self, percentage: u8) {
        self.pages.cpu_throttle.store(percentage.into(), Relaxed);
        self.pages.cpu_throttle_highest.fetch_max(percentage.into(), Relaxed);
    }

    /// Destination: `pages` more have arrived; a page that comes again is counted again.
    pub(crate) fn arrived(&self, pages: u64) {
        let left = |remaining: u64| Some(remaining.saturating_sub(pages));
        // The closure always returns a value.
        let _ = self.pages.remaining_pages.fetch_update(Relaxed, Relaxed, left);
    }

    /// Notifies clients that a round begins.
    pub(crate) fn begin_round(&self) {
        let round = self.pages.rounds.fetch_add(1, Relaxed) + 1;
        self.events.publish(Event::MigrationPass(round));
    }

    /// As `query-migrate` shows it.
    #[must_use]
    pub(crate) fn info(&self) -> MigrationInfo {
        let mut ram = self.ram();
        let facts = self.facts();
        let Some(status) = facts.status else {
            return MigrationInfo::default();
        };
        let outgoing = facts.direction == Direction::Outgoing;
        if status == Status::Completed {
            ram.remaining = 0;
        }
        let waits = facts.waits.read();
        if let Some((_, blocktime, _)) = waits {
            ram.postcopy_requests = blocktime.requests;
        }
        let throttle = |percentage: &AtomicU64| Some(percentage.load(Relaxed)).filter(|percentage| *percentage > 0);
        let blocktime = waits.map(|(_, blocktime, _)| blocktime).filter(|blocktime| blocktime.waits > 0);
        MigrationInfo {
            status: Some(status),
            ram: Some(ram),
            total_time: Some(facts.ended_ms.unwrap_or_else(|| facts.began.elapsed().as_millis() as u64)),
            setup_time: facts.setup_ms,
            downtime: facts.downtime.map(|d| d.total_us().div_ceil(1000)),
            expected_downtime: (outgoing && status == Status::Active)
                .then(|| self.pages.expected_us.load(Relaxed).div_ceil(1000)),
            cpu_throttle_percentage: throttle(&self.pages.cpu_throttle),
            x_ferry_cpu_throttle_highest: throttle(&self.pages.cpu_throttle_highest),
            error_desc: facts.error.clone(),
            x_ferry_downtime: facts.downtime,
            x_ferry_downtime_us: facts.downtime.map(|d| d.total_us()),
            x_ferry_direction: Some(if outgoing { "outgoing" } else { "incoming" }.to_owned()),
            x_ferry_handshake: Some(facts.handshake),
            x_ferry_handshake_why: facts.handshake_why.clone(),
            x_ferry_local: facts.local,
            postcopy_latency: blocktime.map(|b| b.total_us * 1000 / b.waits),
            postcopy_latency_dist: blocktime.map(|b| b.histogram.to_vec()),
            x_ferry_postcopy: self.postcopy(waits),
        }
    }

    fn postcopy(&self, waits: Option<(&'static str, Blocktime, u64)>) -> Option<PostcopyStats> {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        let at_first = get(&self.pages.missing_at_first);
        if !self.pages.is_postcopy.load(Relaxed) {
            return None;
        }
        let missing_pages = get(&self.pages.remaining_pages).min(at_first);
        Some(PostcopyStats {
            fault_mode: waits.map(|(mode, ..)| mode.to_owned()),
            received_pages: at_first - missing_pages,
            missing_pages,
            urgent_bytes: get(&self.pages.urgent_bytes),
            background_bytes: get(&self.pages.background_bytes),
            waits: waits.map(|(_, blocktime, pending)| PageWaits {
                count: blocktime.waits,
                total_us: blocktime.total_us,
                longest_us: blocktime.longest_us,
                p50_us: blocktime.p50_us,
                p99_us: blocktime.p99_us,
                local: blocktime.local,
                pending,
            }),
        })
    }

    fn ram(&self) -> RamStats {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        let (bytes, data) = (get(&self.pages.bytes), get(&self.pages.data_pages));
        let byte_rate = get(&self.pages.byte_rate);
        let precopy = get(&self.pages.precopy_bytes);
        let postcopy = get(&self.pages.urgent_bytes) + get(&self.pages.background_bytes);
        let before = bytes.saturating_sub(postcopy);
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
            pages_per_second: get(&self.pages.unpacked_rate) / PAGE_SIZE,
            precopy_bytes: if precopy == 0 { before } else { precopy },
            downtime_bytes: if precopy == 0 { 0 } else { before.saturating_sub(precopy) },
            postcopy_bytes: postcopy,
            postcopy_requests: get(&self.pages.requests),
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
