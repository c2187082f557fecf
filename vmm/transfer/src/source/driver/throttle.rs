//! Throttles the source's guest while rounds do not converge, and never for longer.
//!
//! Only the driver's thread throttles, so that late reports of the page thread have no effect: the
//! [driver](super::Driver) ends throttling before each step that ends the rounds. If the driver
//! itself dies, throttling ends with it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use ferry_machine::Machine;

use crate::progress::Progress;

/// Throttles the guest's vCPUs for the driver.
pub(super) struct Throttle {
    machine: Arc<Machine>,
    progress: Arc<Progress>,
}

impl Throttle {
    /// Nothing is throttled yet.
    pub(super) fn new(machine: Arc<Machine>, progress: Arc<Progress>) -> Self {
        Throttle { machine, progress }
    }

    pub(super) fn set(&self, percentage: u8) {
        let before = self.progress.pages.cpu_throttle.load(Relaxed);
        if before == u64::from(percentage) {
            return;
        }
        match self.machine.throttle(percentage) {
            Ok(()) if before == 0 => {
                tracing::info!(percentage, "the guest writes faster than the link carries: its vCPUs are throttled");
            }
            Ok(()) => tracing::debug!(percentage, "throttled"),
            Err(error) => return tracing::warn!(%error, "the guest cannot be throttled; the rounds go on"),
        }
        self.progress.set_cpu_throttle(percentage);
    }

    /// The vCPUs run all the time again.
    pub(super) fn end(&self) {
        self.machine.end_throttle();
        self.progress.set_cpu_throttle(0);
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.end();
    }
}
