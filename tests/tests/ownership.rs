//! Who owns the guest: the record beside the disk, and what becomes of a guest when the link
//! breaks at the worst moment.
//!
//! These guests have a writable disk, hence a record, and migrate by the handshake `owned`.

use std::path::PathBuf;

use ferry_migration::Handshake;
use ferry_migration::info::Status;
use ferry_tests::migration::move_guest;
use ferry_tests::relay::{Fault, Spot};
use ferry_tests::scene::gave_up;
use ferry_tests::wait::wait_for;
use ferry_tests::{Lab, SOON, Scene, Spec, disk};
use serde_json::json;

const PERMIT: Spot = Spot::Message("Permit");
const STARTED: Spot = Spot::Message("Started");

/// A guest with a disk.
fn scene() -> Option<Scene> {
    Scene::with(|lab, spec| spec.disk(&disk::image(lab, "disk.img", 4 << 20)))
}

fn record(lab: &Lab) -> PathBuf {
    lab.path("disk.img.owner")
}

#[test]
fn the_record_follows_the_guest_from_process_to_process() {
    let Some(mut scene) = scene() else { return };
    scene.source.wait_settled(1);
    for generation in 2..5 {
        let mut destination = scene.destination();
        assert_eq!(destination.ownership()["owned-here"], false);
        let info = move_guest(&mut scene.source, &mut destination, &mut scene.guest);
        assert_eq!(info.x_ferry_handshake, Some(Handshake::Owned));
        assert_eq!(destination.migration().x_ferry_handshake, Some(Handshake::Owned));
        destination.wait_settled(generation);
        assert_eq!(scene.source.ownership()["owned-here"], false);
        scene.source.quit();
        scene.source = destination;
    }
    scene.ends_well();
}

#[test]
fn a_lost_permit_is_decided_by_the_record_and_the_guest_goes_on_at_the_source() {
    let Some(mut scene) = scene() else { return };
    for fault in [Fault::Cut, Fault::Stall] {
        scene.be_impatient();
        let (mut destination, relay) = scene.destination_behind(PERMIT, fault);
        let reason = scene.fails(&relay.uri());
        assert!(reason.contains("the ownership record names this side"), "{reason}");
        drop(relay);
        let _ = gave_up(&mut destination);
        let generation = scene.source.ownership()["generation"].as_u64().unwrap();
        scene.source.wait_settled(generation);
    }
    scene.ends_well();
}

#[test]
fn a_permit_that_comes_too_late_starts_nothing() {
    let Some(mut scene) = scene() else { return };
    scene.source.set_parameters(json!({ "x-ferry-load-timeout-ms": 500 }));
    let (mut destination, relay) = scene.destination_behind(PERMIT, Fault::Stall);
    let reason = scene.fails(&relay.uri());
    assert!(reason.contains("the ownership record names this side"), "{reason}");
    // The source has taken the guest back; now the permit comes after all.
    relay.heal();
    let error = gave_up(&mut destination);
    assert!(error.contains("took the guest back") || error.contains("link"), "{error}");
    drop(relay);
    scene.ends_well();
}

#[test]
fn a_lost_answer_leaves_the_guest_where_the_record_says() {
    let Some(mut scene) = scene() else { return };
    let (mut destination, relay) = scene.destination_behind(STARTED, Fault::Cut);
    scene.source.begin_migration(&relay.uri());
    let info = scene.source.wait_migration_end();
    assert_eq!(info.status, Some(Status::Completed), "{info:?}");
    assert_eq!(info.error_desc, None, "what was in doubt is so no more");
    scene.guest.moved_to(&destination);
    destination.wait_run_state("running");
    destination.wait_settled(2);
    scene.guest.wait_reports(2);
    scene.guest.assert_ran_in_one_place();
    scene.source.quit();
    scene.source = destination;
    scene.ends_well();
}

