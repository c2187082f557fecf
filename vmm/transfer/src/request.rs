//! Commands of an operator to a driver: either the driver takes a command, or its caller withdraws
//! it after a timeout, never both.
//!
//! ```text
//!   caller ── Request ──► inbox ──► driver: take ──► answer ──► caller
//!      └───── take back, if it is still there: nothing is done
//! ```
//!
//! A driver may be busy with a peer for longer than a client waits. A command that it carried out
//! after its caller had received an error would come unexpectedly: an address released for one that
//! is no longer wanted, a decision on the owner that no longer holds.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Longest that a caller waits for a driver to take its command, and then for the answer: more
/// than a message may take to be sent, and both together less than a client's patience.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The driver has not taken the command, which is withdrawn.
    #[error("the migration is held up and does not answer: nothing was done; see query-migrate, and try again")]
    HeldUp,
    /// The driver has taken the command and has not finished it.
    #[error("the migration is held up while it does what was asked: query-migrate tells how it ends")]
    UnderWay,
    /// There is no driver any more.
    #[error("the migration has ended")]
    Ended,
}

/// A command that the driver has not begun.
#[derive(Debug)]
pub(crate) struct Request<C, A> {
    command: Arc<Mutex<Option<C>>>,
    answer: Sender<A>,
}

impl<C, A> Request<C, A> {
    /// Takes the command, with the channel for its answer; `None` if its caller has withdrawn it.
    #[must_use]
    pub(crate) fn take(self) -> Option<(C, Sender<A>)> {
        let command = take(&self.command)?;
        Some((command, self.answer))
    }
}

fn take<C>(command: &Mutex<Option<C>>) -> Option<C> {
    command.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Sends a command to the driver that receives `events`, as `event`, and waits for its answer. The
/// caller holds no lock that `query-migrate` needs: the driver may be busy with a peer.
///
/// # Errors
/// When there is no answer in time, or never will be. Unless the driver has taken the command, it
/// has been dropped by then.
pub(crate) fn ask<C, A, E>(
    events: &Sender<E>,
    command: C,
    event: impl FnOnce(Request<C, A>) -> E,
) -> Result<A, Unanswered> {
    let (answer, answered) = channel();
    let command = Arc::new(Mutex::new(Some(command)));
    events.send(event(Request { command: command.clone(), answer })).map_err(|_| Unanswered::Ended)?;
    answered.recv_timeout(PATIENCE).or_else(|error| match error {
        RecvTimeoutError::Timeout if take(&command).is_some() => Err(Unanswered::HeldUp),
        RecvTimeoutError::Timeout => answered.recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => Unanswered::UnderWay,
            RecvTimeoutError::Disconnected => Unanswered::Ended,
        }),
        // The driver has ended, which closes the channel.
        RecvTimeoutError::Disconnected => Err(Unanswered::Ended),
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc::Receiver;

    use super::*;

    type Asked = Request<TcpListener, Result<(), &'static str>>;

    fn ask_to_listen(events: &Sender<Asked>, listener: TcpListener) -> Result<Result<(), &'static str>, Unanswered> {
        ask(events, listener, |request| request)
    }

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    #[test]
    fn a_command_that_the_driver_does_not_take_in_time_is_void() {
        let (events, inbox) = channel::<Asked>();
        let listener = listener();
        let address = listener.local_addr().unwrap();
        // The driver is stuck: it lives, and does not look into its inbox.
        assert_eq!(ask_to_listen(&events, listener), Err(Unanswered::HeldUp));
        TcpListener::bind(address).expect("what came with the command went with it");
        assert!(inbox.recv().unwrap().take().is_none(), "there is nothing left to do");
    }

    #[test]
    fn a_command_that_the_driver_has_taken_is_not_called_void() {
        let (events, inbox) = channel::<Asked>();
        let (go_on, held) = channel::<()>();
        let driver = std::thread::spawn(move || {
            let taken = inbox.recv().unwrap().take();
            // Until the caller has lost its patience.
            let _ = held.recv();
            taken.is_some()
        });
        assert_eq!(ask_to_listen(&events, listener()), Err(Unanswered::UnderWay));
        drop(go_on);
        assert!(driver.join().unwrap());
    }

    #[test]
    fn a_driver_that_has_ended_answers_nothing() {
        let (events, inbox) = channel::<Asked>();
        let ends = std::thread::spawn(move || drop(inbox.recv()));
        assert_eq!(ask_to_listen(&events, listener()), Err(Unanswered::Ended));
        ends.join().unwrap();
        assert_eq!(ask_to_listen(&events, listener()), Err(Unanswered::Ended));
    }

    #[test]
    fn a_drivers_answer_comes_through() {
        let (events, inbox) = channel::<Asked>();
        let driver = std::thread::spawn(move || answer(&inbox, [Ok(()), Err("no")]));
        assert_eq!(ask_to_listen(&events, listener()), Ok(Ok(())));
        assert_eq!(ask_to_listen(&events, listener()), Ok(Err("no")));
        driver.join().unwrap();
    }

    fn answer(inbox: &Receiver<Asked>, answers: [Result<(), &'static str>; 2]) {
        for result in answers {
            let (_listener, answer) = inbox.recv().unwrap().take().unwrap();
            answer.send(result).unwrap();
        }
    }
}
