//! What an operator reads of a record that a migration goes without, and why.

use std::sync::Arc;

use ferry_devices::fault::{Direction, FaultControl};
use ferry_migration::Handshake;
use ferry_migration::ownership::{Name, Partnership};
use ferry_record::file::FileRecord;
use ferry_record::{Ownership, Record, Swap};
use ferry_tests::migration::{move_guest, statuses};
use ferry_tests::scene::gave_up;
use ferry_tests::wait::wait_for;
use ferry_tests::{Ferry, Lab, SOON, Scene, Spec, disk, procfs};
use serde_json::json;

/// A guest with a disk, and so with a record.
fn scene() -> Option<Scene> {
    Scene::with(|lab, spec| spec.disk(&disk::image(lab, "disk.img", 4 << 20)))
}

/// The record of that guest, as another process opens it.
fn record_of(lab: &Lab) -> FileRecord {
    FileRecord::new(lab.path("disk.img.owner"), SOON, Arc::new(FaultControl::new(Direction::Incoming)))
}

fn without_record(spec: &Spec) -> Spec {
    let mut spec = spec.clone();
    spec.more = vec!["--ownership".into(), "none".into()];
    spec
}

/// `migrate` is refused, and nothing has begun; returns why.
fn refuses(source: &mut Ferry, to: &str) -> String {
    source.forget_events();
    let refused = source.refused("migrate", json!({ "uri": to }));
    assert_eq!(statuses(source.events()), Vec::<String>::new(), "nothing has begun");
    refused
}

#[test]
fn the_handshake_owned_is_refused_where_this_process_has_no_record() {
    let Some(mut scene) = Scene::new() else { return };
    scene.source.set_parameters(json!({ "x-ferry-handshake": "owned" }));
    let destination = scene.destination();
    let told = refuses(&mut scene.source, &destination.wait_listening());
    assert!(told.contains("start the guest with --ownership file:PATH"), "{told}");
    scene.guest.wait_reports(1);
    scene.source.set_parameters(json!({ "x-ferry-handshake": "auto" }));
    drop(destination);
    scene.ends_well();
}

#[test]
fn a_record_that_does_not_name_the_guests_process_yet_is_why_the_handshake_is_setup() {
    let Some(mut scene) = Scene::with(|lab, spec| without_record(&spec.disk(&disk::image(lab, "disk.img", 4 << 20))))
    else {
        return;
    };
    scene.spec.more.clear();
    // It tells of a hand-over of another process, and is left to that.
    let record = record_of(&scene.lab);
    let (vm, owner) = (Name::try_from("guest").unwrap(), ferry_record::new_owner().unwrap());
    let other = Record { vm, generation: 7, owner, migration_id: 9, settled: false, nonce: 0, partner: None };
    assert_eq!(record.create(&other).unwrap(), Swap::Won);
    let mut destination = scene.destination();
    move_guest(&mut scene.source, &mut destination, &mut scene.guest);
    scene.source.quit();
    scene.source = destination;

    let mut destination = scene.lab.start_destination(&without_record(&scene.spec));
    scene.source.set_parameters(json!({ "x-ferry-handshake": "owned" }));
    let told = refuses(&mut scene.source, &destination.wait_listening());
    assert!(told.contains("disk.img.owner does not") && told.contains("x-ferry-query-ownership"), "{told}");
    scene.guest.wait_reports(1);
    scene.source.set_parameters(json!({ "x-ferry-handshake": "auto" }));
    let info = move_guest(&mut scene.source, &mut destination, &mut scene.guest);
    assert_eq!(info.x_ferry_handshake, Some(Handshake::Setup));
    let why = info.x_ferry_handshake_why.expect("this process has a place for a record");
    assert!(why.contains("disk.img.owner does not name this process"), "{why}");
}

