//! The summary of a migration: its duration, the downtime with its parts, and the amount sent.

use std::fmt::Write;

use ferry_link::endpoint::Endpoint;
use ferry_migration::info::{Downtime, PostcopyStats, RamStats};
use ferry_migration::{MigrationInfo, Status};

use super::style::{Style, bar};
use super::units;

/// Cells of the longest bar.
const BAR_WIDTH: u64 = 24;

/// The account of a completed migration, several lines.
#[must_use]
pub(super) fn completed(info: &MigrationInfo, to: &Endpoint, style: Style) -> String {
    let mut text = String::new();
    let took = info.total_time.map(|ms| format!(" in {}", units::millis(ms))).unwrap_or_default();
    let _ = writeln!(text, "{} to {to}{took}", style.good("Moved"));
    numbers(&mut text, info, style);
    text
}

/// The numbers alone: downtime with its parts, memory, handshake. For a summary with a headline of
/// its own.
pub(super) fn numbers(text: &mut String, info: &MigrationInfo, style: Style) {
    downtime(text, info, style);
    let ram = info.ram.as_ref();
    let is_handed_over = info.x_ferry_local && info.status == Some(Status::Completed);
    if let Some(ram) = ram.filter(|_| is_handed_over) {
        line(text, style, "memory", &format!("{} handed over, no page copied", units::bytes(ram.total)));
    }
    if let Some(ram) = ram.filter(|ram| ram.transferred > 0) {
        let incoming = info.x_ferry_direction.as_deref() == Some("incoming");
        memory(text, ram, if incoming { "received" } else { "sent" }, info.total_time, style);
    }
    if let Some(highest) = info.x_ferry_cpu_throttle_highest {
        line(text, style, "throttled", &format!("up to {highest} % of the vCPUs' time"));
    }
    if let Some(postcopy) = &info.x_ferry_postcopy {
        self::postcopy(text, postcopy, info.ram.as_ref().map_or(0, |ram| ram.postcopy_requests), style);
    }
    if let Some(handshake) = &info.x_ferry_handshake {
        let why = info.x_ferry_handshake_why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        line(text, style, "handshake", &format!("{}{why}", handshake.as_str()));
    }
}

fn downtime(text: &mut String, info: &MigrationInfo, style: Style) {
    let parts = info.x_ferry_downtime;
    let whole_us = info.x_ferry_downtime_us.or(parts.map(|p| p.total_us())).or(info.downtime.map(|ms| ms * 1_000));
    let Some(whole_us) = whole_us else { return };
    line(text, style, "downtime", &style.bold(&units::micros(whole_us)));
    let Some(parts) = parts else { return };
    for (name, us) in named(&parts) {
        let part =
            format!("    {name:<14} {:>9}  {}", units::micros(us), style.accent(&bar(us, parts.total_us(), BAR_WIDTH)));
        let _ = writeln!(text, "{}", part.trim_end());
    }
}

