//! How much a guest that writes faster than the link carries is to be slowed down, so that precopy
//! converges.
//!
//! QEMU's `auto-converge`, with QEMU's parameters: when the guest dirtied more than
//! `throttle-trigger-threshold` percent of the bytes that a round sent, twice in a row, vCPUs lose
//! `cpu-throttle-initial` percent of their time, and each further time `cpu-throttle-increment`
//! more, up to `max-cpu-throttle`. [`Convergence`](super::Convergence) calls this after each round;
//! the machine does the throttling.

use super::RoundReport;
use crate::pages::PAGE_SIZE;
use crate::parameters::{CPU_THROTTLE_MAX, Parameters};

/// Rounds in a row that dirty too much before the guest is slowed down, or slowed down further.
const PATIENCE: u32 = 2;

/// The state after the rounds so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Throttling {
    percentage: u8,
    too_dirty: u32,
}

impl Throttling {
    /// The percentage in force; 0 while the guest is not throttled.
    pub(super) fn percentage(&self) -> u8 {
        self.percentage
    }

    /// Judges a round. If it `converges`, the guest need not be slower.
    pub(super) fn judge(&mut self, report: RoundReport, converges: bool, parameters: &Parameters) {
        let too_dirty = !converges && is_too_dirty(report, parameters);
        self.too_dirty = if too_dirty { self.too_dirty + 1 } else { 0 };
        if self.too_dirty >= PATIENCE {
            self.too_dirty = 0;
            self.percentage = next(self.percentage, parameters);
        }
    }
}

fn is_too_dirty(report: RoundReport, parameters: &Parameters) -> bool {
    let dirtied = u128::from(report.remaining_pages) * u128::from(PAGE_SIZE);
    dirtied * 100 > u128::from(report.sent_bytes) * u128::from(parameters.throttle_trigger_threshold)
}

