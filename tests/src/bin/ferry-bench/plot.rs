//! Which charts there are, and what of the account they show. A chart whose row was not measured
//! is not drawn.

use std::collections::BTreeMap;
use std::path::Path;

use ferry_guest::lines::Stalls;

use crate::account::{Account, Case, Raw, Section};
use crate::error::BenchError;
use crate::migration::{DOWNTIME, TOTAL};
use crate::peer::Contender::{self, Ferry, Preempt, Qemu};
use crate::rows::{AT_ONCE, RATES_MIB};
use crate::svg::{Axis, Chart, Line, Panel, Scale};

/// Writes all charts that there are values for into a directory, and returns their names.
pub(crate) fn write_all(account: &Account, directory: &Path) -> Result<Vec<&'static str>, BenchError> {
    let charts = [("dirty-rate.svg", dirty_rate(account)), ("fault-latency.svg", fault_latency(account))];
    let mut names = vec![];
    std::fs::create_dir_all(directory).map_err(BenchError::system(format!("make {}", directory.display())))?;
    for (name, chart) in charts {
        let Some(chart) = chart else { continue };
        let path = directory.join(name);
        std::fs::write(&path, chart.render()).map_err(BenchError::system(format!("write {}", path.display())))?;
        names.push(name);
    }
    Ok(names)
}

/// Dirty rate against total time and downtime.
fn dirty_rate(account: &Account) -> Option<Chart> {
    let section = account.section("sweep").filter(|section| any_samples(section))?;
    let panel = |figure, caption: &str, label: &str| Panel {
        caption: caption.to_owned(),
        x: axis("dirty rate in MiB/s, at random in half of the memory", Scale::Linear),
        y: axis(label, Scale::Linear),
        lines: [Ferry, Qemu].into_iter().map(|contender| rate_line(section, contender, figure)).collect(),
    };
    let first = section.cases.first()?;
    let memory = first.title.split(',').next().unwrap_or_default();
    Some(Chart {
        title: "Precopy: total time and downtime by dirty rate".to_owned(),
        subtitle: format!("{memory}, 1 vCPU, loopback TCP, downtime-limit 300 ms; medians of {} runs", account.runs),
        panels: vec![panel(TOTAL, "Total time", "total time in ms"), panel(DOWNTIME, "Downtime", "downtime in ms")],
    })
}

fn rate_line(section: &Section, contender: Contender, figure: &str) -> Line {
    let value = |case: &Case| case.figures.iter().find(|of| of.name == figure)?.median(contender);
    let points = RATES_MIB.iter().zip(&section.cases);
    let points = points.filter_map(|(rate, case)| Some((*rate as f64, value(case)?))).collect();
    Line { name: contender.name().to_owned(), points, steps: false }
}

/// How many of the missing pages were there after so long, as the guest saw it.
fn fault_latency(account: &Account) -> Option<Chart> {
    let section = account.section("postcopy").filter(|section| any_samples(section))?;
    let case = section.cases.iter().find(|case| case.title.ends_with(AT_ONCE) && !case.samples.is_empty())?;
    let names = [(Ferry, "ferry"), (Qemu, "QEMU"), (Preempt, "QEMU, postcopy-preempt")];
    let line = |(contender, name): (Contender, &str)| Line {
        name: name.to_owned(),
        points: cumulative(case.samples.iter().filter(|raw| raw.contender == contender)),
        steps: true,
    };
    Some(Chart {
        title: "Postcopy: how long the guest waits for a missing page".to_owned(),
        subtitle: format!("{}; all runs together", case.title),
        panels: vec![Panel {
            caption: "Share of the waits that were no longer".to_owned(),
            x: axis("wait in µs, by the guest's clock", Scale::Logarithmic),
            y: axis("share in %", Scale::Linear),
            lines: names.into_iter().map(line).collect(),
        }],
    })
}

/// The shortest wait, and then the end of each bucket with the share of all waits that lie below
/// it.
fn cumulative<'a>(samples: impl Iterator<Item = &'a Raw>) -> Vec<(f64, f64)> {
    let mut counts = BTreeMap::<u64, u64>::new();
    for bucket in samples.filter_map(|raw| raw.sample["missing"]["buckets"].as_array()).flatten() {
        if let (Some(floor_us), Some(count)) = (bucket[0].as_u64(), bucket[1].as_u64()) {
            *counts.entry(floor_us).or_default() += count;
        }
    }
    let all: u64 = counts.values().sum();
    let mut points: Vec<_> = counts.keys().next().map(|shortest| (*shortest as f64, 0.0)).into_iter().collect();
    let mut below = 0;
    for (floor_us, count) in counts {
        below += count;
        let end_us = Stalls::floor_us(Stalls::bucket(floor_us) + 1);
        points.push((end_us as f64, below as f64 * 100.0 / all as f64));
    }
    points
}

fn any_samples(section: &Section) -> bool {
    section.cases.iter().any(|case| !case.samples.is_empty())
}

fn axis(label: &str, scale: Scale) -> Axis {
    Axis { label: label.to_owned(), scale }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use serde_json::json;

    use super::*;
    use crate::account::{Measured, Reading};

    #[derive(Serialize)]
    struct Sample {
        missing: serde_json::Value,
    }

    impl Measured for Sample {
        fn readings(&self) -> Vec<Reading> {
            vec![Reading::new(TOTAL, "ms", 100.0), Reading::new(DOWNTIME, "ms", 2.0)]
        }
    }

    fn sample(buckets: &serde_json::Value) -> Result<Sample, BenchError> {
        Ok(Sample { missing: json!({ "buckets": buckets }) })
    }

    fn measured(row: &'static str, title: &str) -> Account {
        let mut account = Account::new(&[], 1);
        let mut section = Section::new(row, "");
        let case = section.case(title);
        case.attempt(Ferry, 1, || sample(&json!([[16, 1], [32, 2]])));
        case.attempt(Ferry, 2, || sample(&json!([[32, 1]])));
        account.sections.push(section);
        account
    }

    #[test]
    fn waits_of_all_runs_add_up() {
        let account = measured("postcopy", &format!("a guest, {AT_ONCE}"));
        let points = cumulative(account.sections[0].cases[0].samples.iter());
        assert_eq!(points, [(16.0, 0.0), (18.0, 25.0), (36.0, 100.0)]);
        assert_eq!(cumulative([].iter()), []);
    }

    #[test]
    fn only_what_was_measured_is_drawn() {
        let directory = tempfile::tempdir().unwrap();
        let write = |account: &Account| write_all(account, directory.path()).unwrap();
        assert!(write(&Account::new(&[], 1)).is_empty());
        assert_eq!(write(&measured("sweep", "64 MiB, 1 vCPU")), ["dirty-rate.svg"]);
        assert_eq!(write(&measured("postcopy", &format!("a guest, {AT_ONCE}"))), ["fault-latency.svg"]);
        assert!(std::fs::read_to_string(directory.path().join("fault-latency.svg")).unwrap().contains("preempt"));
    }
}
