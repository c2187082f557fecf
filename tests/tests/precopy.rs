//! Precopy migrations that succeed: under load, to and fro, with everything compared that can be
//! compared.

use std::time::{Duration, Instant};

use ferry_guest::workload::{Order, Rate};
use ferry_migration::info::{MigrationInfo, Status};
use ferry_migration::pages::PAGE_SIZE;
use ferry_tests::migration::{move_guest, statuses};
use ferry_tests::relay::{Fault, Plan, Spot};
use ferry_tests::wait::wait_for;
use ferry_tests::{Ferry, GuestLog, Lab, Relay, SOON, Spec, disk, image, memory};
use serde_json::json;

/// A guest that keeps two vCPUs, memory, vector registers and a disk busy.
fn loaded(lab: &Lab) -> Spec {
    let image = disk::image(lab, "disk.img", 16 << 20);
    Spec::new().cpus(2).memory("128M").disk(&image).workload(|load| {
        load.working_set = 24 << 20;
        load.rate = Rate::BytesPerSecond(32 << 20);
        load.order = Order::Rand;
    })
}

fn start(lab: &Lab, spec: &Spec) -> (Ferry, GuestLog) {
    let ferry = lab.start(spec);
    let mut guest = GuestLog::new(&ferry, spec.cpus);
    guest.wait_ready();
    (ferry, guest)
}

#[test]
fn a_loaded_guest_moves_to_and_fro_ten_times() {
    let Some(lab) = Lab::new() else { return };
    let spec = loaded(&lab);
    let (mut here, mut guest) = start(&lab, &spec);
    guest.wait_reports(1);
    for _ in 0..10 {
        let mut there = lab.start_destination(&spec);
        let disk_before = guest.newest(0).disk_requests;
        let info = move_guest(&mut here, &mut there, &mut guest);
        check_numbers(&info, 128 << 20);
        guest.wait("the disk to be used again", SOON, |log| (log.newest(0).disk_requests > disk_before).then_some(()));
        here.quit();
        here = there;
    }
    guest.assert_ran_in_one_place();
    here.quit();
}

/// What a completed migration says about itself must fit together.
fn check_numbers(info: &MigrationInfo, ram_bytes: u64) {
    let ram = info.ram.as_ref().expect("page counters");
    assert_eq!(ram.total, ram_bytes);
    assert_eq!(ram.remaining, 0, "nothing is left: {info:?}");
    assert!(ram.normal + ram.duplicate >= ram.total / PAGE_SIZE, "every page was sent at least once: {ram:?}");
    assert_eq!(ram.normal_bytes, ram.normal * PAGE_SIZE);
    assert!(ram.transferred >= ram.normal_bytes, "{ram:?}");
    assert!(ram.dirty_sync_count >= 1, "{ram:?}");
    let parts = info.x_ferry_downtime.expect("the parts of the downtime");
    let total_us = info.x_ferry_downtime_us.expect("the whole downtime");
    assert_eq!(parts.total_us(), total_us);
    assert_eq!(info.downtime, Some(total_us.div_ceil(1000)));
    assert!(total_us > 0 && parts.stop_us > 0 && parts.device_save_us > 0 && parts.load_us > 0, "{parts:?}");
    let total_ms = info.total_time.expect("the total time");
    assert!(info.setup_time.expect("the setup time") <= total_ms);
    assert!(total_us / 1000 <= total_ms, "the downtime is part of the whole: {info:?}");
    assert_eq!(info.error_desc, None);
}

#[test]
fn the_guest_saw_the_downtime_that_is_reported() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new().workload(|load| load.rate = Rate::BytesPerSecond(16 << 20));
    let (mut source, mut guest) = start(&lab, &spec);
    guest.wait_reports(1);
    let mut destination = lab.start_destination(&spec);
    // The stop is made long enough to stand out from what a busy host does to a guest.
    source.set_fault(json!({ "at": "save", "do": "delay:400", "in": "outgoing" }));
    source.set_parameters(json!({ "x-ferry-rehearsal": false }));
    let info = move_guest(&mut source, &mut destination, &mut guest);
    let parts = info.x_ferry_downtime.expect("the parts of the downtime");
    assert!(parts.device_save_us >= 400_000, "the delay was in saving: {parts:?}");
    // The vCPUs run on for part of the time that stopping them takes.
    let stopped_us = parts.total_us() - parts.stop_us;
    let gap_us = guest.worst_gap_us();
    assert!(gap_us + 5_000 >= stopped_us, "the guest saw {gap_us} µs of {parts:?}");
}

