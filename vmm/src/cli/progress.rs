//! The progress of a migration: one live line on a terminal, a line for each change elsewhere.
//!
//! `ferry migrate` and `ferry demo` feed it the replies of `query-migrate`.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use ferry_migration::info::RamStats;
use ferry_migration::{MigrationInfo, Status};
use indicatif::{ProgressBar, ProgressStyle};

use super::style::Style;
use super::units;

/// Between two lines of the same phase and round, where lines do not replace each other.
const QUIET: Duration = Duration::from_secs(1);

/// Shows one migration on standard error.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    last: Option<(Status, u64, Instant)>,
}

impl Progress {
    /// For standard error: live on a terminal, else line by line.
    #[must_use]
    pub(super) fn new() -> Self {
        Progress { bar: stderr().is_terminal().then(live_bar), last: None }
    }

    /// Shows the state of the migration.
    pub(super) fn show(&mut self, info: &MigrationInfo) {
        let status = info.status.unwrap_or_default();
        let ram = info.ram.clone().unwrap_or_default();
        if let Some(bar) = &self.bar {
            bar.set_length(ram.total.max(1));
            bar.set_position(ram.total.saturating_sub(ram.remaining));
            bar.set_prefix(format!("{:<10}", status.as_str()));
            bar.set_message(details(info, &ram));
            return;
        }
        let now = Instant::now();
        let same = self.last.is_some_and(|(before, round, at)| {
            (before, round) == (status, ram.dirty_sync_count) && now.duration_since(at) < QUIET
        });
        if !same {
            self.last = Some((status, ram.dirty_sync_count, now));
            let line = format!("  {:<10} {}", status.as_str(), details(info, &ram));
            crate::stderr::say(line.trim_end());
        }
    }

    /// Prints a text without disturbing the live line.
    pub(super) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => crate::stderr::say(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

fn live_bar() -> ProgressBar {
    let colour = if Style::stderr().is_coloured() { ".cyan/dim" } else { "" };
    let template = format!("  {{prefix}} {{bar:24{colour}}} {{msg}}");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(1).with_style(style.progress_chars("━╸─"))
}

/// Round, bytes left, rates, and the expected downtime.
fn details(info: &MigrationInfo, ram: &RamStats) -> String {
    let mut parts = Vec::new();
    if ram.dirty_sync_count > 0 {
        parts.push(format!("round {}", ram.dirty_sync_count));
        parts.push(format!("{} left", units::bytes(ram.remaining)));
    }
    if ram.mbps > 0.0 {
        let (link, pages) = ((ram.mbps * 1e6 / 8.0) as u64, ram.pages_per_second.saturating_mul(ram.page_size));
        parts.push(format!("{}/s", units::bytes(link)));
        if pages > link + link / 10 {
            // The rate of dirtied pages is to be compared with this.
            parts.push(format!("{}/s of pages", units::bytes(pages)));
        }
    }
    if ram.dirty_pages_rate > 0 {
        parts.push(format!("{}/s dirtied", units::bytes(ram.dirty_pages_rate.saturating_mul(ram.page_size))));
    }
    if let Some(percentage) = info.cpu_throttle_percentage {
        parts.push(format!("vCPUs throttled {percentage} %"));
    }
    if let Some(expected) = info.expected_downtime.filter(|ms| *ms > 0 && info.status == Some(Status::Active)) {
        parts.push(format!("downtime now {}", units::millis(expected)));
    }
    parts.join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_what_is_known_and_nothing_else() {
        let mut info = MigrationInfo { status: Some(Status::Active), ..MigrationInfo::default() };
        assert_eq!(details(&info, &RamStats::default()), "");
        info.expected_downtime = Some(12);
        let ram = RamStats {
            dirty_sync_count: 2,
            remaining: 3 << 20,
            mbps: 8.388_608,
            dirty_pages_rate: 256,
            page_size: 4096,
            ..RamStats::default()
        };
        let line = "round 2 · 3.0 MiB left · 1.0 MiB/s · 1.0 MiB/s dirtied · downtime now 12 ms";
        assert_eq!(details(&info, &ram), line);
        info.cpu_throttle_percentage = Some(30);
        let line = line.replace("downtime", "vCPUs throttled 30 % · downtime");
        assert_eq!(details(&info, &ram), line);
    }
}