#[test]
fn a_lost_answer_in_postcopy_leads_to_a_pause_that_can_be_recovered() {
    let Some(mut scene) = scene() else { return };
    scene.source.allow_postcopy();
    scene.source.set_parameters(
        json!({ "x-ferry-postcopy-when": "first-round", "downtime-limit": 0, "max-bandwidth": 4 << 20 }),
    );
    let (mut destination, relay) = scene.destination_behind(STARTED, Fault::Cut);
    scene.source.begin_migration(&relay.uri());
    scene.source.wait_migration(Status::PostcopyPaused);
    scene.source.set_parameters(json!({ "max-bandwidth": 0 }));
    scene.guest.moved_to(&destination);
    scene.source.qmp("migrate", json!({ "uri": destination.wait_listening(), "resume": true }));
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Completed));
    assert_eq!(destination.wait_migration_end().status, Some(Status::Completed));
    destination.wait_settled(2);
    scene.guest.wait_reports(2);
    scene.guest.assert_ran_in_one_place();
    scene.source.quit();
    scene.source = destination;
    scene.ends_well();
}

#[test]
fn a_record_that_is_out_of_reach_leaves_it_uncertain_until_it_is_back() {
    let Some(mut scene) = scene() else { return };
    scene.be_impatient();
    let (mut destination, relay) = scene.destination_behind(PERMIT, Fault::Cut);
    // The permit's fault is planned; the record goes out of reach when the guest has stopped.
    scene.source.set_fault(json!({ "at": "save", "do": "delay:300", "in": "outgoing" }));
    scene.without_rehearsal();
    scene.source.begin_migration(&relay.uri());
    scene.source.wait_migration(Status::Device);
    let away = scene.lab.path("away");
    std::fs::rename(record(&scene.lab), &away).unwrap();
    let info = scene.source.wait_migration(Status::Uncertain);
    assert!(info.error_desc.is_some_and(|why| why.contains("ownership record")));
    assert!(scene.source.ownership()["error"].is_string());
    for command in ["migrate_cancel", "migrate-start-postcopy", "migrate-pause"] {
        assert!(!scene.source.refused(command, json!({})).is_empty());
    }
    assert_ne!(scene.source.run_state(), "running");
    let _ = gave_up(&mut destination);
    std::fs::rename(&away, record(&scene.lab)).unwrap();
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Failed));
    scene.source.wait_run_state("running");
    scene.source.wait_settled(2);
    scene.ends_well();
}

#[test]
fn a_destination_without_the_record_does_not_run_and_the_source_goes_on() {
    let Some(mut scene) = scene() else { return };
    // The destination sees the same record by another path, which can be taken from it.
    let other = scene.lab.path("other.owner");
    std::fs::hard_link(record(&scene.lab), &other).unwrap();
    let mut spec = scene.spec.clone();
    spec.more = vec!["--ownership".into(), format!("file:{}", other.display())];
    let mut destination = scene.lab.start_destination(&spec);
    let relay = ferry_tests::Relay::new(
        &destination.wait_listening(),
        Some(ferry_tests::relay::Plan { at: PERMIT, fault: Fault::Stall }),
    );
    scene.source.begin_migration(&relay.uri());
    relay.wait_fired();
    std::fs::remove_file(&other).unwrap();
    relay.heal();
    // It closes the link for want of the record, so that the source asks it.
    let reason = scene.source.wait_migration_failed();
    assert!(reason.contains("the ownership record names this side"), "{reason}");
    std::fs::hard_link(record(&scene.lab), &other).unwrap();
    let error = gave_up(&mut destination);
    assert!(error.contains("took the guest back"), "{error}");
    drop(relay);
    scene.ends_well();
}

