//! Sends pages: rounds over dirty pages, then the last pages, or in postcopy the remaining ones
//! while the destination runs.
//!
//! One thread owns the bulk links and the set of pending pages. For each stripe of memory the dirty
//! log is cleared, and only then is the memory read: a page that is written after the clear is in
//! the log again, so no write is lost and none has to be waited for. How the links share the work
//! is in [`partition`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ferry_link::Unconfirmed;
use ferry_link::control::LinkError;
use ferry_link::rate::{Limiter, Measured};
use ferry_machine::{Machine, Stopped};
use ferry_migration::pages::{CHUNK_PAGES, PAGE_SIZE, PageBitmap};
use ferry_observe::trace;

use crate::source::chunks::{ChunkSender, Purpose};
use crate::source::controls::{Controls, LOOK, PagesError};
use crate::source::partition::{self, Round};
use crate::source::remaining::Remaining;

/// The results of a round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoundNumbers {
    /// Pages dirtied since they were sent.
    pub remaining_pages: u64,
    /// Time that sending them would take.
    pub expected_us: u64,
    /// Bytes that the round sent, before compression.
    pub sent_bytes: u64,
}

/// The page thread's state.
pub(crate) struct PageSender {
    machine: Arc<Machine>,
    links: Vec<ChunkSender>,
    controls: Controls,
    pending: PageBitmap,
    marker: u32,
    first_round: bool,
    limiter: Limiter,
    measured: Measured,
}

impl PageSender {
    /// Starts the dirty log; every page is pending. There is at least one link.
    ///
    /// # Errors
    /// When KVM refuses the log.
    pub(crate) fn new(machine: Arc<Machine>, links: Vec<ChunkSender>, controls: Controls) -> Result<Self, PagesError> {
        machine.dirty_log().start().map_err(|error| PagesError::DirtyLog("started", error))?;
        let pending = PageBitmap::full(machine.memory().pages());
        Ok(PageSender {
            machine,
            links,
            controls,
            pending,
            marker: 0,
            first_round: true,
            limiter: Limiter::default(),
            measured: Measured::default(),
        })
    }

    /// Sends the pending pages, then reads which were dirtied meanwhile.
    ///
    /// # Errors
    /// The link or the log failed, or the driver interrupted.
    pub(crate) fn round(&mut self) -> Result<RoundNumbers, PagesError> {
        let progress = self.controls.progress.clone();
        progress.begin_round();
        self.harvest()?;
        let (began, before) = (Instant::now(), progress.pages.sent());
        let (bytes_before, saved_before) = (before[2], progress.pages.saved_bytes.load(Relaxed));
        self.send_pending(true)?;
        self.first_round = false;
        self.await_arrival()?;
        let took = began.elapsed();
        let bytes = progress.pages.bytes.load(Relaxed) - bytes_before;
        let saved = progress.pages.saved_bytes.load(Relaxed) - saved_before;
        let even = !self.links.iter().any(ChunkSender::compresses);
        self.measured.sample(bytes + saved, took, even);
        self.harvest()?;
        let numbers = self.numbers(bytes + saved);
        progress.pages.expected_us.store(numbers.expected_us, Relaxed);
        let ended_early = self.controls.round_ends();
        if !ended_early {
            // After a round that was ended early, most remaining pages were never sent: their
            // number is no dirty rate.
            progress.pages.dirty_rate.store(per_second(numbers.remaining_pages, took), Relaxed);
        }
        progress.pages.byte_rate.store(per_second(bytes, took), Relaxed);
        progress.pages.unpacked_rate.store(per_second(bytes + saved, took), Relaxed);
        progress.pages.precopy_bytes.store(bytes_before + bytes, Relaxed);
        let dirty = (!ended_early).then_some(numbers.remaining_pages);
        trace::round(Some(progress.pages.rounds.load(Relaxed)), before, &progress.pages, took, dirty);
        Ok(numbers)
    }

    /// Sends everything that is dirty at this stop and a marker behind it, and returns the marker's
    /// number. The devices are drained.
    ///
    /// # Errors
    /// The link or the log failed, or the driver interrupted.
    pub(crate) fn last_pages(&mut self, stopped: &Stopped) -> Result<u32, PagesError> {
        self.harvest_last(stopped)?;
        let (began, before) = (Instant::now(), self.controls.progress.pages.sent());
        self.send_pending(false)?;
        self.send_markers()?;
        trace::round(None, before, &self.controls.progress.pages, began.elapsed(), None);
        Ok(self.marker)
    }

    /// The pages that were dirty when the log was last read.
    #[must_use]
    pub(crate) fn pending(&self) -> &PageBitmap {
        &self.pending
    }

    /// Postcopy: reads which pages remain at this stop, and sends only a marker behind the pages
    /// sent before.
    ///
    /// # Errors
    /// The link or the log failed.
    pub(crate) fn leave_pages(&mut self, stopped: &Stopped) -> Result<(u32, PageBitmap), PagesError> {
        self.harvest_last(stopped)?;
        self.marker += 1;
        for link in &mut self.links {
            link.send_switch(self.marker)?;
        }
        Ok((self.marker, self.pending.clone()))
    }

