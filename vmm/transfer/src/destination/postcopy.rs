//! Postcopy on the destination: memory that is armed, and the thread that serves its missing pages.
//!
//! [`Postcopy`] is one postcopy's. A page that a thread waits for is requested by [`Requests`]; the
//! threads that receive pages place them through [`Postcopy::sink`].

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ferry_devices::fault::FaultControl;
use ferry_machine::Machine;
use ferry_memory::sink::Placed;
use ferry_memory::userfault::{self, Faults, UserfaultError};
use ferry_migration::pages::PageBitmap;
use vmm_sys_util::eventfd::EventFd;

use crate::destination::requests::{PageNews, Requests, Tell};

/// A postcopy on its destination.
#[derive(Debug)]
pub(crate) struct Postcopy {
    /// The armed memory.
    pub faults: Arc<Faults>,
    /// How many pages were missing when it was armed.
    pub at_first: u64,
    /// Requests missing pages from the source.
    pub requests: Requests,
    all_told: AtomicBool,
    stop: EventFd,
    tell: Tell,
    injected: Arc<FaultControl>,
}

impl Postcopy {
    /// Arms `pages`, of which some have been `discarded` before, and starts to serve them.
    /// Requests wait for the urgent link. A link that owes pages may be silent for `patience`.
    ///
    /// # Errors
    /// When the host lacks a feature that is needed.
    pub(crate) fn arm(
        machine: &Machine,
        pages: &PageBitmap,
        discarded: &PageBitmap,
        (session, patience): (u32, Duration),
        tell: Tell,
    ) -> Result<(Arc<Self>, JoinHandle<()>), UserfaultError> {
        let injected = machine.faults().clone();
        userfault::before_open(machine.memory().backing(), &injected)?;
        let faults = Faults::arm_after(machine.memory(), pages, discarded)?;
        let stop = EventFd::new(libc::EFD_CLOEXEC).map_err(UserfaultError::Open)?;
        let requests = Requests::new(faults.clone(), (session, patience), tell.clone(), injected.clone());
        let all_told = AtomicBool::new(false);
        let postcopy = Postcopy { faults, at_first: pages.count(), requests, all_told, stop, tell, injected };
        let postcopy = Arc::new(postcopy);
        let (serving, dead) = (postcopy.clone(), postcopy.clone());
        let thread = crate::threads::spawn_watched(
            machine.faults(),
            "ferry-dst-faults",
            move || serving.serve(),
            move |reason| dead.died(reason),
        );
        let thread = thread.map_err(UserfaultError::Open)?;
        postcopy.look_if_all_here();
        Ok((postcopy, thread))
    }

    /// Ends the thread that serves missing pages.
    pub(crate) fn stop(&self) {
        // An eventfd takes 2^64 signals before a write could fail.
        let _ = self.stop.write(1);
    }

    /// The sink for one thread's pages.
    #[must_use]
    pub(crate) fn sink(&self) -> Placed {
        Placed::new(&self.faults, self.injected.clone())
    }

    /// Notifies the driver once when no page is missing any more.
    pub(crate) fn look_if_all_here(&self) {
        if self.faults.remaining() == 0 && !self.all_told.swap(true, SeqCst) {
            (self.tell.0)(PageNews::AllHere);
        }
    }

    fn serve(&self) {
        if let Err(error) = self.faults.serve(&mut self.requests.source(), &self.stop) {
            self.died(ferry_observe::causes(&error));
        }
    }

    /// No thread reads faults any more: an access to a missing page would wait indefinitely.
    fn died(&self, reason: String) {
        (self.tell.0)(PageNews::NotServed(reason));
    }
}

/// Signals the threads that receive pages that the memory is armed, or that it never will be.
#[derive(Debug, Default)]
pub(crate) struct Armed {
    state: Mutex<ArmedState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum ArmedState {
    #[default]
    NotYet,
    Armed(Arc<Postcopy>),
    Never,
}

impl Armed {
    /// The memory is armed.
    pub(crate) fn set(&self, postcopy: Arc<Postcopy>) {
        self.change(ArmedState::Armed(postcopy));
    }

    /// The attempt has ended: the threads that receive pages need not wait.
    pub(crate) fn give_up(&self) {
        self.change(ArmedState::Never);
    }

    fn change(&self, to: ArmedState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = to;
        self.changed.notify_all();
    }

    /// Waits until it is; `None` where it never will be.
    pub(crate) fn wait(&self) -> Option<Arc<Postcopy>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*state {
                ArmedState::Armed(postcopy) => return Some(postcopy.clone()),
                ArmedState::Never => return None,
                ArmedState::NotYet => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}
