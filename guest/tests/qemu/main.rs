//! Runs the guest on a VMM that is not Ferry: QEMU's microvm, which boots it by the same PVH note
//! and gives it the same devices.
//!
//! Where QEMU is not installed, or there is no KVM, each test prints a line that says so, and
//! passes.

mod harness;

use std::fs::File;
use std::os::unix::fs::FileExt;

use ferry_guest::lines::Disk as DiskKind;
use ferry_guest::workload::{Exit, Order, Rate, Switch};
use ferry_guest::{Line, Workload};
use harness::{Disk, Guest, Setup};

/// What `isa-debug-exit` makes of the byte that the guest writes.
const QEMU_SHUTDOWN: i32 = 1;
const QEMU_REBOOT: i32 = 3;

fn quick(cpus: u32) -> Workload {
    Workload { cpus, report_ms: 100, ..Workload::default() }
}

fn errors(lines: &[Line]) -> Vec<&str> {
    let faults = lines.iter().filter_map(|line| match line {
        Line::Error(fault) | Line::Fatal(fault) => Some(fault),
        _ => None,
    });
    faults.map(|fault| fault.text.as_str()).collect()
}

fn ready(line: &Line) -> Option<()> {
    matches!(line, Line::Ready(_)).then_some(())
}

fn error(line: &Line) -> Option<String> {
    if let Line::Error(fault) = line { Some(fault.text.clone()) } else { None }
}

#[test]
fn two_vcpus_and_a_disk_work_without_error_until_the_end() {
    let workload = Workload {
        reports: 10,
        rate: Rate::BytesPerSecond(8 << 20),
        order: Order::Rand,
        exit: Exit::Reboot,
        ..quick(2)
    };
    let disk = Some(Disk { read_only: false });
    let setup = Setup { name: "whole", memory_mib: 64, workload, disk, ..Setup::default() };
    let Some(guest) = Guest::start(&setup) else { return };
    let (status, lines) = guest.end();
    assert_eq!(errors(&lines), [""; 0]);
    assert_eq!(status, QEMU_REBOOT);
    let Some(Line::Boot(boot)) = lines.first() else { panic!("the first line is no boot line") };
    assert_eq!((boot.cpus, boot.disk), (2, DiskKind::ReadWrite));
    assert!(boot.tsc_khz > 100_000);
    for cpu in [0, 1] {
        let reports = lines.iter().filter_map(|line| match line {
            Line::Report(report) if report.cpu == cpu => Some(report),
            _ => None,
        });
        let reports: Vec<_> = reports.collect();
        assert!((1..).zip(&reports).all(|(sequence, report)| report.sequence == sequence));
        let last = reports.last().unwrap();
        assert!(last.pages > 0 && last.ticks > 0);
        assert_eq!(last.gaps.0.iter().sum::<u64>(), last.pages);
        assert_eq!(last.disk_requests > 0, cpu == 0);
    }
    assert!(matches!(lines.last(), Some(Line::End(end)) if end.exit == Exit::Reboot && end.errors == 0));
}

#[test]
fn the_operator_gets_reports_and_a_shutdown() {
    let workload = Workload { report_ms: 3_600_000, ..quick(1) };
    let setup = Setup { name: "operator", memory_mib: 16, workload, ..Setup::default() };
    let Some(mut guest) = Guest::start(&setup) else { return };
    guest.wait_for("ready line", ready);
    for expected in [1, 2] {
        guest.type_in("s");
        let sequence = guest.wait_for("report", |line| match line {
            Line::Report(report) => Some(report.sequence),
            _ => None,
        });
        assert_eq!(sequence, expected);
    }
    guest.type_in("q");
    let (status, lines) = guest.end();
    assert_eq!((status, errors(&lines)), (QEMU_SHUTDOWN, vec![]));
}

#[test]
fn an_exception_is_fatal_and_says_where() {
    let setup = Setup { name: "fatal", memory_mib: 64, workload: quick(1), ..Setup::default() };
    let Some(mut guest) = Guest::start(&setup) else { return };
    guest.wait_for("ready line", ready);
    guest.type_in("f");
    let (status, lines) = guest.end();
    assert_eq!(status, QEMU_SHUTDOWN);
    let Some(Line::Fatal(fault)) = lines.last() else { panic!("the last line is not fatal") };
    assert!(fault.text.starts_with("exception 14 ") && fault.text.contains("cr2=0x666600000000"), "{}", fault.text);
}

#[test]
fn a_page_changed_behind_its_back_is_an_error() {
    // On some hosts QEMU 7.2 loses the upper halves of the YMM registers when its debugger stops
    // the guest.
    let workload = Workload { working_set: 16 << 20, rate: Rate::Max, simd: Switch::Off, ..quick(1) };
    let setup = Setup { name: "page", memory_mib: 64, workload, ..Setup::default() };
    let Some(mut guest) = Guest::start(&setup) else { return };
    guest.wait_for("ready line", ready);
    // The generation in the stamp near the end of a page in the middle of the working set.
    guest.overwrite(0x80_0000 + 4096 - 40 + 8, &[0xee; 8]);
    let text = guest.wait_for("error", error);
    assert!(text.contains("at 0x800000: stamp at offset 4056: expected generation "), "{text}");
    assert!(text.contains("generation 17216961135462248174 "), "{text}");
}

#[test]
fn a_disk_changed_behind_its_back_is_an_error() {
    let disk = Some(Disk { read_only: false });
    let setup = Setup { name: "disk", memory_mib: 64, workload: quick(1), disk, ..Setup::default() };
    let Some(mut guest) = Guest::start(&setup) else { return };
    guest.wait_for("200 disk requests", |line| match line {
        Line::Report(report) if report.disk_requests > 200 => Some(()),
        _ => None,
    });
    File::options().write(true).open(guest.disk_path()).unwrap().write_all_at(&[0xee; 512], 7 * 512).unwrap();
    let text = guest.wait_for("error", error);
    assert!(text.starts_with("disk: sector 7 word 0: expected generation "), "{text}");
}

#[test]
fn a_read_only_disk_is_read_and_left_alone() {
    let disk = Some(Disk { read_only: true });
    let workload = Workload { reports: 5, ..quick(1) };
    let setup = Setup { name: "read-only", memory_mib: 64, workload, disk, ..Setup::default() };
    let Some(guest) = Guest::start(&setup) else { return };
    let (_, lines) = guest.end();
    assert_eq!(errors(&lines), [""; 0]);
    assert!(matches!(&lines[0], Line::Boot(boot) if boot.disk == DiskKind::ReadOnly));
    assert!(lines.iter().any(|line| matches!(line, Line::Report(report) if report.disk_requests > 0)));
}

#[test]
fn an_unknown_key_is_an_error_and_the_guest_goes_on() {
    let workload = Workload { reports: 1, ..quick(1) };
    let setup =
        Setup { name: "key", memory_mib: 64, workload, more_cmdline: "ferry.speed=9 quiet", ..Setup::default() };
    let Some(guest) = Guest::start(&setup) else { return };
    let (status, lines) = guest.end();
    assert_eq!(status, QEMU_SHUTDOWN);
    assert_eq!(errors(&lines), ["command line: 'ferry.speed=9' is no known ferry. key with a value in its range"]);
}
