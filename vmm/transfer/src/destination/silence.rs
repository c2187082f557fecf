//! Notices page links that fall silent in a postcopy without breaking.
//!
//! A page link may be idle: its source has nothing to send, or is held to a bandwidth. It must move
//! as soon as something is owed on it: on the urgent link while a page is awaited, on all of them
//! together once the source has reported that everything was sent and pages are missing. A link on
//! which then no byte comes for the heartbeat timeout is lost. A slow link moves.

use std::time::Duration;

use ferry_link::{LOOK, Link};

/// The name of the link on which page requests are answered.
pub(super) const URGENT: &str = "urgent";

/// Looks within the patience, when it is short.
const LOOKS: u32 = 8;

/// A clock that runs while something is owed and nothing moves. It counts looks: time for which
/// this process itself was stopped makes one look.
#[derive(Debug, Default)]
struct Clock {
    moved: u64,
    quiet: Duration,
}

impl Clock {
    /// For how long nothing has moved, after `waited` more.
    fn look(&mut self, owed: bool, moved: u64, waited: Duration) -> Duration {
        if !owed || moved != self.moved {
            *self = Clock { moved, quiet: Duration::ZERO };
        } else {
            self.quiet += waited;
        }
        self.quiet
    }
}

/// Pages that are owed at the time of a look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owed {
    /// Pages that are awaited, if they can have been requested.
    pub awaited: usize,
    /// Pages that are missing, if the source has reported that all were sent.
    pub unsent: u64,
}

/// The links that bring pages, and how long they have been silent.
#[derive(Debug)]
pub(super) struct Silence {
    patience: Duration,
    urgent: Option<Link>,
    /// Every page link, and whether it has brought the marker behind everything.
    bringing: Vec<(&'static str, Link, bool)>,
    answers: Clock,
    rest: Clock,
}

impl Silence {
    /// No link is here yet. Each may be silent for `patience`.
    #[must_use]
    pub(super) fn new(patience: Duration) -> Self {
        Silence { patience, urgent: None, bringing: Vec::new(), answers: Clock::default(), rest: Clock::default() }
    }

    /// How often to look.
    #[must_use]
    pub(super) fn every(&self) -> Duration {
        (self.patience / LOOKS).clamp(Duration::from_millis(10), LOOK)
    }

    /// Page requests are answered on this link.
    pub(super) fn answers_on(&mut self, urgent: Link) {
        self.answers = Clock { moved: urgent.received(), quiet: Duration::ZERO };
        self.urgent = Some(urgent);
    }

    /// Pages come on this link, named `link` in errors.
    pub(super) fn comes_on(&mut self, link: &'static str, stream: Link) {
        self.bringing.push((link, stream, false));
    }

    /// The source has sent everything that it will send on this link without a request.
    pub(super) fn has_ended(&mut self, stream: &Link) {
        for (.., ended) in self.bringing.iter_mut().filter(|(_, other, _)| other.is_same(stream)) {
            *ended = true;
        }
    }

