//! Follows one guest through the serial output of every process that it visits, and checks what it
//! says.
//!
//! A guest may leave in the middle of a line: its first half is then in the source's file and its
//! second half in the destination's. So the files are read as one stream, and a line lost or
//! repeated by a migration shows as a gap or a repetition in the guest's own sequence numbers.

pub mod account;
pub mod stream;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferry_guest::Line;
use ferry_guest::lines::{Boot, End, Report};

use self::account::{Account, Finding};
use self::stream::Stream;
use crate::Ferry;
use crate::wait::{LONG, SOON, wait_until};

/// One guest's serial output.
#[derive(Debug)]
pub struct GuestLog {
    cpus: u32,
    file: File,
    path: PathBuf,
    /// Files of processes that the guest has left, with the length that they had then.
    left: Vec<(PathBuf, u64)>,
    stream: Stream,
    lines: Vec<Line>,
    account: Account,
    accept_faults: bool,
    recent_gap_us: u64,
}

impl GuestLog {
    /// Follows the guest that starts in `ferry`, with this many vCPUs.
    ///
    /// # Panics
    /// When the serial output cannot be opened.
    #[must_use]
    pub fn new(ferry: &Ferry, cpus: u32) -> Self {
        Self::follow_file(ferry.serial(), cpus)
    }

    fn follow_file(path: &Path, cpus: u32) -> Self {
        let path = path.to_owned();
        let file = open(&path);
        GuestLog {
            cpus,
            file,
            path,
            left: vec![],
            stream: Stream::default(),
            lines: vec![],
            account: Account::default(),
            accept_faults: false,
            recent_gap_us: 0,
        }
    }

    /// Keeps errors of the guest in [`GuestLog::lines`] in place of failing the test at once.
    pub fn accept_faults(&mut self) {
        self.accept_faults = true;
    }

    /// The guest has left its process and is in `ferry` now.
    ///
    /// # Panics
    /// When the serial output cannot be opened.
    pub fn moved_to(&mut self, ferry: &Ferry) {
        self.go_on_in(ferry.serial());
    }

    fn go_on_in(&mut self, path: &Path) {
        self.read();
        let len = self.path.metadata().expect("the file is there").len();
        self.file = open(path);
        self.left.push((std::mem::replace(&mut self.path, path.to_owned()), len));
    }

    /// Reads what is new, and checks it.
    ///
    /// # Panics
    /// When the guest reported an error, or a report is missing, repeated or impossible.
    pub fn read(&mut self) -> &[Line] {
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes).expect("serial output can be read");
        self.stream.add(&bytes);
        while let Some(line) = self.stream.next_line() {
            self.take(line.unwrap_or_else(|error| panic!("{}: {error}", self.path.display())));
        }
        &self.lines
    }

    fn take(&mut self, line: Line) {
        if let Line::Report(report) = &line {
            self.recent_gap_us = self.recent_gap_us.max(report.gap_us);
        }
        for finding in self.account.take(&line) {
            let accepted = self.accept_faults && matches!(finding, Finding::Fault(_));
            assert!(accepted, "{}: {finding}", self.path.display());
        }
        self.lines.push(line);
    }

    /// Waits until `find` has a value, looking whenever the guest has said more.
    ///
    /// # Panics
    /// At the deadline, or when the guest reported an error.
    pub fn wait<T>(&mut self, what: &str, within: Duration, mut find: impl FnMut(&GuestLog) -> Option<T>) -> T {
        let what = format!("{what} in {}", self.path.display());
        wait_until(&what, within, || {
            self.read();
            find(self)
        })
    }

    /// Waits for the guest's first line.
    ///
    /// # Panics
    /// When it does not come in time.
    pub fn wait_boot(&mut self) -> Boot {
        self.wait("the boot line", SOON, |log| {
            log.lines.iter().find_map(|line| if let Line::Boot(boot) = line { Some(boot.clone()) } else { None })
        })
    }

    /// Waits until every vCPU has filled its working set.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn wait_ready(&mut self) {
        self.wait("every vCPU to be ready", LONG, |log| {
            let ready = log.lines.iter().filter(|line| matches!(line, Line::Ready(_))).count();
            (ready >= log.cpus as usize).then_some(())
        });
    }

    /// Waits until every vCPU has reported this often more than now, and has touched pages and had
    /// timer ticks meanwhile.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn wait_reports(&mut self, more: u64) {
        self.read();
        let before = self.account.newest().clone();
        let cpus = self.cpus;
        self.wait(&format!("{more} more reports of every vCPU"), SOON, |log| {
            (0..cpus)
                .all(|cpu| {
                    let old = before.get(&cpu).cloned().unwrap_or_default();
                    log.account.newest().get(&cpu).is_some_and(|new| {
                        new.sequence >= old.sequence + more && new.pages > old.pages && new.ticks > old.ticks
                    })
                })
                .then_some(())
        });
    }

    /// Waits for the guest's last line.
    ///
    /// # Panics
    /// When it does not come in time.
    pub fn wait_end(&mut self) -> End {
        self.wait("the guest's last line", SOON, |log| {
            log.lines.iter().find_map(|line| if let Line::End(end) = line { Some(end.clone()) } else { None })
        })
    }

    /// How many times the guest has booted.
    #[must_use]
    pub fn boots(&self) -> usize {
        self.lines.iter().filter(|line| matches!(line, Line::Boot(_))).count()
    }

    /// The newest report of a vCPU.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn newest(&self, cpu: u32) -> &Report {
        self.account.newest().get(&cpu).unwrap_or_else(|| panic!("vCPU {cpu} has not reported"))
    }

    /// The longest gap that any vCPU saw since it was ready, in µs.
    #[must_use]
    pub fn worst_gap_us(&self) -> u64 {
        self.account.newest().values().map(|report| report.worst_gap_us).max().unwrap_or(0)
    }

    /// The longest gap in the reports since this was last asked, in µs.
    pub fn take_recent_gap_us(&mut self) -> u64 {
        std::mem::take(&mut self.recent_gap_us)
    }

    /// All lines so far.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Checks that no process that the guest has left has said anything since: only one side may
    /// run it.
    ///
    /// # Panics
    /// When one has.
    pub fn assert_ran_in_one_place(&self) {
        for (path, len) in &self.left {
            let now = path.metadata().expect("the file is there").len();
            assert_eq!(now, *len, "the guest ran on at {} after it had left", path.display());
        }
    }
}

