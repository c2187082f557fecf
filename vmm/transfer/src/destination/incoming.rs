//! A migration to this process, as its owner sees it.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread::JoinHandle;

use ferry_link::endpoint::Endpoint;
use ferry_link::listener::{Bound, Listener, Wanted};
use ferry_machine::Machine;
use ferry_migration::destination::{Input, Outcome};
use ferry_migration::{Parameters, Status};
use ferry_record::OwnRecord;

use crate::destination::driver::{Driver, NOT_PAUSED};
use crate::destination::events::{Command, Event, Refusal};
use crate::error::MigrationError;
use crate::progress::Progress;
use crate::request::ask;
use crate::threads::lock;

/// Another client's command may take seconds: a name to look up, a driver that is busy.
const RECOVERING: &str = "another migrate-recover is under way: see query-migrate, and try again once it has ended";

impl Refusal {
    /// The error of a command that names this address, if any.
    fn about(self, at: &Endpoint) -> MigrationError {
        match self {
            Refusal::Unfit(why) => MigrationError::TooLate(why),
            Refusal::Bind(source) => MigrationError::Listen { at: at.clone(), source },
            Refusal::Nowhere { wanted, before } => MigrationError::Nowhere { at: at.clone(), source: wanted, before },
        }
    }
}

/// An incoming migration that is awaited, goes on, or has ended.
#[derive(Debug)]
pub(crate) struct Incoming {
    events: Sender<Event>,
    thread: Mutex<Option<JoinHandle<Outcome>>>,
    /// Updated by the driver, together with the listener.
    bound: Arc<Mutex<Bound>>,
    /// One at a time: each compares its address with the present one.
    recovering: Mutex<()>,
    /// Its progress.
    pub progress: Arc<Progress>,
}

impl Incoming {
    /// Waits for a source at `listener`.
    ///
    /// # Errors
    /// When a thread or a descriptor cannot be created.
    pub(crate) fn listen(
        machine: Arc<Machine>,
        listener: Listener,
        parameters: &Parameters,
        progress: Arc<Progress>,
        record: Option<Arc<OwnRecord>>,
    ) -> std::io::Result<Self> {
        let (events, inbox) = channel();
        let faults = machine.faults().clone();
        let driver = Driver::new(machine, listener, parameters, progress.clone(), events.clone(), record)?;
        let bound = driver.bound();
        let thread = faults.spawn("ferry-dest", move || driver.run(&inbox))?;
        Ok(Incoming { events, thread: Mutex::new(Some(thread)), bound, recovering: Mutex::default(), progress })
    }

    /// Where it listens, with the port that was chosen.
    #[must_use]
    pub(crate) fn endpoint(&self) -> Endpoint {
        lock(&self.bound).endpoint()
    }

    /// Whether it is awaited or goes on.
    #[must_use]
    pub(crate) fn goes_on(&self) -> bool {
        self.progress.status().is_none_or(Status::is_active)
    }

    /// Whether a guest runs here while pages are missing, or is about to.
    #[must_use]
    pub(crate) fn lacks_pages(&self) -> bool {
        use Status::{PostcopyActive, PostcopyPaused, PostcopyRecover, PostcopySetup};
        let status = self.progress.status();
        status.is_some_and(|s| matches!(s, PostcopySetup | PostcopyActive | PostcopyPaused | PostcopyRecover))
    }

    /// The guest has ended here, or the process is about to end.
    pub(crate) fn ends(&self, reason: &str) {
        // A migration that has ended needs no notice.
        let _ = self.events.send(Event::Input(Input::Ends(reason.to_owned())));
    }

