//! What happens around the permit: the one moment when a link that breaks leaves the source in
//! doubt.
//!
//! These guests have no disk, hence no ownership record: the `setup` handshake, which never runs a
//! guest twice and may end in `uncertain`.

use ferry_migration::info::Status;
use ferry_tests::relay::{Fault, Spot};
use ferry_tests::scene::gave_up;
use ferry_tests::{Ferry, Scene, disk};
use serde_json::json;

const PERMIT: Spot = Spot::Message("Permit");
const STARTED: Spot = Spot::Message("Started");

/// An uncertain source keeps the guest stopped, whatever the operator says short of resolving it.
fn stays_uncertain(source: &mut Ferry) {
    let info = source.wait_migration_end_or(Status::Uncertain);
    assert_eq!(info.status, Some(Status::Uncertain), "{info:?}");
    let why = info.error_desc.expect("an uncertain migration says why");
    assert!(why.contains("permit"), "{why}");
    let reason = source.refused("migrate_cancel", json!({}));
    assert!(reason.contains("permitted"), "{reason}");
    let reason = source.refused("migrate", json!({ "uri": "tcp:127.0.0.1:1" }));
    assert!(!reason.is_empty());
    // Whether `cont` is refused or remembered, the guest does not run.
    let _ = source.try_qmp("cont", json!({}));
    assert_ne!(source.run_state(), "running");
    let len = source.serial().metadata().unwrap().len();
    for _ in 0..20 {
        source.memory_hash();
    }
    assert_eq!(source.serial().metadata().unwrap().len(), len, "nothing runs on an uncertain source");
}

#[test]
fn a_permit_that_is_lost_with_the_link_leaves_the_source_uncertain_and_nobody_running() {
    let Some(mut scene) = Scene::new() else { return };
    let (mut destination, relay) = scene.destination_behind(PERMIT, Fault::Cut);
    scene.source.begin_migration(&relay.uri());
    stays_uncertain(&mut scene.source);
    let error = gave_up(&mut destination);
    assert!(error.contains("waiting for the permit"), "{error}");
}

#[test]
fn a_permit_that_arrives_on_a_link_that_then_breaks_starts_the_guest_once() {
    let Some(mut scene) = Scene::new() else { return };
    let (mut destination, relay) = scene.destination_behind(PERMIT, Fault::CutAfter);
    scene.source.begin_migration(&relay.uri());
    destination.wait_run_state("running");
    // `Started` may have passed before the link was cut.
    if scene.source.wait_migration_end_or(Status::Uncertain).status == Some(Status::Uncertain) {
        stays_uncertain(&mut scene.source);
    }
    scene.guest.moved_to(&destination);
    scene.guest.wait_reports(2);
    scene.guest.assert_ran_in_one_place();
}

#[test]
fn a_started_that_is_lost_leaves_the_source_uncertain_and_the_guest_at_the_destination() {
    let Some(mut scene) = Scene::new() else { return };
    let (mut destination, relay) = scene.destination_behind(STARTED, Fault::Cut);
    scene.source.begin_migration(&relay.uri());
    stays_uncertain(&mut scene.source);
    destination.wait_run_state("running");
    scene.guest.moved_to(&destination);
    scene.guest.wait_reports(2);
    scene.guest.assert_ran_in_one_place();
}

#[test]
fn a_permit_that_is_late_is_no_failure() {
    let Some(mut scene) = Scene::new() else { return };
    for spot in [PERMIT, STARTED] {
        let (mut destination, relay) = scene.destination_behind(spot, Fault::Stall);
        scene.source.begin_migration(&relay.uri());
        relay.wait_fired();
        let reason = scene.source.refused("migrate_cancel", json!({}));
        assert!(reason.contains("permitted"), "the cancel comes too late and says why: {reason}");
        relay.heal();
        assert_eq!(scene.source.wait_migration_end().status, Some(Status::Completed));
        scene.guest.moved_to(&destination);
        destination.wait_run_state("running");
        scene.guest.wait_reports(2);
        scene.guest.assert_ran_in_one_place();
        scene.source.quit();
        scene.source = destination;
    }
}

