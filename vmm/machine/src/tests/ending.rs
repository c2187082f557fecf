//! Ways in which a guest ends or begins again.

use ferry_devices::BusDevice;

use super::*;

/// mov dx, 0x3f8; mov al, 'x'; out dx, al
const PRINT: [u8; 7] = [0x66, 0xba, 0xf8, 0x03, 0xb0, b'x', 0xee];
/// ud2, without an interrupt table: a triple fault.
const TRIPLE_FAULT: [u8; 2] = [0x0f, 0x0b];

fn run(code: &[u8]) -> (Rig, tempfile::NamedTempFile) {
    let kernel = kernel(code);
    let path = kernel.path().to_owned();
    (Rig::new("", |config| (config.kernel, config.cpus) = (Some(path), 1)), kernel)
}

#[test]
fn a_reboot_boots_again() {
    if !has_kvm() {
        return;
    }
    let rig = Rig::new("ferry.report=50 ferry.reports=2 ferry.exit=reboot", |_| {});
    rig.wait_event(&Event::Reset { guest: true, reason: "guest-reset" });
    rig.wait_for("ferry boot", 3);
    rig.wait_for("ferry ready c=1", 3);
    assert_eq!(rig.machine.run_state(), RunState::Running);
    rig.machine.quit();
    assert_eq!(rig.exit_reason(), ExitReason::Quit("host-qmp-quit"));
    rig.assert_no_errors();
}

#[test]
fn the_operator_resets_a_running_and_a_stopped_guest() {
    if !has_kvm() {
        return;
    }
    let rig = Rig::new("", |_| {});
    rig.wait_for("ferry ready", 2);
    rig.machine.reset().unwrap();
    rig.wait_event(&Event::Reset { guest: false, reason: "host-qmp-system-reset" });
    rig.wait_for("ferry ready", 4);
    rig.machine.stop().unwrap();
    rig.machine.reset().unwrap();
    rig.wait_event(&Event::Reset { guest: false, reason: "host-qmp-system-reset" });
    assert_eq!(rig.machine.run_state(), RunState::Paused);
    rig.machine.cont().unwrap();
    rig.wait_for("ferry ready", 6);
    rig.assert_no_errors();
}

#[test]
fn a_reset_that_a_hold_delays_travels_with_the_guest() {
    if !has_kvm() {
        return;
    }
    let source = Rig::new("", |_| {});
    source.wait_for("ferry ready", 2);
    let stopped = source.machine.hold(Hold::Switchover).unwrap();
    source.machine.reset().unwrap();
    let package = stopped.save().unwrap();
    let destination = Rig::new("", |config| config.incoming = true);
    destination.machine.load(&package).unwrap();
    destination.machine.release_hold().unwrap();
    destination.wait_event(&Event::Reset { guest: true, reason: "guest-reset" });
    destination.wait_for("ferry ready", 2);

    source.machine.release_hold().unwrap();
    source.wait_event(&Event::Reset { guest: false, reason: "host-qmp-system-reset" });
    source.wait_for("ferry ready", 4);
}

#[test]
fn a_triple_fault_resets_but_not_for_ever() {
    if !has_kvm() {
        return;
    }
    let (rig, _kernel) = run(&[&PRINT[..], &TRIPLE_FAULT].concat());
    let why = "three times within a second";
    assert_eq!(rig.exit_reason(), ExitReason::Failed(GuestFailure::TripleFaults { vcpu: 0, why }));
    rig.wait_event(&Event::Reset { guest: true, reason: "guest-reset" });
    rig.wait_event(&Event::Stop);
    assert_eq!(rig.machine.run_state(), RunState::InternalError);
    rig.wait_for("x", 3);

    let (silent, _kernel) = run(&TRIPLE_FAULT);
    let why = "before the guest's first serial output";
    assert_eq!(silent.exit_reason(), ExitReason::Failed(GuestFailure::TripleFaults { vcpu: 0, why }));
}