#[test]
fn a_destination_that_cannot_read_the_record_says_so_and_the_source_does_not_claim_to_know() {
    for (fault, told) in [("errno:EACCES", "Permission denied"), ("hang,times=1", "did not answer within 2 s")] {
        let Some(mut scene) = scene() else { return };
        let mut destination = scene.destination_with(&format!("fault,at=record:read,do={fault},in=incoming"));
        let info = move_guest(&mut scene.source, &mut destination, &mut scene.guest);
        assert_eq!(info.x_ferry_handshake, Some(Handshake::Setup));
        let why = info.x_ferry_handshake_why.expect("there is a record");
        assert!(why.contains("does not see, or cannot read,") && why.contains("destination's log"), "{why}");
        let log = destination.stderr();
        assert!(log.contains(told) && log.contains("disk.img.owner") && log.contains("WARN"), "{log}");
        scene.source.quit();
        destination.qmp("x-ferry-fault-set", json!({ "clear": true }));
        destination.wait_settled(2);
    }
}

#[test]
fn a_record_that_hangs_for_longer_than_the_greeting_may_take_is_named_on_both_sides() {
    let Some(mut scene) = scene() else { return };
    let spec = scene.spec.clone().incoming("defer").device("fault,at=record:read,do=hang,in=incoming");
    let mut destination = scene.lab.start(&spec);
    destination.set_parameters(json!({ "x-ferry-setup-timeout-ms": 500 }));
    destination.qmp("migrate-incoming", json!({ "uri": "tcp:127.0.0.1:0" }));
    let reason = scene.fails(&destination.listening_at());
    assert!(reason.contains("disk.img.owner did not answer") && reason.contains("then try again"), "{reason}");
    let theirs = gave_up(&mut destination);
    assert!(theirs.contains("disk.img.owner did not answer"), "{theirs}");
    scene.ends_well();
}

#[test]
fn clients_that_ask_a_record_whose_storage_hangs_leave_one_thread() {
    let Some(mut scene) = scene() else { return };
    scene.source.wait_settled(1);
    scene.source.set_fault(json!({ "at": "record:read", "do": "hang" }));
    for told in ["no answer within 2 s", "still no answer", "still no answer"] {
        let error = scene.source.ownership()["error"].as_str().map(str::to_owned).expect("it hangs");
        assert!(error.contains(told) && error.contains("see what keeps it"), "{error}");
        assert_eq!(procfs::threads(scene.source.pid(), "ferry-record").len(), 1);
    }
    scene.source.qmp("x-ferry-fault-set", json!({ "clear": true }));
    wait_for("the record to answer", SOON, || scene.source.ownership()["owned-here"] == true);
    scene.ends_well();
}

#[test]
fn a_record_that_names_a_partner_keeps_migrations_and_boots_away() {
    let Some(mut scene) = scene() else { return };
    scene.source.wait_settled(1);
    let record = record_of(&scene.lab);
    let there = record.read().unwrap().expect("the guest has a record");
    let protection = Partnership::new(there.vm, 9, there.generation, there.owner).unwrap();
    let partner = ferry_record::new_owner().unwrap();
    let enrol = protection.enrol(&partner);
    assert_eq!(record.swap(&enrol.expected, &enrol.record).unwrap(), Swap::Won);
    let named = scene.source.ownership();
    assert_eq!(named["partner"], partner.to_string(), "{named}");

    let destination = scene.destination();
    let reason = scene.fails(&destination.wait_listening());
    assert!(reason.contains(&format!("protected by {partner}")), "{reason}");
    assert_eq!(record.read().unwrap().and_then(|record| record.partner), Some(partner.clone()));
    drop(destination);

    // The primary dies: either may have the newest state, and the partner still may take over.
    scene.source.kill();
    let told = scene.lab.refuses(&scene.spec);
    assert!(told.contains(&partner.to_string()) && told.contains("--ownership …,take"), "{told}");
    let mut spec = scene.spec.clone();
    spec.more = vec!["--ownership".into(), "auto,take".into()];
    let mut taken = scene.lab.start(&spec);
    taken.wait_settled(2);
    assert_eq!(record.read().unwrap().and_then(|record| record.partner), None);
    let take_over = protection.take_over(&partner);
    let late = record.swap(&take_over.expected, &take_over.record).unwrap();
    assert!(matches!(late, Swap::Lost(_)), "{late:?}");
    taken.quit();
}