#[test]
fn a_destination_that_sees_no_record_takes_the_guest_by_the_setup_handshake() {
    let Some(mut scene) = scene() else { return };
    let mut spec = scene.spec.clone();
    spec.more = vec!["--ownership".into(), "none".into()];
    // Told to insist, the source does not go without.
    scene.source.set_parameters(json!({ "x-ferry-handshake": "owned" }));
    let mut destination = scene.lab.start_destination(&spec);
    let reason = scene.fails(&destination.wait_listening());
    assert!(reason.contains("--ownership"), "{reason}");
    let _ = gave_up(&mut destination);
    scene.source.wait_settled(1);

    scene.source.set_parameters(json!({ "x-ferry-handshake": "auto" }));
    let mut destination = scene.lab.start_destination(&spec);
    let info = move_guest(&mut scene.source, &mut destination, &mut scene.guest);
    assert_eq!(info.x_ferry_handshake, Some(Handshake::Setup));
    assert!(
        info.x_ferry_handshake_why
            .is_some_and(|why| why.contains("does not see, or cannot read, the ownership record"))
    );
    // A process that boots the guest here must not find the record settled: the guest runs
    // elsewhere.
    let there = scene.source.ownership();
    assert_eq!((&there["settled"], &there["generation"]), (&json!(false), &json!(1)));
    let beside = scene.lab.refuses(&scene.spec);
    assert!(beside.contains("a hand-over is under way"), "{beside}");
    scene.source.quit();
    scene.source = destination;

    // The next process has a record again, which tells of a hand-over that the guest has come
    // through: it gets it as soon as it has the guest.
    let mut destination = scene.destination();
    move_guest(&mut scene.source, &mut destination, &mut scene.guest);
    destination.wait_settled(2);
    assert!(!destination.stderr().contains("ERROR"), "{}", destination.stderr());
    scene.source.quit();
    scene.source = destination;
    scene.ends_well();
}

#[test]
fn the_operator_decides_without_a_record() {
    let Some(mut scene) = Scene::new() else { return };
    let nobody = scene.source.refused("x-ferry-resolve", json!({ "owner": "source", "peer-fenced": true }));
    assert!(nobody.contains("no migration"), "{nobody}");
    for owner in ["source", "destination"] {
        let (mut destination, relay) = scene.destination_behind(PERMIT, Fault::Cut);
        scene.source.begin_migration(&relay.uri());
        scene.source.wait_migration(Status::Uncertain);
        let _ = gave_up(&mut destination);
        let refused = scene.source.refused("x-ferry-resolve", json!({ "owner": owner, "peer-fenced": false }));
        assert!(refused.contains("peer-fenced"), "{refused}");
        scene.source.qmp("x-ferry-resolve", json!({ "owner": owner, "peer-fenced": true }));
        let info = scene.source.wait_migration_end();
        if owner == "source" {
            assert_eq!(info.status, Some(Status::Failed));
            assert!(info.error_desc.is_some_and(|why| why.contains("operator")));
            scene.source.wait_run_state("running");
            scene.guest.wait_reports(2);
        } else {
            assert_eq!(info.status, Some(Status::Completed));
            assert_eq!(scene.source.run_state(), "postmigrate");
            assert!(!scene.source.refused("cont", json!({})).is_empty());
        }
    }
    scene.guest.assert_ran_in_one_place();
}

#[test]
fn the_operator_may_decide_while_the_record_is_out_of_reach() {
    let Some(mut scene) = scene() else { return };
    let (mut destination, relay) = scene.destination_behind(PERMIT, Fault::Stall);
    scene.source.begin_migration(&relay.uri());
    relay.wait_fired();
    let away = scene.lab.path("away");
    std::fs::rename(record(&scene.lab), &away).unwrap();
    relay.cut_all();
    scene.source.wait_migration(Status::Uncertain);
    let _ = gave_up(&mut destination);
    let refused = scene.source.refused("x-ferry-resolve", json!({ "owner": "source", "peer-fenced": true }));
    assert!(refused.contains("cannot be reached") && refused.contains("never-ran"), "{refused}");
    scene.source.qmp("x-ferry-resolve", json!({ "owner": "source", "peer-fenced": true, "never-ran": true }));
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Failed));
    scene.source.wait_run_state("running");
    // The record learns of it when it is back.
    std::fs::rename(&away, record(&scene.lab)).unwrap();
    drop(relay);
    scene.ends_well();
}

