//! The embedded guest and hand-made ones boot, run, stop, go on, reset and end, on the real
//! binary.

use std::fs;

use ferry_guest::lines::Disk;
use ferry_guest::workload::Exit;
use ferry_guest::{Line, Workload};
use ferry_tests::procfs::Holdings;
use ferry_tests::wait::wait_for;
use ferry_tests::{Ferry, GuestLog, Lab, SOON, Spec, disk, image};
use serde_json::json;

/// Starts a machine and waits until its guest works.
fn boot(lab: &Lab, spec: &Spec) -> (Ferry, GuestLog) {
    let ferry = lab.start(spec);
    let mut guest = GuestLog::new(&ferry, spec.cpus);
    guest.wait_ready();
    guest.wait_reports(2);
    (ferry, guest)
}

#[test]
fn one_vcpu_boots_and_reports() {
    let Some(lab) = Lab::new() else { return };
    let (mut ferry, mut guest) = boot(&lab, &Spec::new());
    assert_eq!(guest.wait_boot().cpus, 1);
    assert_eq!(ferry.run_state(), "running");
    ferry.quit();
}

#[test]
fn two_vcpus_boot_and_report() {
    let Some(lab) = Lab::new() else { return };
    boot(&lab, &Spec::new().cpus(2)).0.quit();
}

#[test]
fn four_vcpus_boot_and_report() {
    let Some(lab) = Lab::new() else { return };
    boot(&lab, &Spec::new().cpus(4)).0.quit();
}

#[test]
fn the_smallest_guest_boots() {
    let Some(lab) = Lab::new() else { return };
    let (_ferry, mut guest) = boot(&lab, &Spec::new().memory("16M"));
    assert!(guest.wait_boot().memory_bytes <= 16 << 20);
}

#[test]
fn both_backings_boot() {
    let Some(lab) = Lab::new() else { return };
    for backing in ["memfd", "anon"] {
        let (_ferry, mut guest) = boot(&lab, &Spec::new().memory(&format!("256M,backing={backing}")));
        let bytes = guest.wait_boot().memory_bytes;
        assert!(bytes > 254 << 20 && bytes <= 256 << 20, "{backing}: {bytes}");
    }
}

#[test]
fn memory_that_the_guest_leaves_alone_is_not_taken_from_the_host() {
    let Some(lab) = Lab::new() else { return };
    for backing in ["memfd", "anon"] {
        let spec = Spec::new().memory(&format!("4G,backing={backing}")).workload(|load| load.working_set = 16 << 20);
        let (ferry, mut guest) = boot(&lab, &spec);
        assert!(guest.wait_boot().memory_bytes > 3 << 30, "RAM above the hole is there");
        let held = Holdings::of(ferry.pid());
        assert!(held.rss_kib < 200 << 10, "{backing}: {held}");
    }
}

#[test]
fn a_kernel_file_boots_like_the_embedded_one() {
    let Some(lab) = Lab::new() else { return };
    let kernel = image::write(&lab, "guest.elf", ferry_guest::ELF);
    let _ = boot(&lab, &Spec::new().cpus(2).kernel(&kernel).workload(|load| load.cpus = 2));
}

#[test]
fn the_guest_works_on_its_disk() {
    let Some(lab) = Lab::new() else { return };
    let image = disk::image(&lab, "disk.img", 8 << 20);
    let (mut ferry, mut guest) = boot(&lab, &Spec::new().disk(&image));
    assert_eq!(guest.wait_boot().disk, Disk::ReadWrite);
    guest.wait("some disk requests", SOON, |log| (log.newest(0).disk_requests > 20).then_some(()));
    ferry.quit();
    assert!(fs::read(&image).unwrap().iter().any(|byte| *byte != 0), "something was written to the image");
}

#[test]
fn a_read_only_disk_is_read_and_left_alone() {
    let Some(lab) = Lab::new() else { return };
    let image = disk::image(&lab, "disk.img", 8 << 20);
    let spec = Spec { disk: Some((image.clone(), true)), ..Spec::new() };
    let (mut ferry, mut guest) = boot(&lab, &spec);
    assert_eq!(guest.wait_boot().disk, Disk::ReadOnly);
    guest.wait("some disk requests", SOON, |log| (log.newest(0).disk_requests > 20).then_some(()));
    ferry.quit();
    assert!(fs::read(&image).unwrap().iter().all(|byte| *byte == 0), "nothing was written to the image");
}

#[test]
fn a_guest_that_shuts_down_ends_its_process() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new().cpus(2).workload(|load| load.reports = 3);
    let mut ferry = lab.start(&spec);
    let event = ferry.wait_last_event("SHUTDOWN");
    assert_eq!((&event["data"]["guest"], &event["data"]["reason"]), (&json!(true), &json!("guest-shutdown")));
    assert_eq!(ferry.wait_exit(SOON), 0);
    let mut guest = GuestLog::new(&ferry, 2);
    assert_eq!(guest.wait_end().exit, Exit::Shutdown);
}