/// The parts of a downtime in order of time.
fn named(parts: &Downtime) -> [(&'static str, u64); 7] {
    [
        ("stop", parts.stop_us),
        ("last pages", parts.last_pages_us),
        ("save devices", parts.device_save_us),
        ("send package", parts.package_transfer_us),
        ("load devices", parts.load_us),
        ("permit", parts.permit_us),
        ("start", parts.start_us),
    ]
}

fn memory(text: &mut String, ram: &RamStats, moved: &str, total_ms: Option<u64>, style: Style) {
    let rounds = match ram.dirty_sync_count {
        0 => String::new(),
        1 => " in 1 round".to_owned(),
        rounds => format!(" in {rounds} rounds"),
    };
    let rate = total_ms.filter(|ms| *ms > 0).map(|ms| ram.transferred.saturating_mul(1000) / ms);
    let rate = rate.map(|rate| format!(" at {}/s", units::bytes(rate))).unwrap_or_default();
    line(text, style, moved, &format!("{}{rounds}{rate}", units::bytes(ram.transferred)));
    let (normal, zero) = (units::count(ram.normal), units::count(ram.duplicate));
    line(text, style, "pages", &format!("{normal} {moved}, {zero} zero"));
    if ram.dirty_pages_rate > 0 {
        let bytes = units::bytes(ram.dirty_pages_rate.saturating_mul(ram.page_size));
        line(text, style, "dirty rate", &format!("{} pages/s ({bytes}/s)", units::count(ram.dirty_pages_rate)));
    }
}

fn postcopy(text: &mut String, stats: &PostcopyStats, requests: u64, style: Style) {
    let (all, asked) = (units::count(stats.received_pages + stats.missing_pages), units::count(requests));
    line(text, style, "postcopy", &format!("{all} pages followed the guest, {asked} of them asked for"));
    if let Some(waits) = stats.waits.as_ref().filter(|waits| waits.count > 0) {
        let [p50, p99, longest, total] =
            [waits.p50_us, waits.p99_us, waits.longest_us, waits.total_us].map(units::micros);
        line(text, style, "waits", &format!("p50 {p50}, p99 {p99}, longest {longest}, together {total}"));
    }
}

fn line(text: &mut String, style: Style, name: &str, value: &str) {
    let _ = writeln!(text, "  {} {value}", style.dim(&format!("{name:<10}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_names_every_part_of_the_downtime() {
        let downtime = Downtime { stop_us: 400, last_pages_us: 8_000, load_us: 1_600, ..Downtime::default() };
        let info = MigrationInfo {
            total_time: Some(2_000),
            x_ferry_downtime: Some(downtime),
            x_ferry_downtime_us: Some(10_000),
            ram: Some(RamStats {
                transferred: 1 << 30,
                normal: 262_144,
                duplicate: 1_000,
                dirty_sync_count: 3,
                ..RamStats::default()
            }),
            x_ferry_cpu_throttle_highest: Some(40),
            ..MigrationInfo::default()
        };
        let to = "tcp:[::1]:5".parse().unwrap();
        let text = completed(&info, &to, Style::plain());
        let expected = "\
Moved to tcp:[::1]:5 in 2.00 s
  downtime   10.0 ms
    stop              400 µs  █
    last pages        8.0 ms  ███████████████████▎
    save devices        0 µs
    send package        0 µs
    load devices      1.6 ms  ███▉
    permit              0 µs
    start               0 µs
  sent       1.0 GiB in 3 rounds at 512 MiB/s
  pages      262,144 sent, 1,000 zero
  throttled  up to 40 % of the vCPUs' time
";
        assert_eq!(text, expected);
    }

    #[test]
    fn memory_that_was_handed_over_is_told() {
        let ram = RamStats { total: 4 << 30, ..RamStats::default() };
        let status = Some(Status::Completed);
        let mut info = MigrationInfo { status, ram: Some(ram), x_ferry_local: true, ..MigrationInfo::default() };
        let text = completed(&info, &"unix:/p".parse().unwrap(), Style::plain());
        assert_eq!(text, "Moved to unix:/p\n  memory     4.0 GiB handed over, no page copied\n");
        info.status = Some(Status::Failed);
        let mut text = String::new();
        numbers(&mut text, &info, Style::plain());
        assert_eq!(text, "", "it stayed where it was");
    }

    #[test]
    fn a_handshake_that_was_not_to_be_expected_is_explained() {
        let why = Some("the destination does not see the record".to_owned());
        let info = MigrationInfo {
            x_ferry_handshake: Some(ferry_migration::Handshake::Setup),
            x_ferry_handshake_why: why,
            ..MigrationInfo::default()
        };
        let text = completed(&info, &"unix:/p".parse().unwrap(), Style::plain());
        assert_eq!(text, "Moved to unix:/p\n  handshake  setup: the destination does not see the record\n");
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let to = "unix:/p".parse().unwrap();
        assert_eq!(completed(&MigrationInfo::default(), &to, Style::plain()), "Moved to unix:/p\n");
    }
}