    /// Looks after `waited` since the last look. `Some` reason: a link is lost.
    pub(super) fn look(&mut self, owed: Owed, waited: Duration) -> Option<String> {
        let waited = waited.min(self.every() * 2);
        let answered = self.urgent.as_ref().map_or(0, Link::received);
        let quiet = self.answers.look(owed.awaited > 0, answered, waited);
        if quiet >= self.patience {
            return Some(format!(
                "{URGENT}: no page for {} ms (x-ferry-heartbeat-timeout-ms), and {} awaited",
                self.patience.as_millis(),
                are(owed.awaited as u64)
            ));
        }
        let moved = self.bringing.iter().map(|(_, stream, _)| stream.received()).sum();
        let quiet = self.rest.look(owed.unsent > 0, moved, waited);
        if quiet >= self.patience {
            // The urgent link brings only requested pages: if all others have ended, the missing
            // pages were requested.
            let silent = self.bringing.iter().find(|(link, _, ended)| *link != URGENT && !ended);
            return Some(format!(
                "{}: no page for {} ms (x-ferry-heartbeat-timeout-ms) after the source had sent everything, and {} missing",
                silent.map_or(URGENT, |(link, ..)| link),
                self.patience.as_millis(),
                are(owed.unsent)
            ));
        }
        None
    }
}

fn are(count: u64) -> String {
    if count == 1 { "1 is".to_owned() } else { format!("{count} are") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    const PATIENCE: Duration = Duration::from_secs(1);
    const STEP: Duration = Duration::from_millis(100);
    const NOTHING: Owed = Owed { awaited: 0, unsent: 0 };
    const A_PAGE: Owed = Owed { awaited: 1, unsent: 0 };
    const THE_REST: Owed = Owed { awaited: 0, unsent: 7 };

    fn link() -> (Link, Link) {
        let (near, far) = UnixStream::pair().unwrap();
        (Link::new(near.into()).unwrap(), Link::new(far.into()).unwrap())
    }

    /// The link brings a byte.
    fn moves((near, far): &(Link, Link)) {
        far.write_all(&[0]).unwrap();
        near.read_exact(&mut [0]).unwrap();
    }

    /// So many looks, and what the last one says.
    fn looks(silence: &mut Silence, owed: Owed, count: u32) -> Option<String> {
        (0..count).find_map(|_| silence.look(owed, STEP))
    }

    #[test]
    fn a_link_that_owes_nothing_may_be_silent() {
        let (urgent, bulk) = (link(), link());
        let mut silence = Silence::new(PATIENCE);
        silence.answers_on(urgent.0.clone());
        silence.comes_on("urgent", urgent.0.clone());
        silence.comes_on("bulk", bulk.0.clone());
        assert_eq!(looks(&mut silence, NOTHING, 1000), None);
        assert_eq!(looks(&mut silence, A_PAGE, 9), None, "the clock begins with what is owed");
        let reason = looks(&mut silence, A_PAGE, 2).unwrap();
        assert!(reason.starts_with("urgent: no page for 1000 ms") && reason.contains("1 is awaited"), "{reason}");
    }

    #[test]
    fn a_slow_link_is_not_lost_and_one_cannot_speak_for_another() {
        let (urgent, bulk) = (link(), link());
        let mut silence = Silence::new(PATIENCE);
        silence.answers_on(urgent.0.clone());
        silence.comes_on("bulk", bulk.0.clone());
        for _ in 0..20 {
            assert_eq!(looks(&mut silence, A_PAGE, 9), None);
            moves(&urgent);
        }
        let lost = (0..20).find_map(|_| {
            moves(&bulk);
            silence.look(A_PAGE, STEP)
        });
        assert!(lost.is_some_and(|reason| reason.starts_with("urgent")));
    }

    #[test]
    fn a_link_that_never_came_is_silent_too() {
        let mut silence = Silence::new(PATIENCE);
        assert!(looks(&mut silence, A_PAGE, 11).is_some_and(|reason| reason.starts_with("urgent")));
    }

    #[test]
    fn what_was_sent_must_come_and_the_link_that_has_not_ended_is_named() {
        let (urgent, first, second) = (link(), link(), link());
        let mut silence = Silence::new(PATIENCE);
        silence.comes_on("urgent", urgent.0.clone());
        silence.comes_on("bulk", first.0.clone());
        silence.comes_on("bulk", second.0.clone());
        silence.has_ended(&first.0);
        assert_eq!(looks(&mut silence, THE_REST, 9), None);
        moves(&second);
        assert_eq!(looks(&mut silence, THE_REST, 10), None, "it has moved");
        let reason = looks(&mut silence, THE_REST, 1).unwrap();
        assert!(reason.starts_with("bulk: no page for 1000 ms") && reason.contains("7 are missing"), "{reason}");
        silence.has_ended(&second.0);
        let reason = looks(&mut silence, THE_REST, 1).unwrap();
        assert!(reason.starts_with("urgent: "), "{reason}");
    }

    #[test]
    fn a_pause_of_this_process_is_not_the_links() {
        let urgent = link();
        let mut silence = Silence::new(PATIENCE);
        silence.answers_on(urgent.0.clone());
        assert_eq!(silence.look(A_PAGE, STEP), None);
        assert_eq!(silence.look(A_PAGE, Duration::from_secs(1000)), None);
        moves(&urgent);
        assert_eq!(looks(&mut silence, A_PAGE, 10), None);
    }
}
