//! Everything that was measured, for the table, for the plots and for the JSON file.
//!
//! An account has a section for each row of the bench, a section its cases (a guest of some size,
//! so many connections), a case its figures, and a figure the values of every run by contender. A
//! measurement that fails leaves a note and no value, and all else goes on.

use std::collections::BTreeMap;
use std::path::Path;

use ferry_observe::causes;
use serde::Serialize;
use serde_json::Value;

use crate::error::BenchError;
use crate::peer::{Contender, Peer};
use crate::statistics::median;
use crate::target::{self, Target};

/// Failures in a row after which a contender is left out of the rest of a case.
const GIVE_UP_AFTER: u32 = 2;

/// All samples of one run of the bench.
#[derive(Debug, Serialize)]
pub(crate) struct Account {
    /// What it ran on.
    pub host: String,
    /// The VMMs, with their versions.
    pub versions: BTreeMap<Contender, String>,
    /// Runs of each kind.
    pub runs: u32,
    /// By row, in the order of measuring.
    pub sections: Vec<Section>,
}

/// One row.
#[derive(Debug, Serialize)]
pub(crate) struct Section {
    /// Its name on the command line.
    pub row: &'static str,
    /// What it is about.
    pub title: &'static str,
    /// What was measured in turns.
    pub cases: Vec<Case>,
}

/// What was measured in turns, all contenders doing the same.
#[derive(Debug, Serialize)]
pub(crate) struct Case {
    /// The guest and what is done to it.
    pub title: String,
    row: &'static str,
    #[serde(skip)]
    shown: Option<&'static [&'static str]>,
    /// In the order of the table.
    pub figures: Vec<Figure>,
    /// What went wrong, and what was left out and why.
    pub notes: Vec<String>,
    /// Every sample as it was measured.
    pub samples: Vec<Raw>,
    /// Whether Ferry itself failed.
    pub ferry_failed: bool,
    #[serde(skip)]
    failures: BTreeMap<Contender, u32>,
}

/// One sample with all its parts.
#[derive(Debug, Serialize)]
pub(crate) struct Raw {
    /// Of whom.
    pub contender: Contender,
    /// Counts from 1.
    pub run: u32,
    /// What was measured.
    pub sample: Value,
}

/// One line of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    /// What it is.
    pub name: &'static str,
    /// Of its values.
    pub unit: &'static str,
    /// What it should come to.
    pub targets: Vec<Target>,
    /// The values of all runs.
    pub values: BTreeMap<Contender, Vec<f64>>,
}

/// One value of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reading {
    /// Names the figure.
    pub name: &'static str,
    /// Of the value.
    pub unit: &'static str,
    /// Missing where this contender does not tell it.
    pub value: Option<f64>,
}

/// A sample that has values for the table.
pub(crate) trait Measured: Serialize {
    /// Its values, in the order of the table.
    fn readings(&self) -> Vec<Reading>;
}

impl Account {
    /// Nothing measured yet.
    pub(crate) fn new(peers: &[Peer], runs: u32) -> Self {
        let versions = peers.iter().map(|peer| (peer.contender(), peer.version.clone())).collect();
        Account { host: host(), versions, runs, sections: vec![] }
    }

    /// The section of a row.
    pub(crate) fn section(&self, row: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.row == row)
    }

    /// Whether Ferry failed anywhere.
    pub(crate) fn ferry_failed(&self) -> bool {
        self.sections.iter().flat_map(|section| &section.cases).any(|case| case.ferry_failed)
    }

    /// Writes everything as JSON.
    pub(crate) fn write_json(&self, path: &Path) -> Result<(), BenchError> {
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::from);
        text.and_then(|text| std::fs::write(path, text + "\n"))
            .map_err(BenchError::system(format!("write {}", path.display())))
    }
}

impl Section {
    /// An empty one.
    pub(crate) fn new(row: &'static str, title: &'static str) -> Self {
        Section { row, title, cases: vec![] }
    }

    /// Begins a case; samples go there from now on.
    pub(crate) fn case(&mut self, title: impl Into<String>) -> &mut Case {
        self.cases.push(Case {
            title: title.into(),
            row: self.row,
            shown: None,
            figures: vec![],
            notes: vec![],
            samples: vec![],
            ferry_failed: false,
            failures: BTreeMap::new(),
        });
        self.cases.last_mut().expect("it was added above")
    }
}

