//! The timers that a state machine has started, on the real clock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ferry_migration::{Parameters, Timer};

/// Heartbeats that a side sends within the time after which it counts as silent.
const HEARTBEATS_PER_TIMEOUT: u32 = 5;

/// How often a record that did not answer is asked again.
const RETRY_RECORD: Duration = Duration::from_millis(500);

/// How long each timer runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Durations {
    /// Connecting and greeting.
    pub setup: Duration,
    /// Rehearsing, stopping, loading and starting, each.
    pub load: Duration,
    /// Silence after which the peer counts as lost.
    pub heartbeat: Duration,
}

impl Durations {
    /// As the operator set them.
    #[must_use]
    pub(crate) fn new(parameters: &Parameters) -> Self {
        Durations {
            setup: Duration::from_millis(parameters.setup_timeout_ms),
            load: Duration::from_millis(parameters.load_timeout_ms),
            heartbeat: Duration::from_millis(parameters.heartbeat_timeout_ms),
        }
    }

    fn of(&self, timer: Timer) -> Duration {
        match timer {
            Timer::Setup => self.setup,
            Timer::PeerSilent => self.heartbeat,
            Timer::Heartbeat => self.heartbeat / HEARTBEATS_PER_TIMEOUT,
            Timer::RetryRecord => RETRY_RECORD,
            Timer::Recover => self.setup,
            Timer::Rehearsal | Timer::Stop | Timer::Load | Timer::Start => self.load,
        }
    }
}

/// Which timers run, and until when.
#[derive(Debug)]
pub(crate) struct Timers {
    /// How long each runs from its next start.
    pub durations: Durations,
    running: BTreeMap<Timer, Instant>,
}

impl Timers {
    /// None runs.
    #[must_use]
    pub(crate) fn new(durations: Durations) -> Self {
        Timers { durations, running: BTreeMap::new() }
    }

    /// Starts a timer, anew if it runs.
    pub(crate) fn start(&mut self, timer: Timer) {
        self.running.insert(timer, Instant::now() + self.durations.of(timer));
    }

    /// Stops a timer, if it runs.
    pub(crate) fn stop(&mut self, timer: Timer) {
        self.running.remove(&timer);
    }

    /// When the next one runs out.
    #[must_use]
    pub(crate) fn next(&self) -> Option<Instant> {
        self.running.values().min().copied()
    }

    /// Takes one that has run out.
    pub(crate) fn expired(&mut self) -> Option<Timer> {
        let now = Instant::now();
        let timer = *self.running.iter().find(|(_, at)| **at <= now)?.0;
        self.running.remove(&timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timers(heartbeat: Duration) -> Timers {
        Timers::new(Durations { setup: Duration::from_secs(1000), load: Duration::from_secs(500), heartbeat })
    }

    #[test]
    fn a_timer_runs_out_once_and_only_when_it_runs() {
        let mut timers = timers(Duration::ZERO);
        assert_eq!((timers.next(), timers.expired()), (None, None));
        timers.start(Timer::PeerSilent);
        assert!(timers.next().is_some_and(|at| at <= Instant::now()));
        assert_eq!((timers.expired(), timers.expired()), (Some(Timer::PeerSilent), None));
        timers.start(Timer::PeerSilent);
        timers.stop(Timer::PeerSilent);
        assert_eq!((timers.next(), timers.expired()), (None, None));
    }

    #[test]
    fn the_next_is_the_earliest_and_a_start_begins_anew() {
        let mut timers = timers(Duration::from_secs(1));
        timers.start(Timer::Setup);
        timers.start(Timer::Load);
        let load = timers.next().unwrap();
        timers.start(Timer::Load);
        assert!(timers.next().unwrap() >= load);
        timers.stop(Timer::Load);
        assert!(timers.next().unwrap() > load + Duration::from_secs(400));
        assert_eq!(timers.expired(), None);
    }

    #[test]
    fn a_duration_that_changes_holds_from_the_next_start_on() {
        let mut timers = timers(Duration::from_secs(1000));
        timers.start(Timer::PeerSilent);
        timers.durations.heartbeat = Duration::ZERO;
        assert_eq!(timers.expired(), None);
        timers.start(Timer::PeerSilent);
        assert_eq!(timers.expired(), Some(Timer::PeerSilent));
    }

    #[test]
    fn several_signs_of_life_fit_into_a_silence() {
        let mut timers = timers(Duration::from_secs(1000));
        timers.start(Timer::PeerSilent);
        let silence = timers.next().unwrap();
        timers.start(Timer::Heartbeat);
        let left = timers.next().unwrap().saturating_duration_since(Instant::now());
        assert!(left <= Duration::from_secs(200) && timers.next().unwrap() < silence);
    }
}