#[test]
fn events_tell_the_story_in_order() {
    let Some(lab) = Lab::new() else { return };
    let (mut source, mut guest) = start(&lab, &Spec::new());
    let mut destination = lab.start_destination(&Spec::new());
    move_guest(&mut source, &mut destination, &mut guest);
    let events = source.events().to_vec();
    assert_eq!(statuses(&events), ["setup", "active", "device", "completed"]);
    let at = |name: &str, status: Option<&str>| {
        let wanted = |e: &&serde_json::Value| e["event"] == name && status.is_none_or(|s| e["data"]["status"] == s);
        events.iter().position(|e| wanted(&e)).unwrap_or_else(|| panic!("no {name} {status:?} in {events:#?}"))
    };
    assert!(at("MIGRATION", Some("active")) < at("MIGRATION_PASS", None));
    assert!(at("MIGRATION_PASS", None) < at("STOP", None));
    assert!(at("STOP", None) < at("MIGRATION", Some("device")));
    let passes: Vec<_> =
        events.iter().filter(|e| e["event"] == "MIGRATION_PASS").map(|e| e["data"]["pass"].as_u64()).collect();
    let expected: Vec<_> = (1..=passes.len() as u64).map(Some).collect();
    assert_eq!(passes, expected, "passes count from 1");
    assert_eq!(source.migration().ram.unwrap().dirty_sync_count, passes.len() as u64);
    assert!(!events.iter().any(|e| e["event"] == "RESUME"), "the source never resumes after a success");

    let events = destination.events().to_vec();
    assert_eq!(statuses(&events).first().map(String::as_str), Some("setup"));
    assert_eq!(statuses(&events).last().map(String::as_str), Some("completed"));
    assert!(events.iter().any(|e| e["event"] == "RESUME"), "the guest starts on the destination");
}

#[test]
fn both_sides_answer_query_migrate_and_the_source_is_postmigrate() {
    let Some(lab) = Lab::new() else { return };
    let (mut source, mut guest) = start(&lab, &Spec::new());
    let mut destination = lab.start_destination(&Spec::new());
    assert_eq!(destination.run_state(), "inmigrate");
    assert_eq!(source.migration().status, None, "none was started");
    move_guest(&mut source, &mut destination, &mut guest);
    let (sent, received) = (source.migration(), destination.migration());
    assert_eq!(sent.x_ferry_direction.as_deref(), Some("outgoing"));
    assert_eq!(received.x_ferry_direction.as_deref(), Some("incoming"));
    assert_eq!(received.status, Some(Status::Completed));
    let (sent_ram, received_ram) = (sent.ram.unwrap(), received.ram.unwrap());
    assert_eq!((sent_ram.normal, sent_ram.duplicate), (received_ram.normal, received_ram.duplicate));

    let reason = source.refused("cont", json!({}));
    assert!(reason.contains("handed over"), "{reason}");
    let reason = source.refused("migrate", json!({ "uri": "tcp:127.0.0.1:1" }));
    assert!(reason.contains("handed over"), "{reason}");
    assert_eq!(source.run_state(), "postmigrate");
    source.quit();
}

#[test]
fn zero_pages_travel_as_bits() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new().memory("256M").workload(|load| load.working_set = 4 << 20);
    let (mut source, mut guest) = start(&lab, &spec);
    let mut destination = lab.start_destination(&spec);
    let ram = move_guest(&mut source, &mut destination, &mut guest).ram.unwrap();
    assert!(ram.duplicate > 60_000, "most of 65536 pages are zero: {ram:?}");
    assert!(ram.transferred < 64 << 20, "{ram:?}");
    let held = ferry_tests::procfs::Holdings::of(destination.pid());
    assert!(held.rss_kib < 160 << 10, "the destination takes no memory for zero pages: {held}");
}