    /// Whether the driver has ended.
    #[must_use]
    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.thread).as_ref().is_none_or(JoinHandle::is_finished) && !self.goes_on()
    }

    /// Breaks the link of a postcopy.
    ///
    /// # Errors
    /// When no postcopy is active, or the driver does not answer.
    pub(crate) fn pause(&self) -> Result<(), MigrationError> {
        let at = self.endpoint();
        ask(&self.events, Command::Pause, Event::Command)?.map_err(|refusal| refusal.about(&at))
    }

    /// Waits at `at` for the source of a paused postcopy, and no longer at the previous address.
    /// Returns the address with the port that was chosen. If the source is awaited at `at` already,
    /// nothing changes.
    ///
    /// # Errors
    /// When no postcopy is paused, another call is under way, the address cannot be listened at,
    /// or the driver does not answer. The source is then awaited where it was, unless the error
    /// says that it is awaited nowhere.
    pub(crate) fn recover(&self, at: &Endpoint) -> Result<Endpoint, MigrationError> {
        let _alone = match self.recovering.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(MigrationError::TooLate(RECOVERING)),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Ok(alone) => alone,
        };
        if self.progress.status() != Some(Status::PostcopyPaused) {
            return Err(MigrationError::TooLate(NOT_PAUSED));
        }
        let failed = |error| Refusal::Bind(error).about(at);
        let wanted = Wanted::find(at).map_err(failed)?;
        let bound = lock(&self.bound).clone();
        if bound.is_at(&wanted) && ask(&self.events, Command::Listens, Event::Command)?.is_ok() {
            return Ok(bound.endpoint());
        }
        let command = match Listener::at(&wanted) {
            Ok(listener) => Command::Recover(listener),
            Err(error) if error.is_in_use() && bound.is_in_the_way_of(&wanted) => Command::RecoverInPlace(wanted),
            Err(error) => return Err(failed(error)),
        };
        ask(&self.events, command, Event::Command)?.map_err(|refusal| refusal.about(at))?;
        Ok(self.endpoint())
    }

    /// Waits for the end; `None` when an earlier call has done so.
    pub(crate) fn join(&self) -> Option<Outcome> {
        let thread = lock(&self.thread).take()?;
        Some(thread.join().unwrap_or_else(|_| {
            let reason = "the migration thread ended unexpectedly; see the log".to_owned();
            self.progress.set_error(reason.clone());
            self.progress.set_status(Status::Failed);
            Outcome::Failed(reason)
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;
    use std::time::Duration;

    use super::*;
    use crate::Unanswered;
    use crate::progress::Direction;
    use ferry_observe::events::Events;

    /// A paused postcopy that listens on loopback, and what its driver would look into.
    fn paused() -> (Incoming, Listener, Receiver<Event>) {
        let listener = Listener::bind(&"tcp:127.0.0.1:0".parse().unwrap()).unwrap();
        let (events, inbox) = channel();
        let progress = Progress::new(Direction::Incoming, 1 << 20, Arc::new(Events::default()));
        progress.set_status(Status::PostcopyPaused);
        let bound = Arc::new(Mutex::new(listener.bound().clone()));
        let thread = Mutex::default();
        (Incoming { events, thread, bound, recovering: Mutex::default(), progress }, listener, inbox)
    }

    /// Whether the driver finds something to do when it goes on.
    fn finds_a_command(inbox: &Receiver<Event>) -> bool {
        inbox.try_iter().any(|event| match event {
            Event::Command(request) => request.take().is_some(),
            event => panic!("{event:?}"),
        })
    }

    #[test]
    fn a_second_recover_does_not_wait_for_the_first() {
        let (incoming, listener, inbox) = paused();
        let first = incoming.recovering.lock().unwrap();
        let refused = std::thread::scope(|scope| {
            let (answer, answered) = channel();
            let (incoming, at) = (&incoming, listener.bound().endpoint());
            scope.spawn(move || answer.send(incoming.recover(&at)));
            let refused = answered.recv_timeout(Duration::from_secs(10));
            drop(first);
            refused
        });
        let error = refused.expect("the first does not hold it up").unwrap_err().to_string();
        assert!(error.contains("another migrate-recover is under way"), "{error}");
        assert!(!finds_a_command(&inbox));
    }

    #[test]
    fn what_a_held_up_driver_was_asked_for_is_not_done_later() {
        let (incoming, listener, inbox) = paused();
        let Bound::Tcp(here) = *listener.bound() else { panic!("{listener:?}") };
        // Beside the present address, and in its place.
        for at in ["tcp:127.0.0.1:0".to_owned(), format!("tcp:0.0.0.0:{}", here.port())] {
            let error = incoming.recover(&at.parse().unwrap()).unwrap_err();
            assert!(matches!(error, MigrationError::Unanswered(Unanswered::HeldUp)), "{at}: {error}");
            assert!(!finds_a_command(&inbox), "{at}");
            assert_eq!(incoming.endpoint(), listener.bound().endpoint(), "{at}: it is awaited where it was");
        }
        assert!(matches!(incoming.pause(), Err(MigrationError::Unanswered(Unanswered::HeldUp))));
        assert!(!finds_a_command(&inbox));
    }
}
