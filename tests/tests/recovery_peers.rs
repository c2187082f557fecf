//! A postcopy in which one side is killed, frozen, lost or confused: what the other says, and what
//! it refuses.

use ferry_migration::info::Status;
use ferry_tests::postcopy::restless;
use ferry_tests::relay::{Fault, Spot};
use ferry_tests::scene::gave_up;
use ferry_tests::wait::wait_for;
use ferry_tests::{Ferry, Postcopy, SOON, Scene};
use serde_json::json;

fn stage() -> Option<Postcopy> {
    Some(Postcopy::begin(Scene::with(restless)?))
}

/// Resumes a paused source, which is refused by whoever is there, and returns the reason.
fn resume_in_vain(source: &mut Ferry, to: &str, text: &str) -> String {
    source.qmp("migrate", json!({ "uri": to, "resume": true }));
    let mut reason = String::new();
    wait_for(&format!("the source to be paused because of '{text}'"), SOON, || {
        let info = source.migration();
        reason = info.error_desc.unwrap_or_default();
        info.status == Some(Status::PostcopyPaused) && reason.contains(text)
    });
    reason
}

/// A source that has handed its guest over never runs it again, whatever its operator says.
fn never_runs_again(source: &mut Ferry) {
    let reason = source.refused("cont", json!({}));
    assert!(reason.contains("handed over") || reason.contains("migrat"), "{reason}");
    let reason = source.refused("x-ferry-resolve", json!({ "owner": "source", "peer-fenced": true }));
    assert!(reason.contains("must not run again") || reason.contains("not uncertain"), "{reason}");
    assert_eq!(source.run_state(), "postmigrate");
}

#[test]
fn what_does_not_fit_is_refused_and_says_why() {
    let Some(mut scene) = Scene::with(restless) else { return };
    let resume = json!({ "uri": "tcp:127.0.0.1:1", "resume": true });
    let plain = json!({ "uri": "tcp:127.0.0.1:1" });
    let reason = scene.source.refused("migrate", resume.clone());
    assert!(reason.contains("no migration") || reason.contains("paused"), "nothing to resume: {reason}");
    let reason = scene.source.refused("migrate-recover", plain.clone());
    assert!(!reason.is_empty());
    let mut stage = Postcopy::begin(scene);
    let reason = stage.scene.source.refused("migrate", resume.clone());
    assert!(reason.contains("paused"), "active, not paused: {reason}");
    let reason = stage.scene.source.refused("migrate_cancel", json!({}));
    assert!(reason.contains("permit") || reason.contains("destination"), "{reason}");
    let reason = stage.destination.refused("migrate-recover", plain.clone());
    assert!(reason.contains("paused"), "active, not paused: {reason}");
    never_runs_again(&mut stage.scene.source);
    stage.relay.cut_all();
    stage.wait_paused();
    let reason = stage.scene.source.refused("migrate", plain.clone());
    assert!(reason.contains("going on"), "{reason}");
    let reason = stage.scene.source.refused("migrate_cancel", json!({}));
    assert!(reason.contains("permit") || reason.contains("destination"), "{reason}");
    let reason = stage.destination.refused("migrate", plain.clone());
    assert!(reason.contains("still arriving"), "{reason}");
    never_runs_again(&mut stage.scene.source);
    stage.recover();
    let mut scene = {
        stage.complete();
        stage.go_on()
    };
    let reason = scene.source.refused("migrate", resume);
    assert!(!reason.is_empty());
    scene.source.refused("migrate-recover", plain);
    scene.ends_well();
}

#[test]
fn a_resume_to_the_wrong_destination_is_refused_and_named() {
    let Some(mut stage) = stage() else { return };
    stage.relay.cut_all();
    stage.wait_paused();
    // One that waits for a guest.
    let mut fresh = stage.scene.destination();
    let reason = resume_in_vain(&mut stage.scene.source, &fresh.wait_listening(), "refused to recover");
    assert!(reason.contains("waits for a new migration"), "{reason}");
    let error = gave_up(&mut fresh);
    assert!(error.contains("no paused postcopy"), "{error}");
    // One that is busy with another guest, paused as well.
    let Some(mut other) = self::stage() else { return };
    other.relay.cut_all();
    other.wait_paused();
    let reason = resume_in_vain(&mut stage.scene.source, &other.relay.target(), "refused to recover");
    assert!(reason.contains("another migration"), "{reason}");
    // Neither minds.
    for stage in [&mut stage, &mut other] {
        stage.recover();
        stage.scene.guest.wait_reports(1);
    }
    other.ends_well();
    stage.ends_well();
}

#[test]
fn a_source_that_is_killed_leaves_the_destination_paused_and_its_guest_waiting() {
    let Some(mut stage) = stage() else { return };
    stage.scene.source.kill();
    let info = stage.destination.wait_migration(Status::PostcopyPaused);
    assert!(info.error_desc.is_some_and(|why| why.contains("link")));
    stage.wait_stalled();
    for _ in 0..20 {
        // The guest checks what it reads: a page of zeros in place of its own would be an error in
        // its log.
        stage.scene.guest.read();
        assert_eq!(stage.destination.migration().status, Some(Status::PostcopyPaused));
        assert_eq!(stage.destination.run_state(), "running");
    }
    let missing = stage.destination.migration().x_ferry_postcopy.map(|stats| stats.missing_pages);
    assert!(missing.is_some_and(|pages| pages > 0), "{missing:?}");
    stage.destination.quit();
}

