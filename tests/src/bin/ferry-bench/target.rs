//! What figures should come to, and whether they do: the one place to look at when a target
//! changes.

use serde::Serialize;

use crate::account::Figure;
use crate::migration::{DOWNTIME, GAP, RATE, TOTAL};
use crate::peer::Contender;
use crate::postcopy::{ALL, ONE_P50, ONE_P99};
use crate::rows::SYNC;

/// What a figure is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Target {
    /// No more than this, in the figure's unit.
    Most(f64),
    /// No more than so many times the contender's median.
    MostTimes(f64, Contender),
    /// No less than so many times the contender's median.
    LeastTimes(f64, Contender),
    /// No more than so many times Ferry's median of another figure of the same case.
    MostTimesFigure(f64, &'static str),
    /// No more than this, in the figure's unit, and so many times the limit's median of another
    /// figure of the same case.
    MostAndLimits(f64, f64, &'static str),
}

use Target::{LeastTimes, Most, MostAndLimits, MostTimes, MostTimesFigure};

/// Row, a part of the case's title, figure, target.
const TARGETS: [(&str, &str, &str, Target); 22] = [
    ("throughput", "", RATE, LeastTimes(0.85, Contender::Limit)),
    ("throughput", "1 connection", RATE, LeastTimes(2.0, Contender::Qemu)),
    ("throughput", "2 connections", RATE, LeastTimes(1.3, Contender::Qemu)),
    ("downtime", "", TOTAL, MostTimes(1.0, Contender::Qemu)),
    ("downtime", "", GAP, Most(10.0)),
    ("handshake", "setup", DOWNTIME, Most(3.0)),
    ("handshake", "owned", DOWNTIME, MostAndLimits(3.0, 2.0, SYNC)),
    ("postcopy", "", ONE_P50, MostTimes(1.25, Contender::Limit)),
    ("postcopy", "", ONE_P99, MostTimesFigure(3.0, ONE_P50)),
    ("postcopy", "", ALL, MostTimes(0.2, Contender::Preempt)),
    ("postcopy", "", TOTAL, MostTimes(0.67, Contender::Qemu)),
    ("slowdown", "", "speed kept", LeastTimes(1.0, Contender::Qemu)),
    ("start", "", "first serial byte", Most(25.0)),
    ("start", "", "memory of the VMM", Most(8.0)),
    ("converge", "", TOTAL, MostTimes(1.0, Contender::Qemu)),
    ("converge", "", TOTAL, MostTimes(3.0, Contender::Limit)),
    ("converge", "", DOWNTIME, Most(300.0)),
    ("growth", "", TOTAL, MostTimes(1.0, Contender::Qemu)),
    ("growth", "", DOWNTIME, MostTimes(0.5, Contender::Qemu)),
    ("local", "", GAP, Most(2.0)),
    ("sweep", "", TOTAL, MostTimes(1.0, Contender::Qemu)),
    ("sweep", "", DOWNTIME, MostTimes(0.5, Contender::Qemu)),
];

/// The targets of a figure of a row's case.
pub(crate) fn of(row: &str, case: &str, figure: &str) -> Vec<Target> {
    let fits = |of_row, part, name| of_row == row && case.contains(part) && name == figure;
    TARGETS.iter().filter(|(of_row, part, name, _)| fits(*of_row, *part, *name)).map(|entry| entry.3).collect()
}

/// Whether a figure is as it should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It is.
    Met,
    /// It is not, by this share of what it should be.
    Missed(f64),
    /// There is nothing to compare.
    Unknown,
}

impl Target {
    /// Judges the medians of one of a case's `figures`.
    pub(crate) fn judge(self, figure: &Figure, figures: &[Figure]) -> Verdict {
        let (least, bound) = match self {
            Target::Most(value) => (false, Some(value)),
            Target::MostTimes(times, other) => (false, figure.median(other).map(|median| median * times)),
            Target::LeastTimes(times, other) => (true, figure.median(other).map(|median| median * times)),
            Target::MostTimesFigure(times, name) => {
                (false, median_of(figures, name, Contender::Ferry).map(|median| median * times))
            }
            Target::MostAndLimits(value, times, name) => {
                (false, median_of(figures, name, Contender::Limit).map(|median| value + median * times))
            }
        };
        let (Some(value), Some(bound)) = (figure.median(Contender::Ferry), bound.filter(|bound| *bound > 0.0)) else {
            return Verdict::Unknown;
        };
        match (value - bound) / bound {
            off if least && off < 0.0 => Verdict::Missed(-off),
            off if !least && off > 0.0 => Verdict::Missed(off),
            _ => Verdict::Met,
        }
    }

