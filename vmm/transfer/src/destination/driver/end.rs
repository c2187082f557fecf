//! The end of an incoming migration: everything that it has opened or started is released before
//! the end is shown.

use std::sync::mpsc::Receiver;

use ferry_migration::Status;
use ferry_migration::destination::Outcome;

use super::Driver;
use crate::destination::events::Event;
use crate::destination::populate;

impl Driver {
    pub(super) fn wind_up(mut self, inbox: &Receiver<Event>) -> Outcome {
        self.close_links();
        self.await_farewell(inbox);
        for link in self.links.open.drain(..) {
            link.shutdown();
        }
        self.jobs = None;
        self.pages.populating.stop();
        self.pages.armed.give_up();
        self.let_go();
        self.links.listening.end();
        self.join(inbox);
        self.join_populator();
        if self.outcome != Some(Outcome::Completed) {
            self.let_go_of_memory();
            self.end_presence();
        }
        crate::threads::join_interrupting(&self.machine, self.links.accepting);
        let outcome = self.outcome.take().expect("the driver runs until there is one");
        if let Outcome::Failed(reason) = &outcome {
            self.progress.set_error(reason.clone());
            self.progress.set_status(Status::Failed);
        } else {
            self.progress.set_status(Status::Completed);
        }
        outcome
    }

    /// If the host hangs in populating a page, a failed migration must still be reported.
    fn join_populator(&mut self) {
        let Some(thread) = self.pages.populator.take() else { return };
        if !self.pages.populating.end(populate::PATIENCE) {
            return tracing::error!("the thread that populates memory is still in the host's hands and is left behind");
        }
        if thread.join().is_err() {
            tracing::error!("the thread that populates memory ended unexpectedly");
        }
    }
}