#[test]
fn a_destination_that_is_killed_takes_the_guest_with_it_and_the_source_says_so() {
    let Some(mut stage) = stage() else { return };
    let to = stage.relay.target();
    stage.destination.kill();
    let source = &mut stage.scene.source;
    let why = source.wait_migration(Status::PostcopyPaused).error_desc.expect("it says why");
    assert!(why.contains("lost") && why.contains("x-ferry-resolve"), "{why}");
    never_runs_again(source);
    let reason = resume_in_vain(source, &to, "cannot connect");
    assert!(reason.contains("x-ferry-resolve"), "{reason}");
    never_runs_again(source);
    source.qmp("x-ferry-resolve", json!({ "owner": "destination", "peer-fenced": true, "drop-pages": true }));
    assert_eq!(source.wait_migration_end().status, Some(Status::Completed));
    let reason = source.refused("cont", json!({}));
    assert!(!reason.is_empty());
    assert_eq!(source.run_state(), "postmigrate");
    source.quit();
}

#[test]
fn a_drained_ack_that_is_lost_is_for_the_operator_to_resolve() {
    let Some(mut stage) = stage() else { return };
    stage.relay.set_plan(Spot::Message("DrainedAck"), Fault::Cut);
    stage.scene.source.set_parameters(json!({ "max-bandwidth": 0 }));
    stage.relay.wait_fired();
    assert_eq!(stage.destination.wait_migration_end().status, Some(Status::Completed));
    let source = &mut stage.scene.source;
    source.wait_migration(Status::PostcopyPaused);
    never_runs_again(source);
    let reason = resume_in_vain(source, &stage.relay.target(), "cannot connect");
    assert!(reason.contains("needs nothing more") && reason.contains("x-ferry-resolve"), "{reason}");
    source.qmp("x-ferry-resolve", json!({ "owner": "destination", "peer-fenced": true, "drop-pages": true }));
    assert_eq!(source.wait_migration_end().status, Some(Status::Completed));
    stage.go_on().ends_well();
}

#[test]
fn a_drained_that_is_lost_with_the_link_is_said_again() {
    let Some(mut stage) = stage() else { return };
    stage.relay.set_plan(Spot::Message("Drained"), Fault::Cut);
    stage.scene.source.set_parameters(json!({ "max-bandwidth": 0 }));
    stage.relay.wait_fired();
    // The destination counts for itself: it may have had all of its pages before.
    let theirs = stage.destination.wait_migration_end_or(Status::PostcopyPaused).status;
    let ours = stage.scene.source.wait_migration_end_or(Status::PostcopyPaused).status;
    match (ours, theirs) {
        (Some(Status::PostcopyPaused), Some(Status::PostcopyPaused)) => {
            stage.resume_to(&stage.relay.uri());
            stage.complete();
        }
        (Some(Status::PostcopyPaused), Some(Status::Completed)) => {
            let end = json!({ "owner": "destination", "peer-fenced": true, "drop-pages": true });
            stage.scene.source.qmp("x-ferry-resolve", end);
        }
        both => assert_eq!(both, (Some(Status::Completed), Some(Status::Completed))),
    }
    stage.go_on().ends_well();
}

#[test]
fn a_frozen_side_is_paused_and_recovers_when_it_thaws() {
    let Some(mut scene) = Scene::with(restless) else { return };
    scene.source.set_parameters(json!({ "x-ferry-heartbeat-timeout-ms": 500, "x-ferry-setup-timeout-ms": 1000 }));
    let mut stage = Postcopy::begin(scene);
    for source in [true, false, true, false] {
        let (frozen, other) = match source {
            true => (&mut stage.scene.source, &mut stage.destination),
            false => (&mut stage.destination, &mut stage.scene.source),
        };
        frozen.freeze();
        let why = other.wait_migration(Status::PostcopyPaused).error_desc.expect("it says why");
        assert!(why.contains("sign of life"), "{why}");
        frozen.thaw();
        stage.wait_paused();
        stage.recover();
        stage.scene.guest.wait_reports(1);
    }
    stage.ends_well();
}

#[test]
fn the_death_of_what_serves_missing_pages_is_told_and_not_a_hang() {
    let Some(mut stage) = stage() else { return };
    // From now on the next page that the guest lacks ends the thread that hears of it.
    stage.destination.set_fault(json!({ "at": "USERFAULTFD_READ", "do": "fail" }));
    assert_eq!(stage.destination.wait_exit(SOON), 1);
    let error = stage.destination.stderr();
    assert!(error.contains("cannot get its missing pages") && error.contains("USERFAULTFD_READ"), "{error}");
    let source = &mut stage.scene.source;
    source.wait_migration(Status::PostcopyPaused);
    never_runs_again(source);
    source.qmp("x-ferry-resolve", json!({ "owner": "destination", "peer-fenced": true, "drop-pages": true }));
    assert_eq!(source.wait_migration_end().status, Some(Status::Completed));
    source.quit();
}
