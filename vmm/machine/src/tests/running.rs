//! Running and stopping: the one rule, and that no kick is lost.

use ferry_migration::ownership::custody::Again;

use super::*;

const BUSY: &str = "ferry.rate=max ferry.report=200";

#[test]
fn the_built_in_guest_boots_on_all_vcpus_and_shuts_down() {
    if !has_kvm() {
        return;
    }
    let rig = Rig::new("ferry.report=100 ferry.reports=3", |_| {});
    assert_eq!(rig.exit_reason(), ExitReason::Shutdown);
    assert_eq!(rig.machine.run_state(), RunState::Shutdown);
    rig.wait_event(&Event::Shutdown { guest: true, reason: "guest-shutdown" });
    rig.wait_for("ferry ready c=1", 1);
    rig.wait_for("ferry shutdown e=0", 1);
    rig.assert_no_errors();
    assert!(matches!(rig.machine.cont(), Err(MachineError::Ended(_))));
}

#[test]
fn a_busy_guest_stops_and_goes_on_a_thousand_times() {
    if !has_kvm() {
        return;
    }
    let rig = Rig::new(BUSY, |_| {});
    rig.wait_for("ferry ready", 2);
    let control = &rig.machine.parts.control;
    let (mut stopping, mut going) = (Vec::new(), Vec::new());
    for _ in 0..1000 {
        let _operation = control.operation.take("a test").unwrap();
        let began = Instant::now();
        control.halt().unwrap();
        stopping.push(began.elapsed());
        let began = Instant::now();
        control.go_on().unwrap();
        going.push(began.elapsed());
    }
    for (what, times) in [("stop", &mut stopping), ("go on", &mut going)] {
        times.sort_unstable();
        eprintln!("{what} 2 vCPUs: p50 {:?}, p99 {:?}, worst {:?}", times[500], times[990], times[999]);
    }
    let reports = rig.text().matches("ferry r ").count();
    rig.wait_for("ferry r ", reports + 4);
    rig.assert_no_errors();
}

#[test]
fn stop_and_cont_are_heard_of_once() {
    if !has_kvm() {
        return;
    }
    let rig = Rig::new(BUSY, |_| {});
    rig.wait_event(&Event::Resume);
    assert_eq!(rig.machine.run_state(), RunState::Running);
    rig.machine.stop().unwrap();
    rig.machine.stop().unwrap();
    assert_eq!(rig.machine.run_state(), RunState::Paused);
    rig.machine.cont().unwrap();
    rig.machine.cont().unwrap();
    let events: Vec<_> =
        std::iter::from_fn(|| rig.events.next_within(Duration::ZERO)).map(|stamped| stamped.event).collect();
    assert_eq!(events, [Event::Stop, Event::Resume]);
}

#[test]
fn a_hold_remembers_what_the_operator_wants() {
    if !has_kvm() {
        return;
    }
    let rig = Rig::new(BUSY, |config| config.paused = true);
    let machine = &rig.machine;
    assert_eq!((machine.run_state(), machine.wants_to_run()), (RunState::Prelaunch, false));
    machine.hold(Hold::Switchover).unwrap();
    assert_eq!(machine.run_state(), RunState::FinishMigrate);
    machine.cont().unwrap();
    assert_eq!(machine.run_state(), RunState::FinishMigrate, "held");
    assert!(machine.wants_to_run());
    machine.release_hold().unwrap();
    assert_eq!(machine.run_state(), RunState::Running);
    machine.hold(Hold::Switchover).unwrap();
    machine.stop().unwrap();
    machine.release_hold().unwrap();
    assert_eq!(machine.run_state(), RunState::Paused);
    machine.hold(Hold::Switchover).unwrap();
    machine.stop().unwrap();
    let _sent = machine.final_requests();
    for late in [machine.cont(), machine.stop(), machine.reset()] {
        assert!(matches!(late, Err(MachineError::Leaving)), "a request that would not travel is refused: {late:?}");
    }
    machine.release_hold().unwrap();
    machine.cont().unwrap();
    machine.stop().unwrap();
    for _ in 0..2 {
        machine.hold(Hold::HandedOver).unwrap();
    }
    assert_eq!((machine.run_state(), machine.is_handed_over()), (RunState::PostMigrate, true));
    assert!(matches!(machine.release_hold(), Err(MachineError::HandedOver)));
    assert!(matches!(machine.cont(), Err(MachineError::HandedOver)));
    assert!(matches!(machine.hold(Hold::Switchover), Err(MachineError::HandedOver)));
}

#[test]
fn a_command_that_a_busy_machine_refuses_leaves_no_request_behind() {
    if !has_kvm() {
        return;
    }
    let [running, stopped] = [false, true].map(|paused| Rig::new(BUSY, |config| config.paused = paused));
    let [of_running, of_stopped] =
        [&running, &stopped].map(|rig| rig.machine.parts.control.operation.take("a test").unwrap());
    let is_refused = |answer: Result<(), MachineError>| {
        assert!(matches!(answer, Err(MachineError::Busy { doing: "a test" })), "{answer:?}");
    };
    // All wait for the lock at the same time.
    std::thread::scope(|scope| {
        scope.spawn(|| is_refused(running.machine.stop()));
        scope.spawn(|| is_refused(stopped.machine.cont()));
        scope.spawn(|| is_refused(stopped.machine.reset()));
    });
    drop((of_running, of_stopped));
    assert!(running.machine.wants_to_run() && !stopped.machine.wants_to_run());
    assert_eq!(stopped.machine.parts.control.status().reset, None);
    for (rig, state) in [(&running, RunState::Running), (&stopped, RunState::Prelaunch)] {
        rig.machine.hold(Hold::Switchover).unwrap();
        rig.machine.release_hold().unwrap();
        assert_eq!(rig.machine.run_state(), state);
    }
}