/// Migrates a running guest to a destination that keeps it stopped, and compares all memory.
fn memory_is_equal(from: &str, to: &str) {
    let Some(lab) = Lab::new() else { return };
    // Without a disk: that may still work on what the guest had asked for before it was stopped.
    let spec = Spec { disk: None, ..loaded(&lab) };
    let (mut source, mut guest) = start(&lab, &spec.clone().memory(&format!("128M,backing={from}")));
    guest.wait_reports(1);
    let mut destination = lab.start_destination(&spec.memory(&format!("128M,backing={to}")).paused());
    let uri = destination.wait_listening();
    source.migrate_to(&uri);
    guest.moved_to(&destination);
    destination.wait_run_state("paused");
    let hash = source.memory_hash();
    assert!(hash["nonzero-pages"].as_u64().unwrap() > 24 * 256, "the working set is there: {hash}");
    memory::assert_equal(&mut source, &mut destination, 2);
    destination.qmp("cont", json!({}));
    guest.wait_reports(2);
    guest.assert_ran_in_one_place();
}

#[test]
fn memory_is_equal_anon_to_anon() {
    memory_is_equal("anon", "anon");
}

#[test]
fn memory_is_equal_memfd_to_memfd() {
    memory_is_equal("memfd", "memfd");
}

#[test]
fn memory_is_equal_anon_to_memfd() {
    memory_is_equal("anon", "memfd");
}

#[test]
fn memory_is_equal_memfd_to_anon() {
    memory_is_equal("memfd", "anon");
}

#[test]
fn a_stopped_guest_arrives_stopped() {
    let Some(lab) = Lab::new() else { return };
    let spec = loaded(&lab);
    let (mut source, mut guest) = start(&lab, &spec);
    guest.wait_reports(1);
    source.qmp("stop", json!({}));
    let hash = source.memory_hash();
    let mut destination = lab.start_destination(&spec);
    let uri = destination.wait_listening();
    source.migrate_to(&uri);
    guest.moved_to(&destination);
    destination.wait_run_state("paused");
    assert_eq!(source.memory_hash(), hash, "the source's memory is as it was");
    memory::assert_equal(&mut source, &mut destination, 2);
    destination.qmp("cont", json!({}));
    guest.wait_reports(2);
    guest.assert_ran_in_one_place();
}

#[test]
fn a_guest_that_is_stopped_or_resumed_on_its_way_arrives_as_told() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new().workload(|load| load.working_set = 16 << 20);
    let (mut source, mut guest) = start(&lab, &spec);
    for (command, arrives) in [("stop", "paused"), ("cont", "running")] {
        let mut destination = lab.start_destination(&spec);
        source.set_parameters(json!({ "max-bandwidth": 4 << 20 }));
        let uri = destination.wait_listening();
        source.begin_migration(&uri);
        source.wait_migration(Status::Active);
        source.qmp(command, json!({}));
        source.set_parameters(json!({ "max-bandwidth": 0 }));
        assert_eq!(source.wait_migration_end().status, Some(Status::Completed));
        guest.moved_to(&destination);
        destination.wait_run_state(arrives);
        source = destination;
    }
    guest.wait_reports(2);
    guest.assert_ran_in_one_place();
}

#[test]
fn a_guest_moves_over_a_unix_socket() {
    let Some(lab) = Lab::new() else { return };
    let spec = loaded(&lab);
    let (mut source, mut guest) = start(&lab, &spec);
    let path = lab.path("migrate.sock");
    let at = format!("unix:{}", path.display());
    let mut destination = lab.start(&spec.clone().incoming(&at));
    assert_eq!(destination.wait_listening(), at);
    move_guest(&mut source, &mut destination, &mut guest);
    assert!(!path.exists(), "the socket's file goes with its listener");
}

#[test]
fn a_deferred_destination_is_told_where_to_listen() {
    let Some(lab) = Lab::new() else { return };
    let (mut source, mut guest) = start(&lab, &Spec::new());
    let mut destination = lab.start(&Spec::new().incoming("defer"));
    let reason = source.refused("migrate-incoming", json!({ "uri": "tcp:127.0.0.1:0" }));
    assert!(reason.contains("--incoming"), "{reason}");
    destination.qmp("migrate-incoming", json!({ "uri": "tcp:127.0.0.1:0" }));
    let address = destination.qmp("query-migrate", json!({}))["socket-address"][0].clone();
    assert_eq!(format!("tcp:127.0.0.1:{}", address["port"].as_str().unwrap()), destination.wait_listening());
    move_guest(&mut source, &mut destination, &mut guest);
}

