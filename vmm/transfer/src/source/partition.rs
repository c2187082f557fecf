//! Sends pages over all bulk links at once: guest memory is partitioned among the links, and each
//! has a thread of its own.
//!
//! In rounds the partition is by fixed stripes, so that every version of a page travels on the
//! same link, in order: no older version can overwrite a newer one. In postcopy each page is sent
//! once, and the next page goes on the link that is free first. The page sender calls this; with
//! one link, or with little to send, it sends everything on its own thread.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use ferry_link::rate::Limiter;
use ferry_machine::Machine;
use ferry_migration::pages::{CHUNK_PAGES, CHUNK_WORDS, PageBitmap};

use crate::source::chunks::{ChunkSender, Words};
use crate::source::controls::{Controls, PagesError};
use crate::source::remaining::Remaining;

/// Chunks whose log is cleared together, and that make a stripe: 8 MiB, about 15 µs of work for
/// KVM.
const STRIPE: u64 = 4;
/// Fewer pages than this are sent before a thread would have begun.
const WORTH_A_THREAD: u64 = 2048;
/// The name of the threads of all links but the first.
const THREAD: &str = "ferry-src-link";

/// State that all links of a round have in common.
pub(super) struct Round<'a> {
    /// The machine whose pages are sent.
    pub machine: &'a Machine,
    /// How to end it.
    pub controls: &'a Controls,
    /// Keeps to the operator's bandwidth.
    pub limiter: &'a Limiter,
    /// The pages to send.
    pub wanted: &'a PageBitmap,
    /// Keep to the bandwidth, and end early on request.
    pub paced: bool,
    /// Nothing was sent before: pages that the host never allocated are zero.
    pub first: bool,
}

impl Round<'_> {
    /// Sends the round. Returns the chunks that were left out because it was ended early.
    ///
    /// # Errors
    /// A link or the log failed, or the driver interrupted.
    pub(super) fn send(&self, links: &mut [ChunkSender]) -> Result<Vec<u64>, PagesError> {
        let count = links.len() as u64;
        let at_once = self.wanted.count() >= WORTH_A_THREAD;
        let left = on_each(self.machine, links, at_once, |number, link, failed| {
            let mut left = Vec::new();
            let mut ended = false;
            for stripe in (number..self.wanted.chunks().div_ceil(STRIPE)).step_by(count as usize) {
                let first = stripe * STRIPE;
                let chunks = first..self.wanted.chunks().min(first + STRIPE);
                ended = ended || self.ends();
                if ended {
                    left.extend(chunks);
                } else if let Some(from) = self.send_stripe(chunks.clone(), link, failed)? {
                    ended = true;
                    left.extend(from..chunks.end);
                }
            }
            Ok(left)
        })?;
        Ok(left.into_iter().flatten().collect())
    }

    /// Whether unsent pages are left for later.
    fn ends(&self) -> bool {
        self.paced && self.controls.round_ends()
    }

    /// Sends the wanted pages of these chunks; `Some` chunk is where it was ended early.
    fn send_stripe(
        &self,
        chunks: std::ops::Range<u64>,
        link: &mut ChunkSender,
        failed: &AtomicBool,
    ) -> Result<Option<u64>, PagesError> {
        let mut wanted = [[0; CHUNK_WORDS]; STRIPE as usize];
        let wanted = &mut wanted[..(chunks.end - chunks.start) as usize];
        for (words, chunk) in wanted.iter_mut().zip(chunks.clone()) {
            *words = self.wanted.chunk(chunk);
        }
        if wanted.iter().flatten().all(|word| *word == 0) {
            return Ok(None);
        }
        self.machine.dirty_log().clear_chunks(chunks.start, wanted).map_err(|e| PagesError::DirtyLog("cleared", e))?;
        // Read only after the clear: a page that the guest allocates later is in the log.
        let mut populated: [Words; STRIPE as usize] = [[u64::MAX; CHUNK_WORDS]; STRIPE as usize];
        if self.first {
            let words = populated[..wanted.len()].as_flattened_mut();
            let memory = self.machine.memory();
            memory.populated_words(chunks.start * CHUNK_PAGES, words).map_err(PagesError::PageMap)?;
        }
        let Controls { stop, max_bandwidth, .. } = self.controls;
        for ((chunk, words), populated) in chunks.zip(&*wanted).zip(&populated) {
            if stop.load(Relaxed) || failed.load(Relaxed) {
                return Err(PagesError::Interrupted);
            }
            if self.ends() {
                return Ok(Some(chunk));
            }
            if words.iter().any(|word| *word != 0) {
                let sent = link.send(chunk, words, populated)?;
                if self.paced {
                    let enough = || stop.load(Relaxed) || failed.load(Relaxed) || self.ends();
                    self.limiter.pace(sent, max_bandwidth, enough);
                }
            }
        }
        Ok(None)
    }
}

