//! The end of a migration: everything that it has opened or started is released before the end is
//! shown.

use std::sync::mpsc::Receiver;

use ferry_migration::Status;
use ferry_migration::source::Outcome;

use super::Driver;
use crate::source::events::{Event, LinkEvent};

impl Driver {
    /// Joins every thread, and ends a hang that holds one up: of a device, or of a link that was
    /// still being opened when the others were closed.
    fn join(&mut self, inbox: &Receiver<Event>) {
        loop {
            crate::threads::join_finished(&mut self.threads);
            if self.threads.is_empty() {
                return;
            }
            for event in inbox.try_iter() {
                if let Event::OfLink(_, LinkEvent::Control(stream, _) | LinkEvent::Pages(stream)) = event {
                    stream.shutdown();
                }
            }
            self.machine.interrupt_faults();
            std::thread::park_timeout(crate::threads::INTERRUPT_AGAIN);
        }
    }

    pub(super) fn wind_up(mut self, inbox: &Receiver<Event>) {
        self.interrupt();
        self.close_links();
        self.guest_jobs = None;
        self.pages.jobs = None;
        self.join(inbox);
        self.proof.end(self.machine.faults());
        if let Some(record) = &self.record.handover {
            record.end();
        }
        let status = match self.outcome.take() {
            Some(Outcome::Completed) => {
                self.progress.set_downtime(self.stopwatch.downtime());
                self.guest_has_gone();
                Status::Completed
            }
            Some(Outcome::Failed(reason) | Outcome::Stranded(reason)) => {
                self.progress.set_error(reason);
                // The guest belongs to another process for good, or is lost.
                if self.machine.is_handed_over() {
                    self.guest_has_gone();
                }
                Status::Failed
            }
            _ => Status::Cancelled,
        };
        self.progress.set_status(status);
    }
}