#[test]
fn a_bandwidth_cap_holds_and_can_be_lifted() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new().workload(|load| (load.working_set, load.rate) = (32 << 20, Rate::BytesPerSecond(4 << 20)));
    let (mut source, mut guest) = start(&lab, &spec);
    let mut destination = lab.start_destination(&spec);
    source.set_parameters(json!({ "max-bandwidth": 8 << 20 }));
    let uri = destination.wait_listening();
    let began = Instant::now();
    source.begin_migration(&uri);
    wait_for("8 MiB to be sent", SOON, || source.migration().ram.is_some_and(|ram| ram.transferred >= 8 << 20));
    assert!(began.elapsed() >= Duration::from_millis(500), "8 MiB at 8 MiB/s took {:?}", began.elapsed());
    assert_eq!(source.migration().status, Some(Status::Active));
    source.set_parameters(json!({ "max-bandwidth": 0 }));
    assert_eq!(source.wait_migration_end().status, Some(Status::Completed));
    guest.moved_to(&destination);
    destination.wait_run_state("running");
    guest.wait_reports(2);
}

/// A guest that dirties its memory faster than the capped link carries it.
fn too_busy(lab: &Lab) -> (Spec, Ferry, GuestLog) {
    let load =
        |load: &mut ferry_guest::Workload| (load.working_set, load.rate) = (16 << 20, Rate::BytesPerSecond(64 << 20));
    let spec = Spec::new().workload(load);
    let (mut source, guest) = start(lab, &spec);
    source.set_parameters(json!({ "max-bandwidth": 16 << 20, "downtime-limit": 10, "x-ferry-max-rounds": 3 }));
    (spec, source, guest)
}

#[test]
fn precopy_that_does_not_converge_fails_at_its_limit() {
    let Some(lab) = Lab::new() else { return };
    let (spec, mut source, mut guest) = too_busy(&lab);
    let mut destination = lab.start_destination(&spec);
    let uri = destination.wait_listening();
    source.begin_migration(&uri);
    let reason = source.wait_migration_failed();
    assert!(reason.contains("did not converge") && reason.contains("3 rounds"), "{reason}");
    assert_eq!(source.migration_statuses(), ["setup", "active", "failed"]);
    assert_eq!(destination.wait_exit(SOON), 1);
    assert!(destination.stderr().contains("did not converge"), "the destination knows why: {}", destination.stderr());
    guest.wait_reports(2);
}

#[test]
fn precopy_that_does_not_converge_switches_when_told() {
    let Some(lab) = Lab::new() else { return };
    let (spec, mut source, mut guest) = too_busy(&lab);
    source.set_parameters(json!({ "x-ferry-on-limit": "switch" }));
    let mut destination = lab.start_destination(&spec);
    let info = move_guest(&mut source, &mut destination, &mut guest);
    assert!(info.ram.unwrap().dirty_sync_count >= 3);
}

#[test]
fn a_page_that_becomes_zero_after_it_was_sent_arrives_zero() {
    let Some(lab) = Lab::new() else { return };
    let fill = |value| image::fill(4 << 20, 64 << 10, value);
    let code = [fill(0x5555_5555), image::print("full\n"), image::wait_for_input(), fill(0), image::print("zero\n")];
    let kernel = image::write(&lab, "zero.elf", &image::Elf::new([code.concat(), image::halt()].concat()).bytes());
    let spec = Spec::new().memory("16M").kernel(&kernel);
    let mut source = lab.start(&spec.clone().console());
    let wait_text = |ferry: &Ferry, text: &str| {
        let path = ferry.serial().to_owned();
        wait_for(&format!("'{text}' from the guest"), SOON, || std::fs::read_to_string(&path).unwrap().contains(text));
    };
    wait_text(&source, "full");
    let mut destination = lab.start_destination(&spec.paused());
    // All pages have been sent when the rehearsal begins.
    let plan = Plan { at: Spot::Message("Rehearse"), fault: Fault::Stall };
    let relay = Relay::new(&destination.wait_listening(), Some(plan));
    source.begin_migration(&relay.uri());
    relay.wait_fired();
    source.type_in("z");
    wait_text(&source, "zero");
    relay.heal();
    assert_eq!(source.wait_migration_end().status, Some(Status::Completed));
    destination.wait_run_state("paused");
    memory::assert_equal(&mut source, &mut destination, 1);
}