#[test]
fn an_uncertain_source_completes_when_the_word_comes_late() {
    let Some(mut scene) = Scene::new() else { return };
    scene.be_impatient();
    let (mut destination, relay) = scene.destination_behind(STARTED, Fault::Stall);
    scene.source.begin_migration(&relay.uri());
    stays_uncertain(&mut scene.source);
    assert_eq!(destination.run_state(), "running");
    relay.heal();
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Completed));
    scene.guest.moved_to(&destination);
    scene.guest.wait_reports(2);
    scene.guest.assert_ran_in_one_place();
    scene.source.quit();
}

#[test]
fn a_destination_that_dies_when_the_permit_is_on_its_way_leaves_the_source_uncertain() {
    let Some(mut scene) = Scene::new() else { return };
    let (mut destination, relay) = scene.destination_behind(PERMIT, Fault::Stall);
    scene.source.begin_migration(&relay.uri());
    relay.wait_fired();
    destination.kill();
    relay.heal();
    stays_uncertain(&mut scene.source);
}

#[test]
fn a_destination_that_freezes_when_the_permit_is_on_its_way_runs_the_guest_or_gives_it_back() {
    let Some(mut scene) = Scene::new() else { return };
    scene.be_impatient();
    let (mut destination, relay) = scene.destination_behind(PERMIT, Fault::Stall);
    scene.source.begin_migration(&relay.uri());
    relay.wait_fired();
    destination.freeze();
    relay.heal();
    stays_uncertain(&mut scene.source);
    destination.thaw();
    // It finds the permit, or first that it has heard nothing for too long; either is told to the
    // source.
    let info = scene.source.wait_migration_end();
    if info.status == Some(Status::Failed) {
        let _ = gave_up(&mut destination);
        scene.source.wait_run_state("running");
        return scene.ends_well();
    }
    assert_eq!(info.status, Some(Status::Completed), "{info:?}");
    scene.guest.moved_to(&destination);
    scene.guest.wait_reports(2);
    scene.guest.assert_ran_in_one_place();
}

#[test]
fn a_ready_that_comes_twice_does_not_run_the_guest_twice() {
    let Some(mut scene) = Scene::new() else { return };
    let (destination, relay) = scene.destination_behind(Spot::Message("Ready"), Fault::Repeat);
    scene.source.begin_migration(&relay.uri());
    let info = scene.source.wait_migration_end_or(Status::Uncertain);
    assert!(matches!(info.status, Some(Status::Uncertain | Status::Completed)), "{info:?}");
    scene.guest.moved_to(&destination);
    scene.guest.wait_reports(2);
    scene.guest.assert_ran_in_one_place();
}

#[test]
fn a_destination_that_cannot_take_the_disk_gives_the_guest_back() {
    let Some(mut scene) = Scene::with(|lab, spec| spec.disk(&disk::image(lab, "disk.img", 4 << 20))) else { return };
    let (mut destination, relay) = scene.destination_behind(PERMIT, Fault::Hold);
    scene.source.begin_migration(&relay.uri());
    let thief = scene.steal_disk(&relay);
    relay.release();
    let info = scene.source.wait_migration_end();
    assert_eq!(info.status, Some(Status::Failed), "{info:?}");
    let reason = info.error_desc.expect("a failed migration says why");
    assert!(reason.contains("virtio-blk/0") && reason.contains("disk.img"), "{reason}");
    assert!(reason.contains("stays stopped"), "the source cannot take the disk back: {reason}");
    let _ = gave_up(&mut destination);
    assert_eq!(scene.source.run_state(), "paused");
    thief.release();
    scene.source.qmp("cont", json!({}));
    scene.source.wait_run_state("running");
    scene.ends_well();
}
