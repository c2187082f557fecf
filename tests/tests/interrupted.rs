//! Migrations that an operator cancels, and guests that end, reset or are stopped while they
//! migrate.

use ferry_migration::info::Status;
use ferry_tests::relay::{Fault, Spot};
use ferry_tests::scene::gave_up;
use ferry_tests::wait::wait_for;
use ferry_tests::{Lab, SOON, Scene, disk};
use serde_json::json;

/// Cancels a migration that waits at this frame, and checks that the guest runs on.
fn cancel_at(scene: &mut Scene, at: Spot) {
    let (mut destination, relay) = scene.destination_behind(at, Fault::Stall);
    scene.source.begin_migration(&relay.uri());
    relay.wait_fired();
    scene.source.qmp("migrate_cancel", json!({}));
    let info = scene.source.wait_migration_end();
    assert_eq!(info.status, Some(Status::Cancelled), "{at:?}: {info:?}");
    assert_eq!(scene.source.run_state(), "running", "{at:?}");
    let statuses = scene.source.migration_statuses();
    assert_eq!(statuses[statuses.len() - 2..], ["cancelling", "cancelled"], "{at:?}: {statuses:?}");
    scene.guest.wait_reports(1);
    if at == Spot::ControlPreamble {
        // Nobody has introduced himself, so it still waits.
        drop(relay);
        destination.quit();
    } else {
        relay.heal();
        let _ = gave_up(&mut destination);
    }
}

#[test]
fn a_migration_can_be_cancelled_at_every_step_before_the_permit() {
    let Some(mut scene) = Scene::new() else { return };
    for at in [
        Spot::ControlPreamble,
        Spot::Message("HelloAck"),
        Spot::Pages(3),
        Spot::Message("Rehearse"),
        Spot::Message("Rehearsed"),
        Spot::Marker,
        Spot::Message("Package"),
    ] {
        cancel_at(&mut scene, at);
    }
    scene.ends_well();
}

#[test]
fn a_cancelled_destination_knows_why_it_ends() {
    let Some(mut scene) = Scene::new() else { return };
    let mut destination = scene.destination();
    scene.slow_down();
    scene.source.begin_migration(&destination.wait_listening());
    scene.source.wait_migration(Status::Active);
    scene.source.qmp("migrate_cancel", json!({}));
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Cancelled));
    let error = gave_up(&mut destination);
    assert!(error.contains("cancelled"), "{error}");
    scene.ends_well();
}

#[test]
fn a_cancel_ends_a_device_that_hangs_on_either_side() {
    let Some(mut scene) = Scene::new() else { return };
    scene.source.set_parameters(json!({ "x-ferry-load-timeout-ms": 60_000 }));
    for rehearsal in [true, false] {
        scene.source.set_parameters(json!({ "x-ferry-rehearsal": rehearsal }));
        let last = if rehearsal { Status::Active } else { Status::Device };

        let mut destination = scene.destination_with("fault,at=load,do=hang,in=incoming");
        scene.source.begin_migration(&destination.wait_listening());
        scene.source.wait_migration(last);
        scene.source.qmp("migrate_cancel", json!({}));
        assert_eq!(scene.source.wait_migration_end().status, Some(Status::Cancelled));
        scene.guest.wait_reports(1);
        let _ = gave_up(&mut destination);

        let mut destination = scene.destination();
        scene.source.set_fault(json!({ "at": "save", "do": "hang", "times": 1 }));
        scene.source.begin_migration(&destination.wait_listening());
        scene.source.wait_migration(last);
        wait_for("the cancel to be accepted", SOON, || scene.source.try_qmp("migrate_cancel", json!({})).is_ok());
        assert_eq!(scene.source.wait_migration_end().status, Some(Status::Cancelled));
        scene.guest.wait_reports(1);
        let _ = gave_up(&mut destination);
        scene.source.qmp("x-ferry-fault-set", json!({ "clear": true }));
    }
    scene.ends_well();
}

#[test]
fn nothing_to_cancel_is_no_error() {
    let Some(mut scene) = Scene::new() else { return };
    scene.source.qmp("migrate_cancel", json!({}));
    let mut destination = scene.destination();
    ferry_tests::migration::move_guest(&mut scene.source, &mut destination, &mut scene.guest);
    let answer = scene.source.try_qmp("migrate_cancel", json!({}));
    assert!(answer.is_ok() || answer.is_err_and(|error| error.to_string().contains("permitted")));
    assert_eq!(scene.source.migration().status, Some(Status::Completed));
    scene.guest.wait_reports(1);
}

