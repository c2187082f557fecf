//! What must be true of a guest's lines, one after the other: the core that
//! [`GuestLog`](super::GuestLog) and the fault matrix share.

use std::collections::BTreeMap;
use std::fmt;

use ferry_guest::Line;
use ferry_guest::lines::Report;

/// Something that is wrong with a guest's lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The guest itself says that something is wrong.
    Fault(String),
    /// A report was lost or repeated.
    Sequence(String),
    /// A count or a clock went back.
    Backwards(String),
}

/// Where each vCPU of a guest is in its reports.
#[derive(Clone, Debug, Default)]
pub struct Account {
    newest: BTreeMap<u32, Report>,
}

impl Account {
    /// The newest report of each vCPU in this life of the guest.
    #[must_use]
    pub fn newest(&self) -> &BTreeMap<u32, Report> {
        &self.newest
    }

    /// Takes the next line, and tells what is wrong with it.
    pub fn take(&mut self, line: &Line) -> Vec<Finding> {
        match line {
            // A reset begins a new life.
            Line::Boot(_) => self.newest.clear(),
            Line::Report(report) => return self.follow(report),
            Line::Error(fault) | Line::Fatal(fault) => {
                return vec![Finding::Fault(format!("the guest reports on vCPU {}: {}", fault.cpu, fault.text))];
            }
            Line::End(end) if end.errors > 0 => {
                return vec![Finding::Fault(format!("the guest ended with {} errors", end.errors))];
            }
            _ => {}
        }
        vec![]
    }

    fn follow(&mut self, report: &Report) -> Vec<Finding> {
        let at = format!("report {} of vCPU {}", report.sequence, report.cpu);
        let before = self.newest.insert(report.cpu, report.clone()).unwrap_or_default();
        let mut found = Vec::new();
        if report.sequence != before.sequence + 1 {
            let why = format!("{at} follows report {}: a report was lost or repeated", before.sequence);
            found.push(Finding::Sequence(why));
        }
        let counts = [
            ("pages", before.pages, report.pages),
            ("timer ticks", before.ticks, report.ticks),
            ("the TSC", before.uptime_ms, report.uptime_ms),
            ("kvmclock", before.kvmclock_ms.unwrap_or(0), report.kvmclock_ms.unwrap_or(0)),
            ("disk requests", before.disk_requests, report.disk_requests),
        ];
        let back = counts.iter().filter(|(_, old, new)| new < old);
        found.extend(
            back.map(|(what, old, new)| Finding::Backwards(format!("{at}: {what} went back from {old} to {new}"))),
        );
        if report.errors > 0 {
            found.push(Finding::Fault(format!("{at}: {} errors", report.errors)));
        }
        found
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Finding::Fault(text) | Finding::Sequence(text) | Finding::Backwards(text)) = self;
        f.write_str(text)
    }
}
