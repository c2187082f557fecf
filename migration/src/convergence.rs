//! When to stop the guest: the downtime to expect from the rounds so far.
//!
//! QEMU switches at the first moment when the expected downtime is under `downtime-limit`. That
//! moment is rarely the best: rounds shrink geometrically while the guest writes slower than the
//! link, and one more short round may save most of the downtime. So the limit is an upper bound,
//! and rounds go on below it as long as they pay: until the expected downtime is
//! [`SHORT_ENOUGH_US`], or a round no longer shrinks the remaining pages to [`PAYS_PERCENT`] of
//! their number before it. Then a few more short rounds may end as well as the best so far.
//!
//! A guest that writes faster than the link carries never gets there. Where the operator allows it
//! (`auto-converge`), the rounds also decide how far its vCPUs are throttled: the page thread reads
//! [`Convergence::throttle`] after each round.

mod throttle;

use self::throttle::Throttling;
use crate::parameters::{OnLimit, Parameters, PostcopyWhen};

/// Below this expected time for the last pages, in microseconds, nothing is gained by another
/// round.
pub const SHORT_ENOUGH_US: u64 = 500;
/// A further round pays if the last one shrank the remaining pages to at most this percentage.
pub const PAYS_PERCENT: u64 = 75;
/// Rounds in a row without progress below the limit before the switch.
const PATIENCE: u32 = 2;
/// The number of remaining pages varies from round to round, most if sender and receiver wait for a
/// core. While a round is expected to take at most `SHORT_ROUND_US`, up to `MORE_ROUNDS` more are
/// sent until one leaves at most `GOOD_PERCENT` of the pages that the best one left.
const SHORT_ROUND_US: u64 = 50_000;
const MORE_ROUNDS: u32 = 4;
const GOOD_PERCENT: u64 = 125;

/// The measurements of a finished round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RoundReport {
    /// Counts from 1.
    pub round: u64,
    /// Pages that the guest dirtied meanwhile and that must be sent again.
    pub remaining_pages: u64,
    /// Bytes that the round sent, before compression.
    pub sent_bytes: u64,
    /// Time that sending them would take at the measured rate, in microseconds.
    pub expected_us: u64,
    /// Since the first round began, in milliseconds.
    pub elapsed_ms: u64,
}

/// What to do after a round.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Send the dirtied pages.
    Again,
    /// Stop the guest and send the rest.
    Switch,
    /// Stop the guest, let the destination run, and send the rest then.
    Postcopy,
    /// It does not converge; the text says so and what can be changed.
    GiveUp(String),
}

/// Remembers the rounds of one migration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Convergence {
    best_pages: Option<u64>,
    without_progress: u32,
    throttling: Option<Throttling>,
}

impl Convergence {
    /// No round has been sent. With `auto_converge`, a guest that keeps rounds from converging is
    /// throttled.
    #[must_use]
    pub fn new(auto_converge: bool) -> Self {
        Convergence { throttling: auto_converge.then(Throttling::default), ..Convergence::default() }
    }

    /// Percentage of their time for which vCPUs are to be throttled from now on, from 0 (not at
    /// all) to 99.
    #[must_use]
    pub fn throttle(&self) -> u8 {
        self.throttling.as_ref().map_or(0, Throttling::percentage)
    }

    /// Judges a round.
    pub fn judge(&mut self, report: RoundReport, parameters: &Parameters) -> Decision {
        let decision = self.decide(report, parameters);
        if let Some(throttling) = &mut self.throttling {
            // Within the limit, or if rounds end here, the guest need not be slower.
            let converges = decision != Decision::Again || is_within_limit(report, parameters);
            throttling.judge(report, converges, parameters);
        }
        decision
    }

    fn decide(&mut self, report: RoundReport, parameters: &Parameters) -> Decision {
        let pays = self.best_pages.is_none_or(|best| report.remaining_pages * 100 <= best * PAYS_PERCENT);
        self.best_pages = Some(self.best_pages.map_or(report.remaining_pages, |b| b.min(report.remaining_pages)));
        self.without_progress = if pays { 0 } else { self.without_progress + 1 };

        let within_limit = is_within_limit(report, parameters);
        if report.expected_us <= SHORT_ENOUGH_US.min(parameters.downtime_limit.saturating_mul(1000))
            || report.remaining_pages == 0
        {
            return Decision::Switch;
        }
        let postcopy = match parameters.postcopy_when {
            PostcopyWhen::Manual => false,
            PostcopyWhen::FirstRound => true,
            PostcopyWhen::NoProgress => !within_limit && self.without_progress >= PATIENCE,
        };
        match exhausted(report, parameters) {
            _ if postcopy => Decision::Postcopy,
            None if within_limit && self.without_progress >= PATIENCE && self.is_good_moment(report) => {
                Decision::Switch
            }
            None => Decision::Again,
            Some(_) if within_limit || parameters.on_limit == OnLimit::Switch => Decision::Switch,
            Some(limit) => Decision::GiveUp(format!(
                "precopy did not converge within {limit}: {} pages remain, which is {} ms of downtime where downtime-limit \
                 allows {} ms; raise the limits, slow the guest, or set x-ferry-on-limit to switch",
                report.remaining_pages,
                report.expected_us / 1000,
                parameters.downtime_limit
            )),
        }
    }

    fn is_good_moment(&self, report: RoundReport) -> bool {
        let good = self.best_pages.is_none_or(|best| report.remaining_pages * 100 <= best * GOOD_PERCENT);
        good || report.expected_us > SHORT_ROUND_US || self.without_progress >= PATIENCE + MORE_ROUNDS
    }
}

