//! Where a run of the matrix leaves its results: a file for each cell, so that cells may run in
//! processes and machines of their own, and the files of those that failed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ferry_report::matrix::{Cell, FORMAT, Matrix};

use super::catalogue;

/// A directory of results.
#[derive(Clone, Debug)]
pub struct Results(PathBuf);

impl Results {
    /// In the directory that `FERRY_MATRIX_OUT` names, else in `target/matrix`.
    #[must_use]
    pub fn from_environment() -> Self {
        let named = std::env::var_os("FERRY_MATRIX_OUT").map(PathBuf::from);
        Results(named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/matrix")))
    }

    /// In this directory.
    #[must_use]
    pub fn of(directory: PathBuf) -> Self {
        Results(directory)
    }

    /// Where the files of a failed cell are put.
    #[must_use]
    pub fn files_of(&self, name: &str) -> PathBuf {
        self.0.join("failed").join(name.replace('/', "_"))
    }

    /// Writes what a cell came to.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, cell: &Cell) -> io::Result<()> {
        let directory = self.0.join("cells");
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join(cell.name.replace('/', "_") + ".json"), serde_json::to_vec(cell)?)
    }

    /// All cells of this directory as one matrix.
    ///
    /// # Errors
    /// When one cannot be read, or there is none.
    pub fn gather(&self, command: String, seconds: f64) -> io::Result<Matrix> {
        let mut cells = Vec::new();
        for entry in std::fs::read_dir(self.0.join("cells"))? {
            let cell: Cell = serde_json::from_slice(&std::fs::read(entry?.path())?)?;
            cells.push(cell);
        }
        let place: Vec<_> = catalogue::all().iter().map(super::cell::Cell::name).collect();
        cells.sort_by_cached_key(|cell| {
            let known = place.iter().position(|name| cell.name.starts_with(name.as_str()));
            (known.unwrap_or(usize::MAX), cell.name.clone())
        });
        let seed = cells.first().map_or(0, |cell| cell.seed);
        Ok(Matrix {
            format: FORMAT.to_owned(),
            made: rfc_3339(SystemTime::now()),
            seed,
            host: host(),
            command,
            seconds,
            order: order(),
            cells,
        })
    }
}

/// The moments in the order in which a migration meets them; those that are not known here come
/// last.
fn order() -> Vec<String> {
    const KNOWN: [&str; 36] = [
        "throughout",
        "source:Connect",
        "connect",
        "source:WriteNonce",
        "Hello",
        "destination:CheckGreeting",
        "Refused",
        "HelloAck",
        "destination:ReceivePages",
        "source:SendRound",
        "bulk-connect",
        "first-pages",
        "Heartbeat",
        "round-end",
        "MarkerReached",
        "pages-20",
        "source:EndRound",
        "source:Snapshot",
        "Rehearse",
        "destination:Rehearse",
        "Rehearsed",
        "RehearsalFailed",
        "Cancel",
        "source:StopGuest",
        "source:Save",
        "source:SendLastPages",
        "half-Package",
        "Package",
        "urgent-connect",
        "destination:Load",
        "page-request",
        "urgent-page",
        "LoadFailed",
        "source:ResumeGuest",
        "Ready",
        "Permit",
    ];
    let mut order = KNOWN.map(str::to_owned).to_vec();
    for cell in catalogue::all() {
        let when = cell.when.to_string();
        if !order.contains(&when) {
            order.push(when);
        }
    }
    order
}

fn host() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease").trim().to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    format!("{cores} × {}, Linux {release}", model.trim_start_matches([' ', '\t', ':']))
}

/// UTC, to the second (RFC 3339); the calendar is Howard Hinnant's `civil_from_days`.
fn rfc_3339(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc_3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