#[test]
fn processors_that_sleep_or_were_never_started_stop_and_load() {
    if !has_kvm() {
        return;
    }
    // mov dx, 0x3f8; mov al, 'x'; out dx, al; then cli; hlt for ever. The second processor waits
    // for its start.
    let kernel = kernel(&[0x66, 0xba, 0xf8, 0x03, 0xb0, b'x', 0xee, 0xfa, 0xf4, 0xeb, 0xfd]);
    let rig = Rig::new("", |config| config.kernel = Some(kernel.path().to_owned()));
    rig.wait_for("x", 1);
    for _ in 0..20 {
        rig.machine.stop().unwrap();
        rig.machine.cont().unwrap();
    }
    let package = rig.machine.hold(Hold::Switchover).unwrap().save().unwrap();
    rig.machine.load(&package).unwrap();
    rig.machine.release_hold().unwrap();
    rig.machine.reset().unwrap();
    rig.wait_for("x", 2);
}

#[test]
fn input_reaches_the_guest() {
    if !has_kvm() {
        return;
    }
    let rig = Rig::new("", |_| {});
    rig.wait_for("ferry ready", 2);
    assert_eq!(rig.machine.serial().enqueue(b"q").unwrap(), 1);
    assert_eq!(rig.exit_reason(), ExitReason::Shutdown);
}

#[test]
fn a_second_machine_on_the_same_disk_is_refused_by_name() {
    if !has_kvm() {
        return;
    }
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let disk = Some(DiskConfig { path: image.path().to_owned(), read_only: false, raw: false });
    let first = Rig::new(BUSY, |config| config.disk = disk.clone());
    let config = MachineConfig { disk: disk.clone(), serial: SerialSink::Null, ..Default::default() };
    let error = Machine::build(&config, Arc::default()).unwrap_err();
    let text = format!("{error} {:?}", std::error::Error::source(&error).map(ToString::to_string));
    assert!(text.contains("virtio-blk/0"), "{text}");

    let waiting = Rig::new(BUSY, |config| (config.disk, config.incoming) = (disk, true));
    assert!(waiting.machine.release_hold().is_err(), "the first still has the disk");
    assert_eq!(waiting.machine.run_state(), RunState::InMigrate, "the hold stays");
    let stopped = first.machine.hold(Hold::Switchover).unwrap();
    stopped.quiesce().unwrap();
    stopped.release_resources().unwrap();
    waiting.machine.hold(Hold::Incoming).unwrap();
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    if !has_kvm() {
        return;
    }
    let refused = |change: &dyn Fn(&mut MachineConfig)| {
        let mut config = MachineConfig { serial: SerialSink::Null, ..Default::default() };
        change(&mut config);
        Machine::build(&config, Arc::default()).unwrap_err().to_string()
    };
    assert!(refused(&|config| config.cpus = 0).contains("--cpus"));
    assert!(refused(&|config| config.cpus = 17).contains("give 1 to 16"));
    assert!(refused(&|config| config.memory.size = 1).contains("16M to 16G"));
    assert!(refused(&|config| config.kernel = Some("/absent".into())).contains("'/absent'"));
    assert!(refused(&|config| config.serial = SerialSink::File("/".into())).contains("--serial"));
}

#[test]
fn a_vcpu_that_cannot_reach_memory_is_patient_while_pages_are_missing_and_not_for_ever() {
    if !has_kvm() {
        return;
    }
    let rig = Rig::new("", |config| config.paused = true);
    let mut in_a_row = 0;
    let mut tries = |wanted| (0..wanted).take_while(|_| vcpu::may_try_again(&rig.machine.parts, &mut in_a_row)).count();
    rig.machine.set_memory_arrives(true);
    assert_eq!(tries(50), 50);
    rig.machine.set_memory_arrives(false);
    assert_eq!(tries(50), 16, "the last page may have come between a failure and the look");
}

/// A record that does not answer.
#[derive(Debug)]
struct NoAnswer;

impl Custody for NoAnswer {
    fn claim(&self, _: Again) -> Result<Settle, String> {
        Err("it does not answer".to_owned())
    }
}

#[test]
fn a_cont_that_the_record_refuses_changes_nothing_about_who_has_the_disk() {
    if !has_kvm() {
        return;
    }
    for held in [true, false] {
        let rig = Rig::new("", |config| config.paused = true);
        rig.machine.set_custody(Arc::new(NoAnswer));
        if held {
            rig.machine.take_resources().unwrap();
        }
        rig.machine.parts.control.status().let_go = true;
        assert!(matches!(rig.machine.cont(), Err(MachineError::NotOurs(_))));
        assert_eq!(rig.machine.parts.control.status().holds, held);
    }
}