fn is_within_limit(report: RoundReport, parameters: &Parameters) -> bool {
    report.expected_us <= parameters.downtime_limit.saturating_mul(1000)
}

fn exhausted(report: RoundReport, parameters: &Parameters) -> Option<String> {
    if parameters.max_rounds > 0 && report.round >= parameters.max_rounds {
        return Some(format!("{} rounds (x-ferry-max-rounds)", parameters.max_rounds));
    }
    if parameters.max_precopy_ms > 0 && report.elapsed_ms >= parameters.max_precopy_ms {
        return Some(format!("{} ms (x-ferry-max-precopy-ms)", parameters.max_precopy_ms));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(round: u64, remaining_pages: u64, expected_us: u64) -> RoundReport {
        RoundReport { round, remaining_pages, sent_bytes: 0, expected_us, elapsed_ms: round * 100 }
    }

    #[test]
    fn an_idle_guest_switches_after_the_first_round() {
        let mut rounds = Convergence::default();
        assert_eq!(rounds.judge(report(1, 0, 0), &Parameters::default()), Decision::Switch);
    }

    #[test]
    fn rounds_below_the_limit_go_on_while_they_shrink() {
        let mut rounds = Convergence::default();
        let parameters = Parameters::default();
        assert_eq!(rounds.judge(report(1, 100_000, 200_000), &parameters), Decision::Again);
        assert_eq!(rounds.judge(report(2, 20_000, 40_000), &parameters), Decision::Again);
        assert_eq!(rounds.judge(report(3, 4_000, 8_000), &parameters), Decision::Again);
        assert_eq!(rounds.judge(report(4, 3_900, 7_800), &parameters), Decision::Again);
        assert_eq!(rounds.judge(report(5, 4_100, 8_200), &parameters), Decision::Switch);
    }

    #[test]
    fn the_switch_comes_at_a_good_moment_or_after_a_few_more_rounds() {
        let parameters = Parameters::default();
        let after_the_best = |times: &[u64]| {
            let mut rounds = Convergence::default();
            assert_eq!(rounds.judge(report(1, 1_000, 2_000), &parameters), Decision::Again);
            let decisions =
                times.iter().map(|times| rounds.judge(report(2, 1_000 * times, 2_000 * times), &parameters));
            decisions.take_while(|decision| *decision == Decision::Again).count() + 1
        };
        assert_eq!(after_the_best(&[1; 9]), 2, "as good as ever");
        assert_eq!(after_the_best(&[3, 3, 4, 1, 3, 3]), 4, "a good one has come");
        assert_eq!(after_the_best(&[3; 9]), 6, "none has come");
        assert_eq!(after_the_best(&[30; 9]), 2, "long rounds are not for trying");
    }

    #[test]
    fn above_the_limit_patience_does_not_switch() {
        let mut rounds = Convergence::default();
        for round in 1..50 {
            assert_eq!(rounds.judge(report(round, 500_000, 1_000_000), &Parameters::default()), Decision::Again);
        }
    }

    #[test]
    fn postcopy_starts_by_itself_when_told_to() {
        let parameters = Parameters { postcopy_when: PostcopyWhen::NoProgress, ..Parameters::default() };
        let mut rounds = Convergence::default();
        assert_eq!(rounds.judge(report(1, 500_000, 1_000_000), &parameters), Decision::Again);
        assert_eq!(rounds.judge(report(2, 500_000, 1_000_000), &parameters), Decision::Again);
        assert_eq!(rounds.judge(report(3, 500_000, 1_000_000), &parameters), Decision::Postcopy);
        let parameters = Parameters { postcopy_when: PostcopyWhen::FirstRound, ..parameters };
        assert_eq!(Convergence::default().judge(report(1, 500_000, 1_000_000), &parameters), Decision::Postcopy);
        let soon = Convergence::default().judge(report(1, 5_000, 10_000), &parameters);
        assert_eq!(soon, Decision::Postcopy, "also when a downtime without it would be within the limit");
        assert_eq!(Convergence::default().judge(report(1, 9, 100), &parameters), Decision::Switch, "nothing to gain");
        let parameters = Parameters { postcopy_when: PostcopyWhen::NoProgress, ..parameters };
        let mut rounds = Convergence::default();
        for round in 1..3 {
            assert_eq!(rounds.judge(report(round, 5_000, 10_000), &parameters), Decision::Again);
        }
        assert_eq!(rounds.judge(report(3, 5_000, 10_000), &parameters), Decision::Switch, "within the limit");
    }

    #[test]
    fn a_limit_of_rounds_fails_or_switches_as_told() {
        let parameters = Parameters { max_rounds: 3, ..Parameters::default() };
        let mut rounds = Convergence::default();
        assert_eq!(rounds.judge(report(2, 500_000, 1_000_000), &parameters), Decision::Again);
        let Decision::GiveUp(reason) = rounds.judge(report(3, 500_000, 1_000_000), &parameters) else {
            panic!("three rounds are the limit")
        };
        assert!(reason.contains("x-ferry-max-rounds") && reason.contains("1000 ms"), "{reason}");
        let parameters = Parameters { on_limit: OnLimit::Switch, ..parameters };
        assert_eq!(rounds.judge(report(3, 500_000, 1_000_000), &parameters), Decision::Switch);
    }

    #[test]
    fn a_limit_of_time_fails_unless_the_downtime_is_fine() {
        let parameters = Parameters { max_precopy_ms: 100, ..Parameters::default() };
        assert!(matches!(
            Convergence::default().judge(report(1, 500_000, 1_000_000), &parameters),
            Decision::GiveUp(_)
        ));
        assert_eq!(Convergence::default().judge(report(1, 500, 1_000), &parameters), Decision::Switch);
    }
}