impl Case {
    /// Keeps only these figures, in this order; the samples keep all.
    pub(crate) fn showing(&mut self, figures: &'static [&'static str]) -> &mut Self {
        self.shown = Some(figures);
        self
    }

    /// Measures once and takes the sample, or notes why there is none. A contender that refuses to
    /// do this at all, or fails again and again, is not asked any more.
    pub(crate) fn attempt<S: Measured>(
        &mut self,
        contender: Contender,
        run: u32,
        measure: impl FnOnce() -> Result<S, BenchError>,
    ) -> Option<S> {
        if self.failures.get(&contender).is_some_and(|failures| *failures >= GIVE_UP_AFTER) {
            return None;
        }
        eprintln!("{}: {}, run {run}: {}", self.row, self.title, contender.name());
        match measure() {
            Ok(sample) => {
                self.failures.remove(&contender);
                self.take(contender, run, &sample);
                Some(sample)
            }
            Err(error) => {
                self.fail(contender, run, &error);
                None
            }
        }
    }

    /// Says something below the figures.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Whose samples there are.
    pub(crate) fn has(&self, contender: Contender) -> bool {
        self.samples.iter().any(|raw| raw.contender == contender)
    }

    fn take(&mut self, contender: Contender, run: u32, sample: &impl Measured) {
        let shown = self.shown;
        let wanted = |reading: &Reading| shown.is_none_or(|shown| shown.contains(&reading.name));
        for reading in sample.readings().into_iter().filter(wanted) {
            let figure = self.figure(reading.name, reading.unit);
            if let Some(value) = reading.value {
                figure.values.entry(contender).or_default().push(value);
            }
        }
        let place = |figure: &Figure| shown?.iter().position(|name| *name == figure.name);
        self.figures.sort_by_key(place);
        let sample = serde_json::to_value(sample).unwrap_or_default();
        self.samples.push(Raw { contender, run, sample });
    }

    fn fail(&mut self, contender: Contender, run: u32, error: &BenchError) {
        let name = contender.name();
        if let Some(refusal) = error.refusal() {
            self.failures.insert(contender, GIVE_UP_AFTER);
            self.note(format!("{name} is left out: it refuses {refusal}"));
            return;
        }
        let failures = self.failures.entry(contender).or_default();
        *failures += 1;
        let given_up = if *failures >= GIVE_UP_AFTER { "; it is left out from here on" } else { "" };
        self.ferry_failed |= contender == Contender::Ferry;
        self.note(format!("{name}, run {run}: {}{given_up}", causes(error)));
    }

    fn figure(&mut self, name: &'static str, unit: &'static str) -> &mut Figure {
        let at = self.figures.iter().position(|figure| figure.name == name).unwrap_or_else(|| {
            let targets = target::of(self.row, &self.title, name);
            self.figures.push(Figure { name, unit, targets, values: BTreeMap::new() });
            self.figures.len() - 1
        });
        &mut self.figures[at]
    }
}

impl Figure {
    /// The median of a contender's values.
    pub(crate) fn median(&self, contender: Contender) -> Option<f64> {
        median(self.values.get(&contender)?.iter().copied())
    }
}

impl Reading {
    /// A value that is always there.
    pub(crate) fn new(name: &'static str, unit: &'static str, value: f64) -> Self {
        Reading { name, unit, value: Some(value) }
    }

    /// A value that may be missing.
    pub(crate) fn perhaps(name: &'static str, unit: &'static str, value: Option<f64>) -> Self {
        Reading { name, unit, value }
    }
}

/// Kernel, cores, CPU, and how busy it was when the bench began.
fn host() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    let model = model.map_or("unknown CPU", |(_, model)| model.trim());
    let load = read("/proc/loadavg");
    let load = load.split_whitespace().next().unwrap_or("unknown");
    format!("Linux {}, {cores} cores, {model}, load {load}", read("/proc/sys/kernel/osrelease").trim())
}

#[cfg(test)]
mod tests;