    /// Postcopy: the bulk links carry the background stream from now on.
    pub(crate) fn begin_background(&mut self) {
        for link in &mut self.links {
            link.purpose = Purpose::Background;
        }
    }

    /// Postcopy: sends the remaining pages, until none is left. Pages that the host never allocated
    /// are sent as bits.
    ///
    /// # Errors
    /// A link failed, or the driver interrupted.
    pub(crate) fn stream(&mut self, remaining: &Remaining) -> Result<(), PagesError> {
        // Read once: the vCPUs are stopped for good, and a query of a memfd takes as long for one
        // page as for all of a large extent.
        let memory = self.machine.memory();
        let mut populated = vec![0; memory.pages().div_ceil(64) as usize];
        memory.populated_words(0, &mut populated).map_err(PagesError::PageMap)?;
        partition::stream(&self.machine, &self.controls, &self.limiter, (remaining, &populated), &mut self.links)
    }

    /// Postcopy: sends a marker behind everything, so that the destination can check that no page
    /// was left out.
    ///
    /// # Errors
    /// The link failed.
    pub(crate) fn send_end_marker(&mut self) -> Result<(), PagesError> {
        self.send_markers()
    }

    /// Waits until a link has ended, and returns why.
    #[must_use]
    pub(crate) fn wait_closed(&self) -> LinkError {
        ChunkSender::wait_any_closed(&self.links)
    }

    /// Goes on over other links.
    pub(crate) fn reconnect(&mut self, links: Vec<ChunkSender>, stop: Arc<AtomicBool>) {
        (self.links, self.controls.stop) = (links, stop);
    }

    fn send_markers(&mut self) -> Result<(), PagesError> {
        self.marker += 1;
        for link in &mut self.links {
            link.send_marker(self.marker)?;
        }
        Ok(())
    }

    fn harvest(&mut self) -> Result<(), PagesError> {
        let read = self.machine.dirty_log().harvest(&mut self.pending);
        self.count_pending(read)
    }

    fn harvest_last(&mut self, stopped: &Stopped) -> Result<(), PagesError> {
        let read = stopped.harvest(&mut self.pending);
        self.count_pending(read)
    }

    fn count_pending(&self, read: std::io::Result<()>) -> Result<(), PagesError> {
        read.map_err(|error| PagesError::DirtyLog("read", error))?;
        self.controls.progress.pages.remaining_pages.store(self.pending.count(), Relaxed);
        Ok(())
    }

    /// A round has ended when its pages are in the destination's memory, not when they are in the
    /// sockets' buffers: pages in flight at the stop would add to the downtime, and the rate would
    /// be that of a copy into a buffer. A link that moves may be slow.
    fn await_arrival(&mut self) -> Result<(), PagesError> {
        self.send_markers()?;
        let Controls { stop, arrived, patience, .. } = &self.controls;
        let ends = || stop.load(Relaxed) || self.controls.round_ends();
        let mut quiet = Duration::ZERO;
        let mut sent = vec![Unconfirmed::default(); self.links.len()];
        while !arrived.wait(self.marker, ends) {
            quiet += LOOK;
            for (link, sent) in self.links.iter().zip(&mut sent) {
                link.check_open()?;
                if link.takes(sent) {
                    quiet = Duration::ZERO;
                }
            }
            if quiet >= patience.silence() {
                return Err(PagesError::NotArrived(patience.silence()));
            }
        }
        if stop.load(Relaxed) { Err(PagesError::Interrupted) } else { Ok(()) }
    }

    fn numbers(&self, sent_bytes: u64) -> RoundNumbers {
        let remaining_pages = self.pending.count();
        let expected_us = self.measured.expected_us(remaining_pages * PAGE_SIZE);
        RoundNumbers { remaining_pages, expected_us, sent_bytes }
    }

    fn send_pending(&mut self, paced: bool) -> Result<(), PagesError> {
        let wanted = std::mem::replace(&mut self.pending, PageBitmap::new(self.machine.memory().pages()));
        let round = Round {
            machine: &self.machine,
            controls: &self.controls,
            limiter: &self.limiter,
            wanted: &wanted,
            paced,
            first: self.first_round,
        };
        for chunk in round.send(&mut self.links)? {
            self.pending.or_words(chunk * CHUNK_PAGES, &wanted.chunk(chunk));
        }
        Ok(())
    }
}

impl Drop for PageSender {
    fn drop(&mut self) {
        // This process writes nothing to a guest that was handed over, and ending the log makes KVM
        // wait for a kernel worker: on a busy host that would delay the end of the migration by
        // many seconds.
        if self.machine.is_handed_over() {
            return;
        }
        if let Err(error) = self.machine.dirty_log().stop() {
            tracing::warn!(%error, "the dirty log could not be stopped; the guest runs on, with writes slowed down");
        }
    }
}

fn per_second(count: u64, took: Duration) -> u64 {
    let seconds = took.as_secs_f64();
    if seconds > 0.0 { (count as f64 / seconds) as u64 } else { 0 }
}
