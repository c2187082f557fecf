//! The one call to the ownership record that a driver has under way, and what it does when the
//! storage hangs.

use std::time::{Duration, Instant};

/// How long a driver waits for the record's answer before it goes on as if there were none.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// The name of threads that call the record for the process, not for a migration.
pub(super) const THREAD: &str = "ferry-record";

/// The call to a record that a driver has under way. Storage may hang: at a deadline the driver
/// then treats the record as unreachable and asks again later, and the hanging thread answers the
/// later question when its call returns.
#[derive(Debug)]
pub struct Call<Q> {
    /// The question whose answer the driver waits for, and its deadline.
    asked: Option<(Q, Instant)>,
    /// The question of the newest thread, while that has not answered.
    hanging: Option<Q>,
    /// Distinguishes the threads.
    serial: u32,
}

impl<Q> Default for Call<Q> {
    /// None is under way.
    fn default() -> Self {
        Call { asked: None, hanging: None, serial: 0 }
    }
}

impl<Q: Copy + PartialEq> Call<Q> {
    /// The driver asks `question`; `spawn` starts a thread that answers with this serial, unless
    /// one hangs with the same question.
    pub fn ask(&mut self, question: Q, spawn: impl FnOnce(u32) -> std::io::Result<()>) {
        self.asked = Some((question, Instant::now() + ANSWER_DEADLINE));
        if self.hanging == Some(question) {
            return;
        }
        self.serial += 1;
        match spawn(self.serial) {
            Ok(()) => self.hanging = Some(question),
            Err(error) => tracing::warn!(%error, "the ownership record is not asked"),
        }
    }

    /// A thread has answered; returns whether the driver still waits for the answer.
    pub fn answered(&mut self, serial: u32) -> bool {
        if serial != self.serial {
            return false;
        }
        self.hanging = None;
        self.asked.take().is_some()
    }

    /// The deadline of the question that the driver waits for.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.asked.map(|(_, at)| at)
    }

    /// The question whose answer the driver waits for.
    #[must_use]
    pub fn awaits(&self) -> Option<Q> {
        self.asked.map(|(question, _)| question)
    }

    /// The question whose deadline has passed.
    pub fn overdue(&mut self) -> Option<Q> {
        self.asked.take_if(|(_, at)| *at <= Instant::now()).map(|(question, _)| question)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_hangs_answers_the_later_question() {
        let mut call = Call::default();
        let mut spawned = Vec::new();
        call.ask('a', |serial| {
            spawned.push(serial);
            Ok(())
        });
        call.asked = Some(('a', Instant::now()));
        assert_eq!((call.overdue(), call.overdue()), (Some('a'), None));
        call.ask('a', |serial| {
            spawned.push(serial);
            Ok(())
        });
        assert_eq!(spawned, [1], "one thread hangs over it already");
        assert!(call.answered(1));
        assert!(!call.answered(1), "it was answered");
        call.ask('a', |_| Err(std::io::ErrorKind::OutOfMemory.into()));
        assert!(call.deadline().is_some(), "the driver hears of it at the deadline");
        call.ask('a', |serial| {
            spawned.push(serial);
            Ok(())
        });
        assert_eq!(spawned, [1, 3]);
        assert!(!call.answered(1), "an old thread");
    }
}
