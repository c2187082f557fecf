//! The table that people read: ratios first, then the medians behind them with Ferry's span, then
//! targets and verdicts.

use std::fmt::Write;

use crate::account::{Account, Case, Figure, Section};
use crate::peer::Contender::{self, Ferry, Limit, Preempt, Qemu};
use crate::statistics::span;
use crate::target::Target;

const NAME_WIDTH: usize = 26;

/// What stands above all tables.
pub(crate) fn head(account: &Account) -> String {
    let versions: Vec<_> = account.versions.values().map(String::as_str).collect();
    format!("{}\n{}\nmedians of {} runs, taken in turns\n", account.host, versions.join("; "), account.runs)
}

/// The tables of one row.
pub(crate) fn render(section: &Section) -> String {
    let mut text = format!("\n{}: {}\n", section.row, section.title);
    section.cases.iter().for_each(|case| text += &render_case(case));
    text
}

fn render_case(case: &Case) -> String {
    let others: Vec<_> =
        [Qemu, Preempt, Limit].into_iter().filter(|other| *other != Preempt || case.has(*other)).collect();
    let mut text = format!("\n  {}\n", case.title);
    let mut head = format!("  {:<NAME_WIDTH$}", "");
    for other in &others {
        let _ = write!(head, " {:>13}", format!("ferry/{}", other.name()));
    }
    let _ = write!(head, " {:>11} {:>17}", "ferry", "from - to");
    for other in &others {
        let _ = write!(head, " {:>11}", other.name());
    }
    let _ = writeln!(text, "{head}  target");
    for figure in &case.figures {
        let _ = writeln!(text, "{}", render_figure(figure, &case.figures, &others).trim_end());
    }
    for note in &case.notes {
        let _ = writeln!(text, "  * {note}");
    }
    text
}

fn render_figure(figure: &Figure, figures: &[Figure], others: &[Contender]) -> String {
    let mut text = format!("  {:<NAME_WIDTH$}", figure.name);
    let ferry = figure.median(Ferry);
    for other in others {
        let _ = write!(text, " {:>13}", ratio(ferry, figure.median(*other)));
    }
    let _ = write!(text, " {:>11} {:>17}", value(ferry, figure.unit), ferry_span(figure));
    for other in others {
        let _ = write!(text, " {:>11}", value(figure.median(*other), figure.unit));
    }
    let judged = |target: &Target| format!("{}: {}", target.text(figure.unit), target.judge(figure, figures).text());
    let _ = write!(text, "  {}", figure.targets.iter().map(judged).collect::<Vec<_>>().join("; "));
    text
}

fn ratio(ferry: Option<f64>, other: Option<f64>) -> String {
    match (ferry, other) {
        (Some(ferry), Some(other)) if other > 0.0 => format!("{:.2}", ferry / other),
        _ => "-".to_owned(),
    }
}

fn value(value: Option<f64>, unit: &str) -> String {
    value.map_or("-".to_owned(), |value| format!("{} {unit}", digits(value)).trim_end().to_owned())
}

fn ferry_span(figure: &Figure) -> String {
    let values = figure.values.get(&Ferry).into_iter().flatten().copied();
    span(values).map_or("-".to_owned(), |(least, most)| format!("{} - {}", digits(least), digits(most)))
}

/// Three significant digits or so.
fn digits(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;
    use crate::account::{Measured, Reading};
    use crate::error::BenchError;

    #[derive(Serialize)]
    struct Sample(f64, Option<f64>);

    impl Measured for Sample {
        fn readings(&self) -> Vec<Reading> {
            vec![Reading::new("total time", "ms", self.0), Reading::perhaps("rounds", "", self.1)]
        }
    }

    fn section() -> Section {
        let mut section = Section::new("downtime", "a title");
        let case = section.case("a guest");
        for (contender, values) in [(Ferry, [40.0, 60.0]), (Qemu, [30.0, 50.0]), (Limit, [20.0, 30.0])] {
            for (run, value) in (1..).zip(values) {
                let rounds = (contender == Ferry).then_some(3.0);
                case.attempt(contender, run, || Ok::<_, BenchError>(Sample(value, rounds)));
            }
        }
        case.note("QEMU, run 3: it crashed");
        section
    }

    #[test]
    fn the_head_says_what_it_is_about() {
        let mut account = Account::new(&[], 2);
        account.host = "a host".to_owned();
        account.versions.insert(Ferry, "ferry 1".to_owned());
        account.versions.insert(Qemu, "QEMU 2".to_owned());
        assert_eq!(head(&account), "a host\nferry 1; QEMU 2\nmedians of 2 runs, taken in turns\n");
    }

    #[test]
    fn ratios_come_first_and_gaps_are_dashes() {
        let text = render(&section());
        insta::assert_snapshot!(text, @r"
        downtime: a title

          a guest
                                        ferry/QEMU   ferry/limit       ferry         from - to        QEMU       limit  target
          total time                          1.25          2.00     50.0 ms       40.0 - 60.0     40.0 ms     25.0 ms  ≤ 1 QEMU: missed by 25 %
          rounds                                 -             -        3.00       3.00 - 3.00           -           -
          * QEMU, run 3: it crashed
        ");
    }

    #[test]
    fn another_way_gets_its_columns_only_where_it_was_measured() {
        let mut section = section();
        assert!(!render(&section).contains("preempt"));
        let case = &mut section.cases[0];
        case.attempt(Preempt, 1, || Ok::<_, BenchError>(Sample(25.0, None)));
        let text = render(&section);
        assert!(text.contains("ferry/preempt"), "{text}");
        assert!(text.contains("2.00"), "{text}");
    }
}
