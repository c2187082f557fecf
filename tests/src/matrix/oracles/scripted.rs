//! Evidence made by hand: a migration that failed and one that moved the guest, both clean, for
//! tests to spoil.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ferry_guest::lines::Report;
use ferry_guest::{Line, Workload};
use ferry_migration::{Handshake, MigrationInfo, Status};
use serde_json::json;

use crate::matrix::evidence::{CellFacts, Ending, Event, Evidence, Named, Process, RecordView, Role, Sample, Write};
use crate::procfs::Inventory;

/// The pids of the source, the destination and the next process.
pub(super) const PIDS: [u32; 3] = [100, 200, 300];
/// When all has settled, in milliseconds.
const SETTLED: u64 = 2000;

/// A moment, in milliseconds since the beginning.
pub(super) fn at(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000_000) + Duration::from_millis(ms)
}

/// Who uses CPU time when, in milliseconds: the accounts of one vCPU for each of two processes,
/// read every 5 ms.
#[derive(Default)]
pub(super) struct Script {
    runs: Vec<(usize, u64, u64)>,
    wakes: Vec<(usize, u64)>,
    blind: Option<(u64, u64)>,
}

impl Script {
    /// The process runs the guest at half of a CPU.
    pub(super) fn runs(mut self, process: usize, from: u64, to: u64) -> Self {
        self.runs.push((process, from, to));
        self
    }

    /// The process's vCPU looks whether it may run: 0.2 ms.
    pub(super) fn wakes(mut self, process: usize, when: u64) -> Self {
        self.wakes.push((process, when));
        self
    }

    /// The sampler does not get to run.
    pub(super) fn blind(mut self, from: u64, to: u64) -> Self {
        self.blind = Some((from, to));
        self
    }

    /// The samples.
    pub(super) fn samples(&self) -> Vec<Sample> {
        let sees = |ms: &u64| self.blind.is_none_or(|(from, to)| *ms < from || *ms > to);
        let looks = (0..=SETTLED + 1000).step_by(5).filter(sees);
        looks.flat_map(|ms| [0, 1].map(|process| self.sample(process, ms))).collect()
    }

    fn sample(&self, process: usize, ms: u64) -> Sample {
        let ran = self.runs.iter().filter(|run| run.0 == process).map(|(_, from, to)| ms.clamp(*from, *to) - from);
        let woke = self.wakes.iter().filter(|wake| wake.0 == process && wake.1 < ms).count() as u64;
        let on_cpu_ns = 1_000_000 + ran.sum::<u64>() * 500_000 + woke * 200_000;
        Sample { at: at(ms), process, vcpu: 0, on_cpu_ns }
    }
}

/// A report line of vCPU 0.
pub(super) fn report(sequence: u64) -> String {
    let report = Report { sequence, pages: sequence * 10, ticks: sequence, ..Report::default() };
    let line: Line = Line::Report(report);
    format!("{line}\r\n")
}

/// Report lines of vCPU 0.
pub(super) fn reports(sequences: std::ops::RangeInclusive<u64>) -> String {
    sequences.map(report).collect()
}

/// An event.
pub(super) fn event(ms: u64, name: &str) -> Event {
    Event { at: at(ms), name: name.into(), data: json!(null) }
}

/// A `MIGRATION` event.
pub(super) fn status(ms: u64, status: &str) -> Event {
    Event { at: at(ms), name: "MIGRATION".into(), data: json!({ "status": status }) }
}

/// What a process holds that runs a guest, with the image's lock or without.
pub(super) fn holds(locked: bool) -> Inventory {
    let counts = |names: &[(&str, usize)]| names.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    Inventory {
        threads: counts(&[("ferry", 1), ("vcpu-0", 1)]),
        descriptors: counts(&[("kvm-vm", 1), ("[eventfd]", 2), ("unix", 1), ("/t/disk.img", 1)]),
        mappings: 60,
        locks: if locked { vec!["write /t/disk.img".into()] } else { vec![] },
        children: vec![],
    }
}

fn process(role: Role, run_state: &str, status: Option<Status>) -> Process {
    let (label, pid) = match role {
        Role::Source => ("source", PIDS[0]),
        Role::Destination => ("destination", PIDS[1]),
        Role::Next => ("next", PIDS[2]),
    };
    Process {
        label: label.into(),
        role,
        pid,
        killed: None,
        frozen: vec![],
        exit: None,
        stderr: String::new(),
        events: vec![],
        final_info: Some(MigrationInfo { status, ..MigrationInfo::default() }),
        final_run_state: Some(run_state.into()),
        serial: String::new(),
        before: None,
        after: None,
    }
}

