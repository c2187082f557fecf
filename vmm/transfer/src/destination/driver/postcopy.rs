//! The destination's driver while pages are missing: armed, paused, recovered, lost.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use ferry_link::Link;
use ferry_link::arrivals::{self, Listening};
use ferry_link::listener::{BindError, Listener, Wanted};
use ferry_memory::userfault::UserfaultError;
use ferry_migration::destination::{Input, Outcome};
use ferry_migration::{Status, Timer};

use super::{Driver, NOT_PAUSED};
use crate::destination::events::{Event, Refusal};
use crate::destination::postcopy::Postcopy;
use crate::destination::silence::URGENT;
use crate::threads::INTERRUPT_AGAIN;
use crate::threads::lock;

impl Driver {
    pub(super) fn armed(&mut self, postcopy: Arc<Postcopy>, thread: JoinHandle<()>) {
        self.threads.push(thread);
        postcopy.requests.expect(self.links.connection);
        if let Some(stream) = self.links.urgent.take() {
            postcopy.requests.connect(stream);
        }
        self.pages.armed.set(postcopy.clone());
        self.progress.watch_faults(postcopy.faults.clone(), postcopy.at_first);
        self.pages.postcopy = Some(postcopy);
    }

    /// Ends the wait for pages: every page is here, or the guest does not run here, or has ended.
    pub(super) fn let_go(&self) {
        let Some(postcopy) = &self.pages.postcopy else { return };
        postcopy.stop();
        let ended = match &self.outcome {
            Some(Outcome::Completed) => postcopy.faults.disarm(),
            _ => postcopy.faults.release(),
        };
        self.machine.set_memory_arrives(false);
        self.progress.keep_faults();
        match ended {
            Ok(()) => {}
            // A guest that is lost, or has ended before the rest of its memory came: threads that
            // wait for a page do so until the process ends, and must not find zeros.
            Err(UserfaultError::GuestRuns { remaining } | UserfaultError::Incomplete { remaining }) => {
                tracing::debug!(remaining, "the guest's pages stay missing");
                if self.machine.has_ended() || self.outcome != Some(Outcome::Completed) {
                    postcopy.faults.give_up();
                }
                self.keep_machine();
            }
            Err(error) => tracing::warn!(error = ferry_observe::causes(&error), "missing pages are still watched"),
        }
    }

    /// Joins every thread, and ends a hang that holds one up, however late it begins: of a device,
    /// or of a load that waits for a page in memory that it armed after the migration was given up.
    pub(super) fn join(&mut self, inbox: &Receiver<Event>) {
        loop {
            let (ended, running): (Vec<_>, Vec<_>) = self.threads.drain(..).partition(JoinHandle::is_finished);
            self.threads = running;
            crate::threads::join_interrupting(&self.machine, ended);
            // After the look at the threads: all events of an ended thread are in the inbox by
            // then.
            for event in inbox.try_iter() {
                if let Event::Armed(postcopy, thread) = event {
                    self.armed(postcopy, thread);
                    self.let_go();
                }
            }
            if self.threads.is_empty() {
                return;
            }
            self.machine.interrupt_faults();
            std::thread::park_timeout(INTERRUPT_AGAIN);
        }
    }

    /// Requests are sent on it, and the requested pages come back.
    pub(super) fn urgent_arrived(&mut self, migration_id: u128, stream: Link) {
        self.links.open.push(stream.clone());
        match &self.pages.postcopy {
            Some(postcopy) => postcopy.requests.connect(stream.clone()),
            None => self.links.urgent = Some(stream.clone()),
        }
        self.receive_from(migration_id, stream, URGENT, None);
    }

    /// The link is gone: the guest waits where it needs a page. A source that connects with this
    /// migration's id goes on with it.
    pub(super) fn pause(&mut self) {
        self.paused = true;
        self.timers.stop(Timer::Recover);
        self.drop_connection();
        self.progress.set_status(Status::PostcopyPaused);
    }

    pub(super) fn resumed(&mut self) {
        self.paused = false;
        self.timers.stop(Timer::Recover);
        if let Some(postcopy) = &self.pages.postcopy {
            postcopy.requests.expect(self.links.connection);
        }
        self.progress.clear_error();
        self.progress.set_status(Status::PostcopyActive);
    }

    /// No source can connect any more. A guest that runs here goes on without; the operator gives
    /// another address.
    pub(super) fn listening_failed(&mut self, error: &std::io::Error) {
        if self.links.listening.is_live() {
            // The address that failed has been replaced meanwhile.
            return;
        }
        let reason = format!("cannot take connections: {error}");
        match self.core.is_in_postcopy() {
            true => self.progress.set_error(format!("{reason}; give another address with migrate-recover")),
            false => self.input(Input::LinkLost(reason)),
        }
    }

    /// The source of a paused postcopy is awaited at another address.
    pub(super) fn listen_again(&mut self, listener: Listener) -> Result<(), Refusal> {
        if !self.paused {
            return Err(Refusal::Unfit(NOT_PAUSED));
        }
        self.replace_listener(listener).map_err(Refusal::Bind)
    }

    fn replace_listener(&mut self, listener: Listener) -> Result<(), BindError> {
        let bound = listener.bound().clone();
        let accepting = Listening::new().and_then(|(listening, stop)| {
            let events = self.events.clone();
            // The driver ends only after this thread.
            let tell = move |news| drop(events.send(Event::Arriving(news)));
            let thread = arrivals::listen(listener, stop, tell, self.machine.faults().clone())?;
            Ok((listening, thread))
        });
        let (listening, thread) = accepting.map_err(BindError::Host)?;
        self.links.listening = listening;
        *lock(&self.links.bound) = bound;
        // The operator receives the answer when no source can connect at the old address any more.
        let before = self.links.accepting.replace(thread);
        crate::threads::join_interrupting(&self.machine, before);
        Ok(())
    }

    /// The source of a paused postcopy is awaited at an address that overlaps with the present one,
    /// as that of all interfaces does: the old one is released first, and restored if the new one
    /// is not available.
    pub(super) fn listen_in_place(&mut self, wanted: &Wanted) -> Result<(), Refusal> {
        if !self.paused {
            return Err(Refusal::Unfit(NOT_PAUSED));
        }
        self.links.listening.end();
        crate::threads::join_interrupting(&self.machine, self.links.accepting.take());
        self.listen_at(wanted).map_err(|error| {
            let before = lock(&self.links.bound).again();
            let Err(why) = self.listen_at(&before) else { return Refusal::Bind(error) };
            self.progress
                .set_error(format!("the source is awaited nowhere: {why}; give an address with migrate-recover"));
            Refusal::Nowhere { wanted: error, before: why }
        })
    }

    fn listen_at(&mut self, at: &Wanted) -> Result<(), BindError> {
        self.replace_listener(Listener::at(at)?)
    }

    /// The guest's vCPUs wait for pages that will not come; clients can read why.
    pub(super) fn lose_guest(&self, reason: &str) {
        tracing::error!(reason, "the guest is lost");
        self.keep_machine();
        self.machine.lose_guest(reason);
    }

    /// Leaves the machine to the end of the process, which is near. Closing the VM alone would wait
    /// in the kernel, indefinitely and unkillably, for a page that KVM has requested on a vCPU's
    /// behalf; when the process ends, the userfaultfd closes first.
    fn keep_machine(&self) {
        std::mem::forget(self.machine.clone());
    }
}
