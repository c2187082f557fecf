//! The guest's reports on its serial port, followed from process to process.
//!
//! The guest's counters live in its memory, so they go on counting wherever it runs; its output
//! goes to a file of the process that runs it. A line that was begun in one process and ended in
//! the next is put together again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ferry_guest::lines::{Fault, Report};
use ferry_guest::{Line, parse_line};

/// The guest's output, read as it grows.
#[derive(Debug, Default)]
pub(super) struct GuestLog {
    file: Option<(PathBuf, File)>,
    partial: Vec<u8>,
    newest: BTreeMap<u32, Report>,
    gap_us: u64,
    ready: usize,
    complaint: Option<String>,
    lines: u64,
}

/// The newest reports of all vCPUs, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// vCPUs that have reported.
    pub cpus: usize,
    /// Pages touched.
    pub pages: u64,
    /// Disk requests completed.
    pub disk_requests: u64,
    /// Errors noticed.
    pub errors: u64,
    /// Longest gap between two touches since [`GuestLog::begin_act`], in µs.
    pub gap_us: u64,
    /// Longest gap between two touches since the guest is ready, in µs.
    pub worst_gap_us: u64,
    /// Milliseconds since boot.
    pub uptime_ms: u64,
}

impl GuestLog {
    /// Continues reading in another file from its beginning, or in the present file where it was.
    pub(super) fn follow(&mut self, path: &Path) -> io::Result<()> {
        self.read()?;
        if self.file.as_ref().is_none_or(|(present, _)| present != path) {
            self.file = Some((path.to_owned(), File::open(path)?));
        }
        Ok(())
    }

    /// Reads the output written since the last call.
    pub(super) fn read(&mut self) -> io::Result<()> {
        let Some((_, file)) = &mut self.file else { return Ok(()) };
        file.read_to_end(&mut self.partial)?;
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.take(&String::from_utf8_lossy(&line));
        }
        Ok(())
    }

    /// Resets the longest gap, so that the next account covers only the time from now on.
    pub(super) fn begin_act(&mut self) {
        self.gap_us = 0;
    }

    /// The guest's counters.
    #[must_use]
    pub(super) fn account(&self) -> Account {
        let mut sum = Account { cpus: self.newest.len(), gap_us: self.gap_us, ..Account::default() };
        for report in self.newest.values() {
            sum.pages += report.pages;
            sum.disk_requests += report.disk_requests;
            sum.errors += report.errors;
            sum.worst_gap_us = sum.worst_gap_us.max(report.worst_gap_us);
            sum.uptime_ms = sum.uptime_ms.max(report.uptime_ms);
        }
        sum
    }

    /// How many vCPUs have filled their part of the working set.
    #[must_use]
    pub(super) fn ready(&self) -> usize {
        self.ready
    }

    /// How many lines the guest has printed.
    #[must_use]
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    /// The first error that the guest reported, if any.
    #[must_use]
    pub(super) fn complaint(&self) -> Option<&str> {
        self.complaint.as_deref()
    }

    fn take(&mut self, line: &str) {
        self.lines += 1;
        let told = |fault: Fault<String>| format!("vCPU {} at {} ms: {}", fault.cpu, fault.uptime_ms, fault.text);
        let complaint = match parse_line(line) {
            Ok(Some(Line::Report(report))) => {
                self.gap_us = self.gap_us.max(report.gap_us);
                self.newest.insert(report.cpu, report);
                return;
            }
            Ok(Some(Line::Ready(_))) => {
                self.ready += 1;
                return;
            }
            Ok(Some(Line::Error(fault) | Line::Fatal(fault))) => told(fault),
            Ok(_) => return,
            Err(error) => error.to_string(),
        };
        self.complaint.get_or_insert(complaint);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;

    fn report(cpu: u32, pages: u64, worst_gap_us: u64) -> String {
        Line::Report(Report { cpu, pages, worst_gap_us, uptime_ms: pages, ..Report::default() }).to_string()
    }

    #[test]
    fn counters_and_broken_lines_go_on_in_the_next_file() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("1"), dir.path().join("2"));
        let line = report(1, 20, 7);
        let (head, tail) = line.split_at(line.len() / 2);
        std::fs::write(&first, format!("{}\r\n{}\n{head}", report(0, 10, 3), report(1, 5, 5))).unwrap();
        std::fs::write(&second, format!("{tail}\n")).unwrap();
        let mut log = GuestLog::default();
        log.follow(&first).unwrap();
        log.read().unwrap();
        let before = Account { cpus: 2, pages: 15, worst_gap_us: 5, uptime_ms: 10, ..Account::default() };
        assert_eq!(log.account(), before);
        log.follow(&second).unwrap();
        log.read().unwrap();
        assert_eq!(log.account(), Account { pages: 30, worst_gap_us: 7, uptime_ms: 20, ..before });
        writeln!(OpenOptions::new().append(true).open(&second).unwrap(), "{}", report(0, 11, 3)).unwrap();
        log.read().unwrap();
        assert_eq!((log.account().pages, log.lines(), log.complaint()), (31, 4, None));
        log.follow(&second).unwrap();
        log.read().unwrap();
        assert_eq!(log.lines(), 4, "nothing is read twice");
    }

    #[test]
    fn what_the_guest_finds_wrong_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let error = Line::Error(Fault { cpu: 1, uptime_ms: 9, text: "page 3 is stale".to_owned() });
        std::fs::write(&path, format!("{error}\nferry nonsense\n")).unwrap();
        let mut log = GuestLog::default();
        log.follow(&path).unwrap();
        log.read().unwrap();
        assert_eq!(log.complaint(), Some("vCPU 1 at 9 ms: page 3 is stale"));
    }
}