/// Postcopy: sends the remaining pages, until none is left. Those that are not `populated` are
/// zero.
///
/// # Errors
/// A link failed, or the driver interrupted.
pub(super) fn stream(
    machine: &Machine,
    controls: &Controls,
    limiter: &Limiter,
    (remaining, populated): (&Remaining, &[u64]),
    links: &mut [ChunkSender],
) -> Result<(), PagesError> {
    on_each(machine, links, true, |_, link, failed| {
        while let Some((chunk, wanted)) = remaining.claim_block() {
            let enough = || controls.stop.load(Relaxed) || failed.load(Relaxed);
            if enough() {
                return Err(PagesError::Interrupted);
            }
            // A destination that has not accepted this link would wait indefinitely for the pages
            // claimed here.
            link.check_open()?;
            let at = chunk as usize * CHUNK_WORDS;
            let mut there = [0; CHUNK_WORDS];
            let len = CHUNK_WORDS.min(populated.len() - at);
            there[..len].copy_from_slice(&populated[at..at + len]);
            let sent = link.send(chunk, &wanted, &there)?;
            limiter.pace(sent, &controls.max_bandwidth, enough);
        }
        Ok(())
    })
    .map(drop)
}

/// Runs `work` for every link, with its number: at once, each on a thread of its own, or one after
/// the other. The flag of `work` is set when another link has failed. The first error that is more
/// than an interruption is returned.
fn on_each<T: Send>(
    machine: &Machine,
    links: &mut [ChunkSender],
    at_once: bool,
    work: impl Fn(u64, &mut ChunkSender, &AtomicBool) -> Result<T, PagesError> + Sync,
) -> Result<Vec<T>, PagesError> {
    let failed = AtomicBool::new(false);
    let run = |number: usize, link: &mut ChunkSender| {
        let result = work(number as u64, link, &failed);
        if result.is_err() {
            failed.store(true, Relaxed);
        }
        result
    };
    if !at_once || links.len() == 1 {
        return links.iter_mut().enumerate().map(|(number, link)| run(number, link)).collect();
    }
    let run = &run;
    let results: Vec<Result<T, PagesError>> = std::thread::scope(|scope| {
        let mut links = links.iter_mut().enumerate();
        let first = links.next();
        let others: Vec<_> = links
            .map(|(number, link)| {
                machine.faults().before_thread(THREAD)?;
                std::thread::Builder::new().name(THREAD.to_owned()).spawn_scoped(scope, move || run(number, link))
            })
            .collect();
        if others.iter().any(Result::is_err) {
            failed.store(true, Relaxed);
        }
        let first = first.map(|(number, link)| run(number, link));
        let joined = others.into_iter().map(|thread| match thread {
            // A panic is passed on to this thread, which is watched.
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(error) => Err(PagesError::Thread(error)),
        });
        first.into_iter().chain(joined).collect()
    });
    let (done, mut errors): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    errors.sort_by_key(|error| matches!(error, Err(PagesError::Interrupted)));
    match errors.into_iter().next() {
        Some(error) => error.map(|_| Vec::new()),
        None => done.into_iter().collect(),
    }
}