    /// In words.
    pub(crate) fn text(self, unit: &str) -> String {
        match self {
            Target::Most(value) => format!("≤ {value} {unit}"),
            Target::MostTimes(times, other) => format!("≤ {times} {}", other.name()),
            Target::LeastTimes(times, other) => format!("≥ {times} {}", other.name()),
            Target::MostTimesFigure(times, name) => format!("≤ {times} × {name}"),
            Target::MostAndLimits(value, times, name) => format!("≤ {value} {unit} and {times} × {name}"),
        }
    }
}

fn median_of(figures: &[Figure], name: &str, contender: Contender) -> Option<f64> {
    figures.iter().find(|figure| figure.name == name).and_then(|figure| figure.median(contender))
}

impl Verdict {
    /// In words.
    pub(crate) fn text(self) -> String {
        match self {
            Verdict::Met => "met".to_owned(),
            Verdict::Missed(by) if by >= 1.0 => format!("missed: {:.1} times", 1.0 + by),
            Verdict::Missed(by) => format!("missed by {:.0} %", (by * 100.0).max(1.0)),
            Verdict::Unknown => "-".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::rows::Row;

    fn figure(ferry: f64, qemu: f64) -> Figure {
        let values = BTreeMap::from([(Contender::Ferry, vec![ferry]), (Contender::Qemu, vec![qemu])]);
        Figure { name: "total time", unit: "ms", targets: vec![], values }
    }

    #[test]
    fn a_bound_is_judged() {
        assert_eq!(Target::Most(10.0).judge(&figure(10.0, 1.0), &[]), Verdict::Met);
        assert_eq!(Target::Most(10.0).judge(&figure(15.0, 1.0), &[]), Verdict::Missed(0.5));
    }

    #[test]
    fn others_are_compared_with_where_they_are_there() {
        let qemu = MostTimes(0.5, Contender::Qemu);
        assert_eq!(qemu.judge(&figure(10.0, 20.0), &[]), Verdict::Met);
        assert_eq!(qemu.judge(&figure(20.0, 20.0), &[]), Verdict::Missed(1.0));
        let least = LeastTimes(0.8, Contender::Qemu);
        assert_eq!(least.judge(&figure(8.0, 10.0), &[]), Verdict::Met);
        assert_eq!(least.judge(&figure(4.0, 10.0), &[]), Verdict::Missed(0.5));
        assert_eq!(MostTimes(0.5, Contender::Limit).judge(&figure(20.0, 20.0), &[]), Verdict::Unknown);
    }

    #[test]
    fn another_figure_can_be_the_bound() {
        let (one, other) = (figure(30.0, 1.0), figure(10.0, 1.0));
        let target = MostTimesFigure(2.0, "total time");
        assert_eq!(target.judge(&one, &[other]), Verdict::Missed(0.5));
        assert_eq!(target.judge(&one, &[]), Verdict::Unknown);
        let limit = Figure { values: BTreeMap::from([(Contender::Limit, vec![4.0])]), ..figure(0.0, 0.0) };
        let target = MostAndLimits(3.0, 2.0, "total time");
        assert_eq!(target.judge(&figure(11.0, 1.0), std::slice::from_ref(&limit)), Verdict::Met);
        assert_eq!(target.judge(&figure(22.0, 1.0), &[limit]), Verdict::Missed(1.0));
        assert_eq!(target.judge(&figure(1.0, 1.0), &[figure(1.0, 1.0)]), Verdict::Unknown);
    }

    #[test]
    fn every_target_is_of_something_that_there_is() {
        for (row, ..) in TARGETS {
            assert!(<Row as clap::ValueEnum>::from_str(row, false).is_ok(), "{row}");
        }
    }

    #[test]
    fn a_case_has_targets_of_its_own() {
        let of_case = |case| of("throughput", case, RATE).len();
        assert_eq!((of_case("4 GiB, 1 connection"), of_case("4 GiB, 3 connections")), (2, 1));
        assert!(of("throughput", "1 connection", "rounds").is_empty());
    }

    #[test]
    fn words() {
        assert_eq!(Most(45.0).text("µs"), "≤ 45 µs");
        assert_eq!(LeastTimes(0.8, Contender::Limit).text("GB"), "≥ 0.8 limit");
        assert_eq!(MostAndLimits(3.0, 2.0, "one fdatasync").text("ms"), "≤ 3 ms and 2 × one fdatasync");
        assert_eq!(Verdict::Missed(0.123).text(), "missed by 12 %");
        assert_eq!(Verdict::Missed(0.001).text(), "missed by 1 %");
        assert_eq!(Verdict::Missed(1.5).text(), "missed: 2.5 times");
    }
}