#[test]
fn a_guest_that_reboots_boots_again() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new().workload(|load| (load.reports, load.exit) = (2, Exit::Reboot));
    let mut ferry = lab.start(&spec);
    let mut guest = GuestLog::new(&ferry, 1);
    guest.wait("the third boot", SOON, |log| (log.boots() >= 3).then_some(()));
    let event = ferry.wait_event("RESET");
    assert_eq!((&event["data"]["guest"], &event["data"]["reason"]), (&json!(true), &json!("guest-reset")));
    ferry.quit();
}

#[test]
fn serial_input_reaches_the_guest() {
    let Some(lab) = Lab::new() else { return };
    let (mut ferry, mut guest) = boot(&lab, &Spec::new().console());
    ferry.type_in("r");
    guest.wait("a second boot", SOON, |log| (log.boots() == 2).then_some(()));
    guest.wait_reports(1);
    ferry.type_in("q");
    assert_eq!(guest.wait_end().exit, Exit::Reboot, "the reboot came first");
    assert_eq!(ferry.wait_exit(SOON), 0);
}

#[test]
fn system_reset_boots_the_guest_again() {
    let Some(lab) = Lab::new() else { return };
    let image = disk::image(&lab, "disk.img", 8 << 20);
    let (mut ferry, mut guest) = boot(&lab, &Spec::new().cpus(2).disk(&image));
    for boots in 2..5 {
        ferry.qmp("system_reset", json!({}));
        guest.wait("another boot", SOON, |log| (log.boots() == boots).then_some(()));
        guest.wait_reports(2);
    }
    let event = ferry.wait_event("RESET");
    assert_eq!((&event["data"]["guest"], &event["data"]["reason"]), (&json!(false), &json!("host-qmp-system-reset")));
}

#[test]
fn quit_is_answered_and_reported() {
    let Some(lab) = Lab::new() else { return };
    let (mut ferry, _guest) = boot(&lab, &Spec::new());
    ferry.qmp("quit", json!({}));
    let event = ferry.wait_last_event("SHUTDOWN");
    assert_eq!((&event["data"]["guest"], &event["data"]["reason"]), (&json!(false), &json!("host-qmp-quit")));
    assert_eq!(ferry.wait_exit(SOON), 0);
}

#[test]
fn a_stopped_guest_does_nothing_and_goes_on_where_it_was() {
    let Some(lab) = Lab::new() else { return };
    let (mut ferry, mut guest) = boot(&lab, &Spec::new().cpus(2));
    ferry.forget_events();
    for _ in 0..20 {
        ferry.qmp("stop", json!({}));
        assert_eq!(ferry.run_state(), "paused");
        let hash = ferry.memory_hash();
        assert_eq!(ferry.memory_hash(), hash, "the memory of a stopped guest does not change");
        ferry.qmp("cont", json!({}));
        assert_eq!(ferry.run_state(), "running");
        guest.wait_reports(1);
    }
    assert_eq!((count(&mut ferry, "STOP"), count(&mut ferry, "RESUME")), (20, 20));
}

#[test]
fn a_stopped_guest_has_a_disk_that_does_nothing_either() {
    let Some(lab) = Lab::new() else { return };
    let image = disk::image(&lab, "disk.img", 8 << 20);
    let (mut ferry, mut guest) = boot(&lab, &Spec::new().disk(&image));
    for _ in 0..10 {
        ferry.qmp("stop", json!({}));
        let hash = ferry.memory_hash();
        for _ in 0..3 {
            assert_eq!(ferry.memory_hash(), hash, "whoever sees the guest stopped may copy its memory");
        }
        ferry.qmp("cont", json!({}));
        guest.wait_reports(1);
    }
}

#[test]
fn stop_and_cont_may_be_repeated() {
    let Some(lab) = Lab::new() else { return };
    let (mut ferry, mut guest) = boot(&lab, &Spec::new());
    ferry.qmp("cont", json!({}));
    ferry.forget_events();
    for command in ["stop", "stop", "cont", "cont"] {
        ferry.qmp(command, json!({}));
    }
    assert_eq!((count(&mut ferry, "STOP"), count(&mut ferry, "RESUME")), (1, 1), "events tell of changes only");
    guest.wait_reports(1);
}

