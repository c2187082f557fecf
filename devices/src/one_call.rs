//! One call at a time to storage that may hang.
//!
//! A thread that waits in the kernel cannot be cancelled. Each call that may hang is therefore made
//! on a thread of its own, and its caller stops waiting at a deadline. A client or a migration that
//! retries would leave one more such thread each time: a [`OneCall`] allows one per question, and
//! refuses the next at once while that one is overdue.

use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A kind of call to storage, of which one at a time is under way.
#[derive(Clone, Debug, Default)]
pub struct OneCall(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// When the call that is under way began.
    since: Mutex<Option<Instant>>,
    ended: Condvar,
}

/// A call that is under way, until this is dropped.
#[derive(Debug)]
pub struct Open(Arc<State>);

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// No answer arrived in time.
    Late,
    /// An earlier call is overdue, so none was made.
    StillHangs,
    /// The host could not start a thread.
    Thread(std::io::Error),
}

impl OneCall {
    /// Begins a call, once an earlier one has ended or `within` has passed since it began; `None`
    /// if the earlier one is still under way then.
    #[must_use]
    pub fn begin(&self, within: Duration) -> Option<Open> {
        let since = self.0.since.lock().unwrap_or_else(PoisonError::into_inner);
        let left = since.map_or(Duration::ZERO, |since| (since + within).saturating_duration_since(Instant::now()));
        let wait = self.0.ended.wait_timeout_while(since, left, |since| since.is_some());
        let (mut since, _) = wait.unwrap_or_else(PoisonError::into_inner);
        if since.is_some() {
            return None;
        }
        *since = Some(Instant::now());
        Some(Open(self.0.clone()))
    }

    /// Runs `question` on a thread of its own, named `thread`, and waits up to `within` for the
    /// answer.
    ///
    /// # Errors
    /// When there is no answer in time, or an earlier call still hangs.
    pub fn ask<T: Send + 'static>(
        &self,
        thread: &str,
        within: Duration,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let open = self.begin(within).ok_or(NoAnswer::StillHangs)?;
        let (answer, answered) = channel();
        let ask = move || {
            let found = question();
            drop(open);
            // The caller may have stopped waiting.
            let _ = answer.send(found);
        };
        std::thread::Builder::new().name(thread.to_owned()).spawn(ask).map_err(NoAnswer::Thread)?;
        answered.recv_timeout(within).map_err(|_| NoAnswer::Late)
    }
}

impl Open {
    /// Marks the beginning of another call: deadlines for its end count from here.
    pub fn restart(&self) {
        *self.0.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        *self.0.since.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.0.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any of this takes.
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn while_a_call_hangs_the_next_is_refused_at_once_and_no_thread_is_started() {
        let call = OneCall::default();
        let (go_on, hangs) = channel::<()>();
        let late = call.ask("hangs", Duration::from_millis(10), move || hangs.recv());
        assert!(matches!(late, Err(NoAnswer::Late)), "{late:?}");
        let began = Instant::now();
        let refused = call.ask("no", Duration::from_millis(10), || panic!("it is not asked"));
        assert!(matches!(refused, Err(NoAnswer::StillHangs)), "{refused:?}");
        assert!(began.elapsed() < LONG);
        drop(go_on);
        // Its thread ends in its own time.
        assert_eq!(call.ask("answers", LONG, || 7).ok(), Some(7));
    }

    #[test]
    fn a_call_that_does_not_hang_is_waited_for() {
        let call = OneCall::default();
        let open = call.begin(LONG).expect("none is under way");
        assert!(call.begin(Duration::ZERO).is_none());
        let ends = std::thread::spawn(move || drop(open));
        assert!(call.begin(LONG).is_some(), "until it has ended");
        ends.join().unwrap();
        // The wait is for the call that is under way, not for what went before it.
        let open = call.begin(LONG).expect("none is under way");
        *call.0.since.lock().unwrap() = Instant::now().checked_sub(LONG);
        assert!(call.begin(LONG).is_none(), "it is overdue");
        open.restart();
        let ends = std::thread::spawn(move || drop(open));
        assert!(call.begin(LONG).is_some());
        ends.join().unwrap();
    }
}
