//! Jobs for the source's workers.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;

use ferry_migration::pages::PageBitmap;

use super::Driver;
use crate::source::guest_worker::{GuestJob, Order};
use crate::source::page_worker::{self, PageJob, Reconnected, Route};

impl Driver {
    /// Has the guest worker do `job`, once `after` is signalled.
    pub(super) fn guest_job(&mut self, job: GuestJob, after: Option<Receiver<Result<(), String>>>) {
        // The worker ends only when this sender is dropped.
        if self.guest_jobs.as_ref().is_some_and(|jobs| jobs.send(Order { job, after }).is_ok()) {
            self.guest_jobs_open += 1;
        }
    }

    pub(super) fn page_job(&mut self, job: PageJob) {
        if self.pages.jobs.is_none()
            && let Err(error) = self.start_page_worker()
        {
            self.lost(format!("the page thread could not be started: {error}"));
        }
        if let Some(jobs) = &self.pages.jobs {
            // A worker that has failed has reported it.
            let _ = jobs.send(job);
        }
    }

    /// Sends the pages that are dirty at the switchover's stop, or reads for postcopy which they
    /// are.
    pub(super) fn last_pages(&mut self, postcopy: bool) {
        let Some(stopped) = self.package.stopped.clone() else { return self.not_stopped() };
        self.page_job(if postcopy { PageJob::LeavePages(stopped) } else { PageJob::LastPages(stopped) });
    }

    /// Saves the machine at the switchover's stop.
    pub(super) fn save(&mut self) {
        let Some(stopped) = self.package.stopped.clone() else { return self.not_stopped() };
        self.guest_job(GuestJob::Save(stopped), None);
    }

    /// The state machine requests these only after the stop.
    fn not_stopped(&mut self) {
        self.lost("the guest is not stopped; this is a fault of the program, report it".to_owned());
    }

    pub(super) fn serve_pages(&mut self) {
        let remaining =
            self.package.remaining.clone().unwrap_or_else(|| PageBitmap::new(self.machine.memory().pages()));
        self.page_job(PageJob::Serve(remaining));
    }

    /// After a break: serves the pages that remained at the switchover, less those that the
    /// destination has reported.
    pub(super) fn serve_missing_pages(&mut self) {
        let mut missing =
            self.package.remaining.clone().unwrap_or_else(|| PageBitmap::new(self.machine.memory().pages()));
        if let Some(received) = &self.package.received {
            missing.subtract(received);
        }
        match self.links.cancel.try_clone() {
            Ok(cancel) => {
                let stop = self.pages.controls.stop.clone();
                let connection = Reconnected { to: self.links.reached.clone(), cancel, stop, epoch: self.links.epoch };
                self.page_job(PageJob::ServeAgain(missing, connection));
            }
            Err(error) => self.lost(format!("no eventfd can be had: {error}")),
        }
    }

    fn start_page_worker(&mut self) -> std::io::Result<()> {
        let route = Route {
            to: self.links.reached.clone(),
            migration_id: self.migration_id,
            bulk_links: self.links.bulk_links,
            cancel: self.links.cancel.try_clone()?,
            setup: self.timers.durations.setup,
        };
        let (jobs, thread) = page_worker::start(
            self.machine.clone(),
            route,
            self.pages.controls.clone(),
            self.settings.clone(),
            self.events.clone(),
        )?;
        self.pages.jobs = Some(jobs);
        self.threads.push(thread);
        Ok(())
    }

    pub(super) fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) {
        match self.machine.faults().spawn(name, run) {
            Ok(thread) => self.threads.push(thread),
            Err(error) => self.lost(format!("no thread can be started: {error}")),
        }
    }

    /// Throttles as the last round calls for, unless no other round follows.
    pub(super) fn throttle(&self, percentage: u8) {
        let given_up = self.pages.controls.stop.load(Relaxed);
        if !given_up && !self.core.goes_postcopy() {
            self.pages.throttle.set(percentage);
        }
    }
}
