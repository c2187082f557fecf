//! A guest that is slowed down: it runs for its share, no command waits for its rests, and a hold
//! ends them.

use ferry_guest::lines::Report;

use super::*;

/// A report takes milliseconds where ring 0 is emulated, so that there must not be one in every
/// run between two rests.
const FLAT_OUT: &str = "ferry.rate=max ferry.report=500 ferry.ws=4M";
/// How long vCPUs rest between two runs at 99 %.
const REST: Duration = Duration::from_millis(990);

impl Rig {
    fn reports(&self, cpu: u32) -> Vec<Report> {
        let text = self.text();
        let report = |line: &str| match ferry_guest::parse_line(line) {
            Ok(Some(Line::Report(report))) if report.cpu == cpu => Some(report),
            _ => None,
        };
        // A line without its end is still being written.
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.filter_map(report).collect()
    }

    /// Pages that all vCPUs touch in a second of their own clocks, over some of their next
    /// reports.
    fn pace(&self) -> u64 {
        let before = [0, 1].map(|cpu| self.reports(cpu).len());
        let deadline = Instant::now() + PATIENCE;
        let pace = |cpu: u32| {
            let reports = self.reports(cpu);
            // The first may have begun before.
            let [_, first, .., last] = &reports[before[cpu as usize].min(reports.len())..] else { return None };
            let millis = last.uptime_ms - first.uptime_ms;
            (millis >= 500).then(|| (last.pages - first.pages) * 1000 / millis)
        };
        loop {
            if let Some(sum) = [0, 1].map(pace).into_iter().sum() {
                return sum;
            }
            assert!(Instant::now() < deadline, "the vCPUs do not report:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the guest goes this fast: a host that is busy lets it only at times.
    fn wait_pace(&self, least: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let pace = self.pace();
            if pace >= least {
                return eprintln!("{pace} pages/s of at least {least}");
            }
            assert!(Instant::now() < deadline, "only {pace} pages/s, and {least} are expected");
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
    rig.machine.throttle(50).unwrap();
    rig.machine.throttle(95).unwrap();
    assert_eq!((rig.machine.throttled(), rig.machine.run_state()), (95, RunState::Running));
    let slow = rig.pace();
    rig.machine.end_throttle();
    assert_eq!(rig.machine.throttled(), 0);
    // A twentieth is expected, of what the host gives.
    rig.wait_pace(slow * 4);
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
