//! A guest that is slowed down: it runs for its share, nobody waits for its rests, and it is let go again.

use ferry_guest::lines::Report;

use super::*;

const FLAT_OUT: &str = "ferry.rate=max ferry.report=50 ferry.ws=4M";
/// How long vCPUs rest between two runs at 99 %.
const REST: Duration = Duration::from_millis(990);

impl Rig {
    fn reports(&self, cpu: u32) -> Vec<Report> {
        let lines = self.text();
        let report = |line: &str| match ferry_guest::parse_line(line) {
            Ok(Some(Line::Report(report))) if report.cpu == cpu => Some(report),
            _ => None,
        };
        lines.lines().filter_map(report).collect()
    }

    /// Pages that a vCPU touches in a second of its own clock, over some of its next reports.
    fn pace(&self, cpu: u32) -> u64 {
        let before = self.reports(cpu).len();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let reports = self.reports(cpu);
            // The first may have begun before.
            if let [_, first, .., last] = &reports[before.min(reports.len())..]
                && last.uptime_ms >= first.uptime_ms + 500
            {
                return (last.pages - first.pages) * 1000 / (last.uptime_ms - first.uptime_ms);
            }
            assert!(Instant::now() < deadline, "vCPU {cpu} does not report:\n{}", self.text());
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_throttled_guest_gets_its_share_and_afterwards_all() {
    if !has_kvm() {
        return;
    }
    let rig = Rig::new(FLAT_OUT, |_| {});
    rig.wait_for("ferry r c=1", 3);
    let paces = || [0, 1].map(|cpu| rig.pace(cpu));
    let full = paces();
    rig.machine.throttle(50).unwrap();
    rig.machine.throttle(95).unwrap();
    assert_eq!((rig.machine.throttled(), rig.machine.run_state()), (95, RunState::Running));
    let slow = paces();
    rig.machine.end_throttle();
    assert_eq!(rig.machine.throttled(), 0);
    let again = paces();
    eprintln!("pages/s of 2 vCPUs: {full:?}, at 95 % {slow:?}, afterwards {again:?}");
    for (slow, full) in slow.iter().zip(full).chain(slow.iter().zip(again)) {
        // A twentieth is expected, of what a busy host gives.
        assert!(slow * 4 < full, "{slow} pages/s of {full}");
    }
    rig.assert_no_errors();
}

#[test]
fn nobody_waits_for_a_rest() {
    if !has_kvm() {
        return;
    }
    let rig = Rig::new(FLAT_OUT, |_| {});
    let machine = &rig.machine;
    rig.wait_for("ferry r c=1", 1);
    machine.throttle(99).unwrap();
    let began = Instant::now();
    for _ in 0..10 {
        machine.stop().unwrap();
        machine.cont().unwrap();
        machine.snapshot().unwrap();
    }
    let took = began.elapsed();
    assert!(took < REST * 5, "30 stops took {took:?}");
    assert_eq!(machine.throttled(), 99, "the operator's stop and cont change nothing");
    machine.reset().unwrap();
    rig.wait_event(&Event::Reset { guest: false, reason: "host-qmp-system-reset" });
    machine.quit();
    let began = Instant::now();
    assert_eq!(rig.exit_reason(), ExitReason::Quit("host-qmp-quit"));
    assert!(began.elapsed() < REST, "{:?}", began.elapsed());
    rig.assert_no_errors();
}

#[test]
fn whoever_holds_the_guest_lets_it_go_unthrottled() {
    if !has_kvm() {
        return;
    }
    let rig = Rig::new(FLAT_OUT, |_| {});
    let machine = &rig.machine;
    rig.wait_for("ferry r c=1", 1);
    machine.throttle(99).unwrap();
    machine.hold(Hold::Switchover).unwrap();
    assert_eq!(machine.throttled(), 0);
    machine.throttle(99).unwrap();
    assert_eq!(machine.throttled(), 0, "what is held needs no slowing down");
    machine.release_hold().unwrap();
    assert_eq!((machine.throttled(), machine.run_state()), (0, RunState::Running));
    let reports = rig.reports(0).len();
    rig.wait_for("ferry r c=0", reports + 3);
    rig.assert_no_errors();
}

#[test]
fn processors_that_sleep_rest_as_well() {
    if !has_kvm() {
        return;
    }
    let rig = Rig::new("ferry.rate=64K ferry.report=50", |_| {});
    rig.wait_for("ferry r c=1", 1);
    rig.machine.throttle(80).unwrap();
    for cpu in 0..2 {
        let reports = rig.reports(cpu).len();
        rig.wait_for(&format!("ferry r c={cpu}"), reports + 5);
    }
    rig.machine.stop().unwrap();
    rig.machine.cont().unwrap();
    rig.machine.end_throttle();
    rig.assert_no_errors();
}
