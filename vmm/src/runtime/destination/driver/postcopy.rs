//! The destination's driver while pages are missing: armed, paused, recovered, lost.

use std::sync::Arc;
use std::thread::JoinHandle;

use ferry_migration::Status;
use ferry_migration::destination::Input;
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

    /// What a client must know about a pause.
    pub(super) fn explain_pause(&self, trouble: &str) {
        self.progress.set_error(format!(
            "{trouble}; the guest runs on here until it needs a page that is missing: reconnect at the source with migrate, resume \
             set, to this address or to one given with migrate-recover"
        ));
    }

    /// The link is gone: the guest waits where it needs a page. Whoever comes with this migration's id goes on with it.
    pub(super) fn pause(&mut self) {
        self.paused = true;
        if let Some(missing) = &self.missing {
            missing.disconnect();
        }
        self.drop_connection();
        self.progress.set_status(Status::PostcopyPaused);
    }

    pub(super) fn resumed(&mut self) {
        self.paused = false;
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
        self.threads.push(thread);
        Ok(())
    }

    /// Its vCPUs wait for pages that will not come; a client reads why.
    pub(super) fn lose_guest(&self, reason: &str) {
        tracing::error!(reason, "the guest is lost");
        self.machine.quit_because("host-error");
    }
}

/// Why a postcopy that this input pauses is paused, for people.
pub(super) fn trouble(input: &Input) -> String {
    match input {
        Input::LinkLost(reason) => reason.clone(),
        Input::Timer(_) => "the source gave no sign of life in time".to_owned(),
        Input::Pause => "paused by the operator".to_owned(),
        _ => "the link to the source was lost".to_owned(),
    }
}