fn next(percentage: u8, parameters: &Parameters) -> u8 {
    let wanted = match u64::from(percentage) {
        0 => parameters.cpu_throttle_initial,
        now => now.saturating_add(parameters.cpu_throttle_increment),
    };
    wanted.min(parameters.max_cpu_throttle).min(CPU_THROTTLE_MAX) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::convergence::{Convergence, Decision};

    const MIB: u64 = 1 << 20;

    /// A round that sent 1000 pages and left this many dirty, far above any limit of the downtime.
    fn dirty(round: u64, remaining_pages: u64) -> RoundReport {
        let sent_bytes = 1000 * PAGE_SIZE;
        RoundReport { round, remaining_pages, sent_bytes, expected_us: 1_000_000, elapsed_ms: round * 1000 }
    }

    fn percentages(rounds: &mut Convergence, dirtied: &[u64], parameters: &Parameters) -> Vec<u8> {
        let judge = |(at, pages): (usize, &u64)| {
            assert_eq!(rounds.judge(dirty(at as u64 + 1, *pages), parameters), Decision::Again);
            rounds.throttle()
        };
        dirtied.iter().enumerate().map(judge).collect()
    }

    #[test]
    fn two_dirty_rounds_in_a_row_begin_it_and_two_more_raise_it() {
        let parameters = Parameters::default();
        let seen = percentages(&mut Convergence::new(true), &[1000; 7], &parameters);
        assert_eq!(seen, [0, 20, 20, 30, 30, 40, 40]);
        let interrupted = [1000, 500, 1000, 500, 501, 501, 1000, 400, 1000];
        let seen = percentages(&mut Convergence::new(true), &interrupted, &parameters);
        assert_eq!(seen, [0, 0, 0, 0, 0, 20, 20, 20, 20], "half of what was sent is no reason yet");
    }

    #[test]
    fn the_parameters_are_obeyed_also_when_they_change() {
        let mut parameters = Parameters {
            cpu_throttle_initial: 60,
            cpu_throttle_increment: 25,
            max_cpu_throttle: 90,
            throttle_trigger_threshold: 80,
            ..Parameters::default()
        };
        let mut rounds = Convergence::new(true);
        assert_eq!(percentages(&mut rounds, &[800; 4], &parameters), [0; 4]);
        assert_eq!(percentages(&mut rounds, &[801; 8], &parameters), [0, 60, 60, 85, 85, 90, 90, 90]);
        parameters.max_cpu_throttle = 99;
        assert_eq!(percentages(&mut rounds, &[801; 4], &parameters), [90, 99, 99, 99]);
    }

    #[test]
    fn it_is_the_operators_choice() {
        let seen = percentages(&mut Convergence::new(false), &[1000; 20], &Parameters::default());
        assert_eq!(seen, [0; 20]);
    }

    #[test]
    fn a_round_that_converges_anyway_is_no_reason() {
        let parameters = Parameters::default();
        let mut rounds = Convergence::new(true);
        let mut within = dirty(1, 1000);
        within.expected_us = parameters.downtime_limit * 1000;
        for _ in 0..2 {
            rounds.judge(within, &parameters);
            rounds.judge(within, &parameters);
            assert_eq!(rounds.throttle(), 0, "within downtime-limit");
            rounds.judge(dirty(2, 1000), &parameters);
            assert_eq!(rounds.throttle(), 0, "the first in a row");
        }
        let parameters = Parameters { max_rounds: 1, ..parameters };
        for _ in 0..4 {
            assert!(matches!(rounds.judge(dirty(3, 1000), &parameters), Decision::GiveUp(_)));
        }
        assert_eq!(rounds.throttle(), 0, "no round follows");
    }

    /// A guest that dirties `rate` bytes a second, evenly over `working_set` bytes, and a link
    /// that carries `link` bytes a second. Counts the rounds to the switchover; `None` when they
    /// do not end, within more of them than the smallest steps to 99 % take.
    fn rounds_needed(rate: u64, working_set: u64, link: u64, parameters: &Parameters) -> Option<u64> {
        let mut rounds = Convergence::new(true);
        let mut to_send = working_set;
        for round in 1..=300 {
            let took_s = to_send as f64 / link as f64;
            let runs = f64::from(100 - rounds.throttle()) / 100.0;
            let touched = rate as f64 * runs * took_s / working_set as f64;
            let dirtied = (working_set as f64 * (1.0 - (-touched).exp())) as u64;
            let report = RoundReport {
                round,
                remaining_pages: dirtied / PAGE_SIZE,
                sent_bytes: to_send,
                expected_us: dirtied * 1_000_000 / link,
                elapsed_ms: round,
            };
            match rounds.judge(report, parameters) {
                Decision::Switch => return Some(round),
                Decision::Again => to_send = dirtied.max(PAGE_SIZE),
                other => panic!("{other:?}"),
            }
        }
        None
    }

    #[test]
    fn it_converges_where_nothing_else_would() {
        let never = Parameters { throttle_trigger_threshold: 100, ..Parameters::default() };
        assert_eq!(rounds_needed(400 * MIB, 64 * MIB, 16 * MIB, &never), None);
        let needed = rounds_needed(400 * MIB, 64 * MIB, 16 * MIB, &Parameters::default());
        assert!(needed.is_some_and(|rounds| rounds < 30), "{needed:?}");
        let smallest = Parameters { cpu_throttle_initial: 1, cpu_throttle_increment: 1, ..Parameters::default() };
        let needed = rounds_needed(12 * MIB, 559 * MIB, MIB, &smallest);
        assert!(needed.is_some_and(|rounds| (180..240).contains(&rounds)), "{needed:?}");
    }

    proptest! {
        #[test]
        fn it_ends_for_every_guest_that_the_strongest_throttle_tames(
            link_mib in 1u64..1000, times_faster in 1u64..40, working_set_mib in 1u64..4096,
            initial in 1u64..=99, increment in 1u64..=99,
        ) {
            let parameters =
                Parameters { cpu_throttle_initial: initial, cpu_throttle_increment: increment, ..Parameters::default() };
            let link = link_mib * MIB;
            // Two rounds a step, and at the strongest throttle each round leaves less than half.
            let steps = 2 * (99 - initial).div_ceil(increment) + 2;
            let needed = rounds_needed(link * times_faster, working_set_mib * MIB, link, &parameters);
            prop_assert!(needed.is_some_and(|rounds| rounds <= steps + 40), "{needed:?} rounds, {steps} of them to 99 %");
        }

        #[test]
        fn the_percentage_only_rises_one_step_in_two_rounds_and_keeps_its_bounds(
            initial in 1u64..=99, increment in 1u64..=99, above in 0u64..=98, threshold in 1u64..=100,
            reports in prop::collection::vec((0u64..2_000, 0u64..2_000, 0u64..600_000), 1..60),
        ) {
            let parameters = Parameters {
                cpu_throttle_initial: initial,
                cpu_throttle_increment: increment,
                max_cpu_throttle: (initial + above).min(99),
                throttle_trigger_threshold: threshold,
                ..Parameters::default()
            };
            prop_assert_eq!(parameters.check(), Ok(()));
            let mut rounds = Convergence::new(true);
            let mut raised_before = false;
            for (round, (remaining_pages, sent_pages, expected_us)) in (1..).zip(reports) {
                let before = u64::from(rounds.throttle());
                let sent_bytes = sent_pages * PAGE_SIZE;
                let report = RoundReport { round, remaining_pages, sent_bytes, expected_us, elapsed_ms: round };
                let decision = rounds.judge(report, &parameters);
                let after = u64::from(rounds.throttle());
                prop_assert!(after >= before);
                prop_assert!(after == 0 || (initial..=parameters.max_cpu_throttle).contains(&after));
                let raised = after > before;
                if raised {
                    let most = if before == 0 { initial } else { increment };
                    prop_assert!(after - before <= most);
                    prop_assert!(!raised_before, "two rounds each");
                    prop_assert!(decision == Decision::Again && expected_us > 300_000);
                    prop_assert!(remaining_pages * 100 > sent_pages * threshold);
                }
                raised_before = raised;
            }
        }
    }
}