#[test]
fn a_guest_started_paused_waits_for_cont() {
    let Some(lab) = Lab::new() else { return };
    let mut ferry = lab.start(&Spec::new().paused());
    assert_eq!(ferry.run_state(), "prelaunch");
    let mut guest = GuestLog::new(&ferry, 1);
    assert!(guest.read().is_empty(), "nothing has run");
    ferry.qmp("cont", json!({}));
    guest.wait_reports(1);
}

fn count(ferry: &mut Ferry, name: &str) -> usize {
    ferry.events().iter().filter(|event| event["event"] == name).count()
}

/// A machine that boots this 32-bit code.
fn hand_made(lab: &Lab, code: Vec<u8>) -> Spec {
    let kernel = image::write(lab, "hand-made.elf", &image::Elf::new(code).bytes());
    Spec::new().memory("16M").kernel(&kernel)
}

/// Starts a guest that may end its process before that answers.
fn cont_to_the_end(ferry: &mut Ferry) {
    let _ = ferry.try_qmp("cont", json!({}));
}

fn serial_text(ferry: &Ferry) -> String {
    fs::read_to_string(ferry.serial()).unwrap_or_default()
}

#[test]
fn a_hand_made_guest_prints_and_sleeps() {
    let Some(lab) = Lab::new() else { return };
    let mut ferry = lab.start(&hand_made(&lab, [image::print("hello\n"), image::halt()].concat()));
    wait_for("hello on the serial port", SOON, || serial_text(&ferry) == "hello\n");
    assert_eq!(ferry.run_state(), "running");
    ferry.quit();
}

#[test]
fn a_pvh_kernel_may_be_a_32_bit_file() {
    let Some(lab) = Lab::new() else { return };
    let code = [image::print("hello from i386\n"), image::exit(0)].concat();
    let kernel = image::write(&lab, "i386.elf", &image::Elf::new(code).bytes32());
    let mut ferry = lab.start(&Spec::new().memory("16M").kernel(&kernel).paused());
    cont_to_the_end(&mut ferry);
    assert_eq!(ferry.wait_exit(SOON), 0, "{}", ferry.stderr());
    assert_eq!(serial_text(&ferry), "hello from i386\n");
}

#[test]
fn a_guest_that_triple_faults_again_and_again_ends_with_an_error() {
    let Some(lab) = Lab::new() else { return };
    let spec = hand_made(&lab, [image::print("up\n"), image::triple_fault()].concat()).paused();
    let mut ferry = lab.start(&spec);
    cont_to_the_end(&mut ferry);
    assert_eq!(ferry.wait_exit(SOON), 1);
    assert!(serial_text(&ferry).matches("up\n").count() > 1, "a triple fault is a reset at first");
    let stderr = ferry.stderr();
    assert!(stderr.contains("triple fault"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one line says it: {stderr}");
}

#[test]
fn a_guest_that_triple_faults_at_once_ends_with_an_error() {
    let Some(lab) = Lab::new() else { return };
    let mut ferry = lab.start(&hand_made(&lab, image::triple_fault()).paused());
    cont_to_the_end(&mut ferry);
    assert_eq!(ferry.wait_exit(SOON), 1);
    assert!(ferry.stderr().contains("triple fault"), "{}", ferry.stderr());
}

#[test]
fn what_kvm_cannot_execute_is_an_internal_error_that_names_the_place() {
    let Some(lab) = Lab::new() else { return };
    let mut ferry = lab.start(&hand_made(&lab, [image::print("up\n"), image::leave_memory()].concat()).paused());
    cont_to_the_end(&mut ferry);
    assert_eq!(ferry.wait_exit(SOON), 1);
    let stderr = ferry.stderr();
    assert!(stderr.contains("0xd8000000"), "the instruction pointer is named: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "one line says it: {stderr}");
}

#[test]
fn a_signal_ends_the_process_cleanly() {
    let Some(lab) = Lab::new() else { return };
    let image = disk::image(&lab, "disk.img", 8 << 20);
    let (mut ferry, _guest) = boot(&lab, &Spec::new().disk(&image));
    ferry.signal(rustix::process::Signal::TERM);
    assert_eq!(ferry.wait_exit(SOON), 0);
    assert!(!ferry.qmp_path().exists(), "the QMP socket goes with the process");
}

#[test]
fn an_unknown_key_is_reported_by_the_guest() {
    let Some(lab) = Lab::new() else { return };
    let more = vec!["--cmdline".to_owned(), "ferry.nonsense=1".to_owned()];
    let ferry = lab.start(&Spec { workload: Workload::default(), more, ..Spec::new() });
    let mut guest = GuestLog::new(&ferry, 1);
    guest.accept_faults();
    let complaint = |line: &Line| matches!(line, Line::Error(fault) if fault.text.contains("ferry.nonsense"));
    guest.wait("a complaint about the key", SOON, |log| log.lines().iter().any(complaint).then_some(()));
}