fn evidence(may_end: Ending, processes: Vec<Process>) -> Evidence {
    let cell = CellFacts {
        handshake: Handshake::Owned,
        postcopy: false,
        cpus: 1,
        seed: Workload::default().seed,
        disk: true,
        record: true,
        reboots: false,
        may_end: vec![may_end],
        cause: vec![],
        stalled: None,
        source_becomes: None,
        resume_within: None,
    };
    Evidence {
        cell,
        broken: None,
        resolved: None,
        settled: at(SETTLED),
        processes,
        samples: vec![],
        writes: None,
        disk_stamps: Some(Ok(8)),
        record: None,
        plain: vec![],
        conts: vec![],
        reasons: vec![],
        image: None,
        next: Some(Ok(())),
        left: vec![],
    }
}

fn record(generation: u64, pid: u32) -> RecordView {
    RecordView { vm: "guest".into(), generation, owner: format!("host:{pid}"), settled: true }
}

/// A write, by a process, while the record named this generation and process.
pub(super) fn write(ms: u64, pid: u32, generation: u64, owner: u32) -> Write {
    Write { at: at(ms), pid, named: vec![Named { generation, pid: Some(owner) }] }
}

/// Cut off while the state was on its way: the source resumed within 50 ms, the destination ended
/// with its reason.
pub(super) fn failed_migration() -> Evidence {
    const REASON: &str = "waiting for the destination to load: the peer closed the control link; look at the destination's \
                          standard error";
    let mut source = process(Role::Source, "running", Some(Status::Failed));
    source.events = vec![
        status(100, "setup"),
        status(110, "active"),
        event(495, "STOP"),
        status(496, "device"),
        event(550, "RESUME"),
        status(551, "failed"),
    ];
    source.final_info.as_mut().expect("it was made with one").error_desc = Some(REASON.into());
    source.serial = reports(1..=20);
    (source.before, source.after) = (Some(holds(true)), Some(holds(true)));
    let mut destination = process(Role::Destination, "inmigrate", Some(Status::Failed));
    destination.final_run_state = None;
    destination.events = vec![status(101, "setup"), status(111, "active"), status(497, "device")];
    destination.exit = Some(crate::matrix::evidence::Exit { code: Some(1), signal: None, at: at(520) });
    destination.stderr =
        "listening on tcp:127.0.0.1:1\nferry: incoming migration failed: waiting for the permit: the peer \
                          closed the control link; the guest is at the source\n"
            .into();
    let mut next = process(Role::Next, "running", Some(Status::Completed));
    next.serial = reports(21..=25);
    let mut evidence = evidence(Ending::SourceRuns, vec![source, destination, next]);
    evidence.cell.cause = vec!["closed".into()];
    evidence.cell.resume_within = Some(Duration::from_millis(100));
    evidence.broken = Some(at(500));
    evidence.samples = Script::default().runs(0, 0, 495).wakes(1, 300).runs(0, 550, 3000).samples();
    evidence.writes = Some(Ok(vec![write(10, PIDS[0], 1, PIDS[0]), write(900, PIDS[0], 1, PIDS[0])]));
    evidence.record = Some(Ok(record(1, PIDS[0])));
    evidence
}

/// Nothing broke: the guest went to the destination, and from there to the next.
pub(super) fn moved() -> Evidence {
    let mut source = process(Role::Source, "postmigrate", Some(Status::Completed));
    source.events = vec![
        status(100, "setup"),
        status(110, "active"),
        event(495, "STOP"),
        status(496, "device"),
        status(560, "completed"),
    ];
    source.serial = reports(1..=4) + &report(5)[..9];
    (source.before, source.after) = (Some(holds(true)), Some(holds(false)));
    let mut destination = process(Role::Destination, "running", Some(Status::Completed));
    destination.events = vec![
        status(101, "setup"),
        status(111, "active"),
        status(497, "device"),
        event(555, "RESUME"),
        status(556, "completed"),
    ];
    destination.serial = report(5)[9..].to_owned() + &reports(6..=20);
    (destination.before, destination.after) = (None, Some(holds(true)));
    let mut next = process(Role::Next, "running", Some(Status::Completed));
    next.serial = reports(21..=25);
    let mut evidence = evidence(Ending::DestinationRuns, vec![source, destination, next]);
    evidence.samples = Script::default().runs(0, 0, 495).runs(1, 555, 3000).samples();
    let both = Write {
        named: vec![Named { generation: 1, pid: Some(100) }, Named { generation: 2, pid: Some(200) }],
        ..write(560, PIDS[1], 0, 0)
    };
    evidence.writes = Some(Ok(vec![write(10, PIDS[0], 1, PIDS[0]), both, write(900, PIDS[1], 2, PIDS[1])]));
    evidence.record = Some(Ok(record(2, PIDS[1])));
    evidence
}