#[test]
fn a_cancelled_guest_is_cancelled_again_and_again() {
    let Some(mut scene) = Scene::new() else { return };
    scene.slow_down();
    for _ in 0..10 {
        let mut destination = scene.destination();
        scene.source.begin_migration(&destination.wait_listening());
        scene.source.qmp("migrate_cancel", json!({}));
        assert_eq!(scene.source.wait_migration_end().status, Some(Status::Cancelled));
        // A destination to which nobody has connected yet still waits.
        destination.kill();
    }
    scene.ends_well();
}

#[test]
fn a_guest_that_shuts_down_on_its_way_ends_the_migration_and_its_process() {
    let Some(mut scene) = Scene::with(|_, spec| spec.console()) else { return };
    let mut spec = scene.spec.clone();
    spec.console = false;
    let mut destination = scene.lab.start_destination(&spec);
    scene.slow_down();
    scene.source.begin_migration(&destination.wait_listening());
    scene.source.wait_migration(Status::Active);
    scene.source.type_in("q");
    scene.guest.wait_end();
    assert_eq!(scene.source.wait_exit(SOON), 0);
    let error = gave_up(&mut destination);
    assert!(error.contains("shut down"), "{error}");
}

#[test]
fn a_guest_that_shuts_down_by_itself_on_its_way_ends_the_migration() {
    let Some(lab) = Lab::new() else { return };
    let spec = ferry_tests::Spec::new().workload(|load| load.reports = 8);
    let mut source = lab.start(&spec);
    let mut destination = lab.start_destination(&spec);
    source.set_parameters(json!({ "max-bandwidth": 1 << 20 }));
    source.begin_migration(&destination.wait_listening());
    source.wait_migration(Status::Active);
    assert_eq!(source.wait_exit(SOON), 0);
    let error = gave_up(&mut destination);
    assert!(error.contains("shut down"), "{error}");
}

#[test]
fn a_guest_that_is_reset_on_its_way_arrives() {
    let Some(mut scene) = Scene::with(|lab, spec| spec.cpus(2).disk(&disk::image(lab, "disk.img", 4 << 20))) else {
        return;
    };
    let mut destination = scene.destination();
    scene.slow_down();
    scene.source.begin_migration(&destination.wait_listening());
    scene.source.wait_migration(Status::Active);
    for boots in 2..4 {
        scene.source.qmp("system_reset", json!({}));
        scene.guest.wait("another boot", SOON, |log| (log.boots() == boots).then_some(()));
    }
    scene.be_patient();
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Completed));
    scene.guest.moved_to(&destination);
    destination.wait_run_state("running");
    scene.guest.wait_reports(2);
    // The new process can boot it again, too.
    destination.qmp("system_reset", json!({}));
    scene.guest.wait("another boot", SOON, |log| (log.boots() == 4).then_some(()));
    scene.guest.wait_reports(2);
    scene.guest.assert_ran_in_one_place();
}

#[test]
fn an_operator_may_stop_and_resume_the_guest_while_the_destination_loads() {
    let Some(mut scene) = Scene::new() else { return };
    scene.without_rehearsal();
    for (command, arrives) in [("stop", "paused"), ("cont", "running")] {
        let (mut destination, relay) = scene.destination_behind(Spot::Message("Package"), Fault::Stall);
        scene.source.begin_migration(&relay.uri());
        relay.wait_fired();
        assert_eq!(scene.source.run_state(), "finish-migrate");
        // The state has left already: what the operator wants now goes with the permit.
        scene.source.qmp(command, json!({}));
        assert_eq!(scene.source.run_state(), "finish-migrate", "the switchover keeps the guest stopped");
        relay.heal();
        assert_eq!(scene.source.wait_migration_end().status, Some(Status::Completed));
        scene.guest.moved_to(&destination);
        destination.wait_run_state(arrives);
        destination.qmp("cont", json!({}));
        scene.guest.wait_reports(1);
        scene.source.quit();
        scene.source = destination;
        scene.without_rehearsal();
    }
    scene.guest.assert_ran_in_one_place();
}

#[test]
fn a_guest_that_was_told_to_stop_during_a_switchover_that_fails_stays_stopped() {
    let Some(mut scene) = Scene::new() else { return };
    let (mut destination, relay) = scene.destination_behind(Spot::Message("Package"), Fault::Stall);
    scene.source.begin_migration(&relay.uri());
    relay.wait_fired();
    scene.source.qmp("stop", json!({}));
    scene.source.qmp("migrate_cancel", json!({}));
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Cancelled));
    assert_eq!(scene.source.run_state(), "paused");
    relay.heal();
    let _ = gave_up(&mut destination);
    scene.source.qmp("cont", json!({}));
    scene.guest.wait_reports(1);
    scene.ends_well();
}