#[test]
fn when_the_operator_gives_the_guest_back_the_record_says_so_before_it_runs() {
    let slow = "fault,at=record:write,do=delay:300,in=outgoing";
    let Some(mut scene) = Scene::with(|lab, spec| spec.disk(&disk::image(lab, "disk.img", 4 << 20)).device(slow))
    else {
        return;
    };
    // It has claimed the guest, and dies before it runs it.
    let mut destination = scene.destination_with("fault,at=step:Start,do=kill,in=incoming");
    scene.source.begin_migration(&destination.wait_listening());
    scene.source.wait_migration(Status::Uncertain);
    let _killed = destination.wait_exit(SOON);
    assert_eq!(scene.source.ownership()["owned-here"], false);
    scene.source.qmp("x-ferry-resolve", json!({ "owner": "source", "peer-fenced": true, "never-ran": true }));
    scene.source.wait_run_state("running");
    assert_eq!(scene.source.ownership()["owned-here"], true);
    scene.source.wait_settled(3);
    scene.ends_well();
}

#[test]
fn a_record_that_tells_of_the_hand_over_of_another_process_is_left_as_it_is() {
    let Some(mut scene) = scene() else { return };
    // Another life of the guest, which has left this record in the middle of a hand-over.
    scene.source.set_parameters(json!({ "x-ferry-handshake": "setup" }));
    let mut blind = scene.spec.clone();
    blind.more = vec!["--ownership".into(), "none".into()];
    let mut elsewhere = scene.lab.start_destination(&blind);
    move_guest(&mut scene.source, &mut elsewhere, &mut scene.guest);
    let there = scene.source.ownership();
    assert_eq!(there["settled"], false);
    elsewhere.quit();
    scene.source.quit();

    // A guest that boots afresh without a record, and comes to where that record is.
    let mut source = scene.lab.start(&blind);
    let mut destination = scene.destination();
    source.migrate_to(&destination.wait_listening());
    wait_for("a word about the record", SOON, || destination.stderr().contains("the guest may run twice"));
    assert!(destination.stderr().contains("ERROR"), "{}", destination.stderr());
    let left = destination.ownership();
    for field in ["settled", "generation", "owner"] {
        assert_eq!(left[field], there[field], "{left}");
    }
    assert_eq!(left["owned-here"], json!(false));
    let told = left["may-run-twice"].as_str().expect("a client reads it as well");
    assert!(told.contains("the guest may run twice") && told.contains("disk.img.owner"), "{told}");
}

#[test]
fn a_guest_that_has_arrived_leaves_only_when_the_record_names_its_process() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::default().disk(&disk::image(&lab, "disk.img", 4 << 20));
    let mut blind = spec.clone();
    blind.more = vec!["--ownership".into(), "none".into()];
    let mut source = lab.start(&blind);
    let mut destination = lab.start_destination(&spec.clone().device("fault,at=record:write,do=errno:EIO"));
    source.migrate_to(&destination.wait_listening());
    destination.wait_migration(Status::Completed);
    // Written in the middle of the next migration, the record would let a boot come between.
    let mut next = lab.start_destination(&spec);
    let refused = destination.refused("migrate", json!({ "uri": next.wait_listening() }));
    assert!(refused.contains("disk.img.owner does not name this process yet"), "{refused}");
    assert_eq!(destination.run_state(), "running");
    destination.qmp("x-ferry-fault-set", json!({ "clear": true }));
    destination.wait_settled(1);
    destination.migrate_to(&next.wait_listening());
    next.wait_settled(2);
}

#[test]
fn a_process_that_ends_before_the_hand_over_is_settled_settles_it_first() {
    let Some(mut scene) = scene() else { return };
    // The destination has the guest when it settles: `outgoing`. It tries again half a second
    // later.
    let mut destination = scene.destination_with("fault,at=record:write,do=errno:EIO,times=1,in=outgoing");
    move_guest(&mut scene.source, &mut destination, &mut scene.guest);
    destination.quit();
    scene.source.quit();
    // A boot over a record that is in a hand-over is refused.
    scene.lab.start(&scene.spec).wait_settled(3);
}
