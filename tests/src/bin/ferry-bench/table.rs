//! The table that people read: ratios first, then the medians behind them.

use std::fmt::Write;

use crate::account::{Account, Size};
use crate::peer::Kind;
use crate::statistics::median;
use crate::{migration, postcopy, startup};

const FERRY: &str = Kind::Ferry.name();
const QEMU: &str = Kind::Qemu.name();

/// All tables.
pub fn render(account: &Account) -> String {
    let mut text = String::new();
    let versions: Vec<_> = account.versions.values().map(String::as_str).collect();
    let _ = writeln!(text, "{}\n{}", account.host, versions.join("; "));
    let _ = writeln!(text, "guests with {} vCPU; medians of {} runs, taken in turns", account.cpus, account.runs);
    for size in &account.sizes {
        let _ = writeln!(text, "\n{} MiB ({} under ferry), {}", size.memory >> 20, size.backing, size.load);
        let (head, rows) = match size.postcopies.is_empty() {
            true => (HEAD, migrations(size)),
            false => (POSTCOPY_HEAD, postcopies(size)),
        };
        text += head;
        for row in rows {
            text += &row.render();
        }
    }
    if !account.starts.is_empty() {
        let _ = writeln!(text, "\nstart of a 1024 MiB guest, medians of {} starts", account.starts[FERRY].len());
        text += HEAD;
        for row in starts(account) {
            text += &row.render();
        }
    }
    text
}

const HEAD: &str = "                          ferry/QEMU  ferry/limit       ferry        QEMU       limit\n";

const POSTCOPY_HEAD: &str = "  by postcopy             ferry/QEMU ferry/preempt      ferry        QEMU     preempt\n";

struct Row {
    name: &'static str,
    unit: &'static str,
    ferry: Option<f64>,
    qemu: Option<f64>,
    /// What the host could do at best; in postcopy, QEMU's other way.
    limit: Option<f64>,
}

impl Row {
    fn render(&self) -> String {
        let ratio = |other: Option<f64>| match (self.ferry, other) {
            (Some(ferry), Some(other)) if other > 0.0 => format!("{:.2}", ferry / other),
            _ => "-".to_owned(),
        };
        let value =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{} {}", digits(value), self.unit));
        format!(
            "  {:<22} {:>11} {:>12} {:>11} {:>11} {:>11}\n",
            self.name,
            ratio(self.qemu),
            ratio(self.limit),
            value(self.ferry),
            value(self.qemu),
            value(self.limit)
        )
    }
}

/// Three significant digits or so.
fn digits(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

fn migrations(size: &Size) -> Vec<Row> {
    let of = |name: &str, field: fn(&migration::Sample) -> f64| median(size.migrations.get(name)?.iter().map(field));
    let row = |name, unit, field: fn(&migration::Sample) -> f64, limit| Row {
        name,
        unit,
        ferry: of(FERRY, field),
        qemu: of(QEMU, field),
        limit,
    };
    let gigabytes = |ms: f64, bytes: u64| bytes as f64 / 1e6 / ms;
    let fresh_ms = median(size.copies.iter().map(|copy| copy.fresh_ms));
    let touched_ms = median(size.copies.iter().map(|copy| copy.touched_ms));
    let fresh_rate = median(size.copies.iter().map(|copy| gigabytes(copy.fresh_ms, copy.bytes)));
    let touched_rate = median(size.copies.iter().map(|copy| gigabytes(copy.touched_ms, copy.bytes)));
    vec![
        row("total time", "ms", |s| s.total_ms, fresh_ms),
        row("  into touched memory", "ms", |s| s.total_ms, touched_ms),
        row("  by the bench's clock", "ms", |s| s.observed_ms, None),
        row("downtime", "ms", |s| s.downtime_ms, None),
        row("guest's longest gap", "ms", |s| s.gap_ms, None),
        row("  before the stop", "ms", |s| s.gap_before_ms, None),
        row("moved a second", "GB", migration::Sample::gigabytes_per_second, fresh_rate),
        row("  into touched memory", "GB", migration::Sample::gigabytes_per_second, touched_rate),
        row("moved", "GB", |s| s.bytes as f64 / 1e9, None),
        row("rounds", "", |s| s.rounds as f64, None),
    ]
}

fn postcopies(size: &Size) -> Vec<Row> {
    let row = |name, unit, field: fn(&postcopy::Sample) -> Option<f64>| {
        let of = |name: &str| median(size.postcopies.get(name)?.iter().filter_map(field));
        Row { name, unit, ferry: of(FERRY), qemu: of(QEMU), limit: of(postcopy::PREEMPT) }
    };
    vec![
        row("total time", "ms", |s| Some(s.total_ms)),
        row("  by the bench's clock", "ms", |s| Some(s.observed_ms)),
        row("downtime", "ms", |s| s.downtime_ms),
        row("guest's longest gap", "ms", |s| Some(s.gap_ms)),
        row("  until the end", "ms", |s| Some(s.longest_gap_ms)),
        row("pages asked for", "", |s| Some(s.requests as f64)),
        row("guest: one, p50", "µs", |s| s.missing.p50_us),
        row("  one, p99", "µs", |s| s.missing.p99_us),
        row("  all", "ms", |s| Some(s.missing.total_ms)),
        row("  with other stalls", "ms", |s| Some(s.stalls.total_ms)),
        row("destination: one, p50", "µs", |s| s.waits.p50_us),
        row("  one, p99", "µs", |s| s.waits.p99_us),
        row("  one, mean", "µs", |s| s.waits.mean_us),
        row("  all", "ms", |s| s.waits.total_ms),
        row("moved", "GB", |s| Some(s.bytes as f64 / 1e9)),
    ]
}

fn starts(account: &Account) -> Vec<Row> {
    let of = |name: &str, field: fn(&startup::Sample) -> f64| median(account.starts.get(name)?.iter().map(field));
    let row = |name, unit, field: fn(&startup::Sample) -> f64| Row {
        name,
        unit,
        ferry: of(FERRY, field),
        qemu: of(QEMU, field),
        limit: None,
    };
    vec![
        row("first serial byte", "ms", |s| s.first_byte_ms),
        row("memory of the VMM", "MiB", |s| s.overhead_kib as f64 / 1024.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_come_first_and_gaps_are_dashes() {
        let row = Row { name: "total time", unit: "ms", ferry: Some(50.0), qemu: Some(200.0), limit: None };
        let words: Vec<_> = row.render().split_whitespace().map(str::to_owned).collect();
        assert_eq!(words, ["total", "time", "0.25", "-", "50.0", "ms", "200", "ms", "-"]);
    }
}