#[test]
fn an_internal_error_tells_where_the_guest_was() {
    if !has_kvm() {
        return;
    }
    // Far jump to where no memory is: KVM cannot fetch there. mov eax, 0xd1000000; jmp eax
    let (rig, _kernel) = run(&[0xb8, 0, 0, 0, 0xd1, 0xff, 0xe0]);
    let reason = rig.exit_reason();
    let ExitReason::Failed(GuestFailure::InternalError { vcpu: 0, rip, .. }) = reason else { panic!("{reason:?}") };
    assert_eq!(rip, 0xd100_0000);
    assert_eq!(rig.machine.run_state(), RunState::InternalError);
}

/// A device that no vCPU thread survives.
struct Deadly;

impl BusDevice for Deadly {
    fn read(&self, _: u64, _: &mut [u8]) {}

    fn write(&self, _: u64, _: &[u8]) {
        panic!("as the test wants it");
    }
}

#[test]
fn the_death_of_a_vcpus_thread_is_heard_of() {
    if !has_kvm() {
        return;
    }
    // mov dx, 0x600; out dx, al
    let kernel = kernel(&[0x66, 0xba, 0x00, 0x06, 0xee]);
    let config = MachineConfig {
        kernel: Some(kernel.path().to_owned()),
        serial: SerialSink::Null,
        memory: MemoryConfig { size: 16 << 20, backing: Backing::Memfd, prealloc: false },
        ..Default::default()
    };
    let mut parts = build::assemble(&config, Arc::default()).unwrap();
    parts.ports.insert(0x600, 1, Arc::new(Deadly)).unwrap();
    reset::load_guest(&parts).unwrap();
    let machine = Machine::start(parts).unwrap();
    assert_eq!(machine.wait_exit(), ExitReason::Failed(GuestFailure::VcpuDied { vcpu: 0 }));
    assert!(matches!(machine.hold(Hold::Switchover), Err(MachineError::Ended(_))));
}

#[test]
fn a_dropped_machine_leaves_no_thread_behind() {
    if !has_kvm() {
        return;
    }
    let rig = Rig::new("ferry.rate=max", |_| {});
    rig.wait_for("ferry ready", 2);
    let parts = Arc::downgrade(&rig.machine.parts);
    drop(rig);
    let deadline = Instant::now() + PATIENCE;
    while parts.strong_count() > 0 {
        assert!(Instant::now() < deadline, "a thread still has the machine");
        std::thread::yield_now();
    }
}

#[test]
fn a_guest_that_shut_down_cannot_be_migrated() {
    if !has_kvm() {
        return;
    }
    let rig = Rig::new("ferry.report=50 ferry.reports=1", |_| {});
    rig.exit_reason();
    assert!(matches!(rig.machine.hold(Hold::Switchover), Err(MachineError::Ended(_))));
    assert!(rig.machine.snapshot().unwrap_err().to_string().contains("it shut down"));
    assert_eq!(rig.machine.run_state(), RunState::Shutdown);
}

#[test]
fn a_reset_waits_for_the_last_page_and_keeps_no_command_waiting() {
    if !has_kvm() {
        return;
    }
    let rig = Rig::new("ferry.rate=max ferry.report=200", |_| {});
    rig.wait_for("ferry ready", 2);
    rig.machine.set_memory_arrives(true);
    rig.machine.reset().unwrap();
    for _ in 0..3 {
        rig.machine.stop().unwrap();
        assert_eq!(rig.machine.run_state(), RunState::Paused);
        rig.machine.cont().unwrap();
        assert_eq!(rig.machine.run_state(), RunState::Running);
    }
    assert_eq!(rig.text().matches("ferry boot").count(), 1);
    rig.machine.set_memory_arrives(false);
    rig.wait_event(&Event::Reset { guest: false, reason: "host-qmp-system-reset" });
    rig.wait_for("ferry ready", 4);
}