fn open(path: &Path) -> File {
    File::open(path).unwrap_or_else(|error| panic!("serial output {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(sequence: u64, errors: u64) -> String {
        let report = Report { sequence, pages: sequence * 10, ticks: sequence, errors, ..Report::default() };
        let line: Line = Line::Report(report);
        format!("{line}\r\n")
    }

    /// A guest that said `first` in one process and `second` in the next.
    fn follow(first: &str, second: &str) -> GuestLog {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["first", "second"].map(|name| directory.path().join(name));
        std::fs::write(&paths[0], first).unwrap();
        std::fs::write(&paths[1], second).unwrap();
        let mut log = GuestLog::follow_file(&paths[0], 1);
        log.go_on_in(&paths[1]);
        log.read();
        log.assert_ran_in_one_place();
        log
    }

    #[test]
    fn a_line_may_begin_in_one_process_and_end_in_another() {
        let text = report(1, 0) + &report(2, 0);
        for at in 0..text.len() {
            let log = follow(&text[..at], &text[at..]);
            assert_eq!(log.newest(0).sequence, 2, "cut at {at}");
        }
    }

    #[test]
    #[should_panic(expected = "lost or repeated")]
    fn a_lost_report_is_noticed() {
        let _ = follow(&report(1, 0), &report(3, 0));
    }

    #[test]
    #[should_panic(expected = "lost or repeated")]
    fn a_repeated_report_is_noticed() {
        let _ = follow(&report(1, 0), &report(1, 0));
    }

    #[test]
    #[should_panic(expected = "2 errors")]
    fn counted_errors_are_noticed() {
        let _ = follow(&report(1, 0), &report(2, 2));
    }

    #[test]
    #[should_panic(expected = "page 7 is torn")]
    fn an_error_line_is_noticed() {
        let _ = follow(&report(1, 0), "ferry error c=0 u=17 page 7 is torn\r\n");
    }

    #[test]
    #[should_panic(expected = "does not parse")]
    fn a_line_that_lost_its_middle_is_noticed() {
        let text = report(1, 0);
        let _ = follow(&text[..20], &text[30..]);
    }

    #[test]
    #[should_panic(expected = "after it had left")]
    fn a_source_that_runs_on_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["first", "second"].map(|name| directory.path().join(name));
        paths.iter().for_each(|path| std::fs::write(path, "").unwrap());
        let mut log = GuestLog::follow_file(&paths[0], 1);
        log.go_on_in(&paths[1]);
        std::fs::write(&paths[0], report(1, 0)).unwrap();
        log.assert_ran_in_one_place();
    }

    #[test]
    fn a_reset_in_the_middle_of_a_line_begins_a_new_life() {
        let boot = "ferry boot cpus=1 mem=1 ws=1 khz=1 tsc=unknown simd=off kvmclock=0 timer=deadline disk=none\r\n";
        let log = follow(&(report(1, 0) + "ferry r c=0 s="), &(boot.to_owned() + &report(1, 0)));
        assert_eq!((log.boots(), log.newest(0).sequence), (1, 1));
    }
}
