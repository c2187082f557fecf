//! Follows one guest's reports through the serial files of both its processes.
//!
//! A guest may leave in the middle of a line: its first half is then in the source's file and the
//! rest in the destination's, so both are read as one stream.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use ferry_guest::lines::{Report, Stalls};
use ferry_guest::{Line, parse_line};

use crate::error::BenchError;
use crate::process::Process;

/// Between two looks at a file.
const POLL: Duration = Duration::from_millis(10);

/// What a guest has reported so far.
#[derive(Debug)]
pub(crate) struct SerialLog {
    file: File,
    partial: Vec<u8>,
    ready: u32,
    reports: BTreeMap<u32, Vec<Report>>,
}

impl SerialLog {
    /// Follows the guest that boots in `process`.
    pub(crate) fn new(process: &Process) -> Result<Self, BenchError> {
        Ok(SerialLog { file: open(process)?, partial: vec![], ready: 0, reports: BTreeMap::new() })
    }

    /// The guest has left its process, which writes no more, and is in `process` now.
    pub(crate) fn moved_to(&mut self, process: &Process) -> Result<(), BenchError> {
        self.read(process)?;
        self.file = open(process)?;
        Ok(())
    }

    /// Waits until every vCPU has filled its part of the working set.
    pub(crate) fn wait_ready(&mut self, process: &mut Process, cpus: u32, within: Duration) -> Result<(), BenchError> {
        self.wait(process, "the filling of the guest's memory", within, |log| log.ready >= cpus)
    }

    /// Waits for `more` further reports of every vCPU.
    pub(crate) fn wait_reports(
        &mut self,
        process: &mut Process,
        cpus: u32,
        more: usize,
        within: Duration,
    ) -> Result<(), BenchError> {
        let before: Vec<_> = (0..cpus).map(|cpu| self.count(cpu)).collect();
        self.wait(process, "a report of every vCPU", within, |log| {
            (0..cpus).zip(&before).all(|(cpu, before)| log.count(cpu) >= before + more)
        })
    }

    /// How many reports of each vCPU have been read.
    pub(crate) fn position(&self) -> BTreeMap<u32, usize> {
        self.reports.iter().map(|(cpu, reports)| (*cpu, reports.len())).collect()
    }

    /// The longest gap, in µs, that any vCPU named in the reports after `from`, at most `most` of
    /// each.
    pub(crate) fn longest_gap_us(&self, from: &BTreeMap<u32, usize>, most: usize) -> u64 {
        let after = |(cpu, reports): (&u32, &Vec<Report>)| {
            let from = from.get(cpu).copied().unwrap_or(0);
            reports.iter().skip(from).take(most).map(|report| report.gap_us).max()
        };
        self.reports.iter().filter_map(after).max().unwrap_or(0)
    }

    /// Pages that all vCPUs together touched a second, from the first to the last report of each
    /// after `from`. `None` when a vCPU has not reported twice.
    pub(crate) fn pages_per_second(&self, from: &BTreeMap<u32, usize>) -> Option<f64> {
        let of = |(cpu, reports): (&u32, &Vec<Report>)| {
            let reports = reports.get(from.get(cpu).copied().unwrap_or(0)..)?;
            let (first, last) = (reports.first()?, reports.last()?);
            let ms = last.uptime_ms.checked_sub(first.uptime_ms).filter(|ms| *ms > 0)?;
            Some((last.pages - first.pages) as f64 * 1e3 / ms as f64)
        };
        self.reports.iter().map(of).sum()
    }

    /// The stalls of all vCPUs in the reports after `from`.
    pub(crate) fn stalls(&self, from: &BTreeMap<u32, usize>) -> Stalls {
        let mut all = Stalls::default();
        for (cpu, reports) in &self.reports {
            let from = from.get(cpu).copied().unwrap_or(0);
            reports.iter().skip(from).for_each(|report| all.merge(&report.stalls));
        }
        all
    }

    /// Reads what is new.
    pub(crate) fn read(&mut self, process: &Process) -> Result<(), BenchError> {
        self.file.read_to_end(&mut self.partial).map_err(BenchError::system("read the serial output"))?;
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let bytes: Vec<_> = self.partial.drain(..=end).collect();
            let guest_error = |text: String| BenchError::Guest { process: process.label().to_owned(), text };
            match parse_line(&String::from_utf8_lossy(&bytes)) {
                Ok(Some(Line::Report(report))) => self.reports.entry(report.cpu).or_default().push(report),
                Ok(Some(Line::Ready(_))) => self.ready += 1,
                Ok(Some(Line::Error(fault) | Line::Fatal(fault))) => return Err(guest_error(fault.text)),
                Ok(_) => {}
                Err(error) => return Err(guest_error(error.to_string())),
            }
        }
        Ok(())
    }

    fn wait(
        &mut self,
        process: &mut Process,
        what: &str,
        within: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Result<(), BenchError> {
        let deadline = Instant::now() + within;
        loop {
            self.read(process)?;
            if done(self) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(process.late(what, within));
            }
            std::thread::sleep(POLL);
        }
    }

    fn count(&self, cpu: u32) -> usize {
        self.reports.get(&cpu).map_or(0, Vec::len)
    }
}

fn open(process: &Process) -> Result<File, BenchError> {
    File::open(process.serial()).map_err(BenchError::system(format!("open the serial output of {}", process.label())))
}
