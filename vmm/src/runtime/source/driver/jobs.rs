//! What the source's workers are given to do.

use std::sync::mpsc::Receiver;

use ferry_migration::pages::PageBitmap;

use super::Driver;
use crate::runtime::source::guest_worker::{GuestJob, Order};
use crate::runtime::source::page_worker::{self, PageJob, Reconnected, Route};

impl Driver {
    /// Has the guest worker do `job`, once `after` is signalled.
    pub(super) fn guest_job(&mut self, job: GuestJob, after: Option<Receiver<Result<(), String>>>) {
        // The worker ends only when this sender is dropped.
        if self.guest_jobs.as_ref().is_some_and(|jobs| jobs.send(Order { job, after }).is_ok()) {
            self.guest_jobs_open += 1;
        }
    }

    pub(super) fn page_job(&mut self, job: PageJob) {
        if self.page_jobs.is_none()
            && let Err(error) = self.start_page_worker()
        {
            self.lost(format!("the page thread could not be started: {error}"));
        }
        if let Some(jobs) = &self.page_jobs {
            // A worker that has failed has said so.
            let _ = jobs.send(job);
        }
    }

    pub(super) fn serve_pages(&mut self) {
        let remaining = self.remaining.clone().unwrap_or_else(|| PageBitmap::new(self.machine.memory().pages()));
        self.page_job(PageJob::Serve(remaining));
    }

    /// After a break: what remained at the switchover, less what the destination says it has.
    pub(super) fn serve_missing_pages(&mut self) {
        let mut missing = self.remaining.clone().unwrap_or_else(|| PageBitmap::new(self.machine.memory().pages()));
        if let Some(received) = &self.received {
            missing.subtract(received);
        }
        match self.cancel.try_clone() {
            Ok(cancel) => {
                let stop = self.controls.stop.clone();
                let connection = Reconnected { to: self.reached.clone(), cancel, stop, epoch: self.epoch };
                self.page_job(PageJob::ServeAgain(missing, connection));
            }
            Err(error) => self.lost(format!("no eventfd can be had: {error}")),
        }
    }

    fn start_page_worker(&mut self) -> std::io::Result<()> {
        let route = Route {
            to: self.reached.clone(),
            migration_id: self.migration_id,
            bulk_links: self.bulk_links,
            cancel: self.cancel.try_clone()?,
            setup: self.timers.durations.setup,
        };
        let (jobs, thread) = page_worker::start(
            self.machine.clone(),
            route,
            self.controls.clone(),
            self.settings.clone(),
            self.events.clone(),
        )?;
        self.page_jobs = Some(jobs);
        self.threads.push(thread);
        Ok(())
    }

    pub(super) fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) {
        match crate::runtime::spawn(self.machine.faults(), name, run) {
            Ok(thread) => self.threads.push(thread),
            Err(error) => self.lost(format!("no thread can be started: {error}")),
        }
    }
}
