//! What the guest said in a cell: the serial output of all processes as one stream, in the order
//! of its visits.

use ferry_guest::Line;

use crate::guest::account::{Account, Finding};
use crate::guest::stream::Stream;
use crate::matrix::evidence::Evidence;

/// What was found in it.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Reports of all vCPUs.
    pub reports: usize,
    /// How often the guest has booted.
    pub boots: usize,
    /// What is wrong with a line, and the process in whose output it ended.
    pub findings: Vec<(String, Finding)>,
    /// Lines that are not whole, with the process in whose output they ended.
    pub mangled: Vec<(String, String)>,
}

/// Reads the guest's output.
#[must_use]
pub(super) fn of(evidence: &Evidence) -> Words {
    let (mut stream, mut account, mut words) = (Stream::default(), Account::default(), Words::default());
    for process in &evidence.processes {
        stream.add(process.serial.as_bytes());
        while let Some(line) = stream.next_line() {
            let line = match line {
                Ok(line) => line,
                Err(error) => {
                    words.mangled.push((process.label.clone(), error.to_string()));
                    continue;
                }
            };
            words.reports += usize::from(matches!(line, Line::Report(_)));
            words.boots += usize::from(matches!(line, Line::Boot(_)));
            let found = account.take(&line).into_iter().map(|finding| (process.label.clone(), finding));
            words.findings.extend(found);
        }
    }
    words
}
