//! The destination's driver while pages are missing: armed, paused, recovered, lost.

use std::sync::Arc;
use std::thread::JoinHandle;

use ferry_migration::destination::Input;
use ferry_migration::{Status, Timer};
use vmm_sys_util::eventfd::EventFd;

use super::{Driver, NOT_PAUSED};
use crate::runtime::destination::arrivals;
use crate::runtime::destination::missing::Missing;
use crate::runtime::destination::pages::URGENT;
use crate::runtime::stream::{Listener, Stream};

impl Driver {
    pub(super) fn armed(&mut self, missing: Arc<Missing>, thread: JoinHandle<()>) {
        self.threads.push(thread);
        if let Some(stream) = self.urgent.take() {
            missing.connect(stream);
        }
        self.armed.set(missing.clone());
        self.progress.watch_faults(missing.faults.clone());
        self.missing = Some(missing);
    }

    /// Requests go out on it, and the pages asked for come back.
    pub(super) fn urgent_arrived(&mut self, migration_id: u128, stream: Stream) {
        self.links.push(stream.clone());
        match &self.missing {
            Some(missing) => missing.connect(stream.clone()),
            None => self.urgent = Some(stream.clone()),
        }
        self.receive_from(migration_id, stream, URGENT, false);
    }

    /// The link is gone: the guest waits where it needs a page. Whoever comes with this migration's id goes on with it.
    pub(super) fn pause(&mut self) {
        self.paused = true;
        self.timers.stop(Timer::Recover);
        if let Some(missing) = &self.missing {
            missing.disconnect();
        }
        self.drop_connection();
        self.progress.set_status(Status::PostcopyPaused);
    }

    pub(super) fn resumed(&mut self) {
        self.paused = false;
        self.timers.stop(Timer::Recover);
        self.progress.clear_error();
        self.progress.set_status(Status::PostcopyActive);
    }

    /// Nobody can come any more. A guest that runs here goes on without; the operator gives another address.
    pub(super) fn listening_failed(&mut self, error: &std::io::Error) {
        let reason = format!("cannot take connections: {error}");
        match self.core.is_in_postcopy() {
            true => self.progress.set_error(format!("{reason}; give another address with migrate-recover")),
            false => self.input(Input::LinkLost(reason)),
        }
    }

    /// The source of a paused postcopy is awaited at another address.
    pub(super) fn listen_again(&mut self, listener: Listener) -> Result<(), &'static str> {
        if !self.paused {
            return Err(NOT_PAUSED);
        }
        let accepting = EventFd::new(libc::EFD_CLOEXEC).and_then(|stop| {
            let thread = arrivals::listen(listener, stop.try_clone()?, self.events.clone())?;
            Ok((stop, thread))
        });
        let (stop, thread) = accepting.map_err(|_| "the host gave no thread or descriptor to listen with")?;
        // An eventfd takes 2^64 signals before a write could fail.
        let _ = std::mem::replace(&mut self.stop_listening, stop).write(1);
        // The operator is answered when nobody can come by the old address any more.
        if std::mem::replace(&mut self.accepting, thread).join().is_err() {
            tracing::error!("the thread that took connections ended unexpectedly");
        }
        Ok(())
    }

    /// Its vCPUs wait for pages that will not come; a client reads why.
    pub(super) fn lose_guest(&self, reason: &str) {
        tracing::error!(reason, "the guest is lost");
        self.machine.quit_because("host-error");
    }
}
