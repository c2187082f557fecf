//! What an operator does to a guest whose memory is still on its way, or will not come for a
//! while.

use ferry_migration::info::Status;
use ferry_tests::postcopy::restless;
use ferry_tests::scene::assert_never_ran;
use ferry_tests::{Postcopy, SOON, Scene, disk, memory};
use serde_json::json;

fn stage() -> Option<Postcopy> {
    Some(Postcopy::begin(Scene::with(restless)?))
}

/// With a disk, whose requests touch guest memory too.
fn stage_with_disk() -> Option<Postcopy> {
    Some(Postcopy::begin(Scene::with(|lab, spec| restless(lab, spec).disk(&disk::image(lab, "disk.img", 4 << 20)))?))
}

#[test]
fn a_stopped_guest_arrives_stopped_and_whole_with_breaks_on_its_way() {
    for backing in ["memfd", "anon"] {
        let Some(mut scene) = Scene::with(|_, spec| spec.cpus(2).memory(&format!("32M,backing={backing}"))) else {
            return;
        };
        scene.source.qmp("stop", json!({}));
        let mut stage = Postcopy::begin(scene);
        for _ in 0..3 {
            stage.relay.cut_all();
            stage.wait_paused();
            assert_eq!(stage.destination.run_state(), "paused");
            stage.recover();
        }
        stage.complete();
        assert_eq!(stage.destination.run_state(), "paused");
        assert_never_ran(&stage.destination);
        memory::assert_equal(&mut stage.scene.source, &mut stage.destination, stage.scene.spec.cpus);
        stage.destination.qmp("cont", json!({}));
        stage.go_on().ends_well();
    }
}

#[test]
fn stop_and_cont_work_while_pages_come() {
    let Some(mut stage) = stage_with_disk() else { return };
    for _ in 0..10 {
        stage.destination.qmp("stop", json!({}));
        assert_eq!(stage.destination.run_state(), "paused");
        stage.destination.qmp("cont", json!({}));
        assert_eq!(stage.destination.run_state(), "running");
        stage.scene.guest.wait_reports(1);
    }
    assert_eq!(stage.destination.migration().status, Some(Status::PostcopyActive));
    stage.ends_well();
}

#[test]
fn a_guest_that_stands_still_for_its_pages_can_be_stopped_and_continued() {
    let Some(mut stage) = stage() else { return };
    stage.relay.cut_all();
    stage.wait_paused();
    stage.wait_stalled();
    stage.destination.qmp("stop", json!({}));
    assert_eq!(stage.destination.run_state(), "paused");
    stage.recover();
    assert_eq!(stage.destination.run_state(), "paused", "a recovery does not run what was stopped");
    stage.relay.cut_all();
    stage.wait_paused();
    stage.destination.qmp("cont", json!({}));
    assert_eq!(stage.destination.run_state(), "running");
    stage.recover();
    stage.scene.guest.wait_reports(2);
    stage.ends_well();
}

/// Where the guest stands still differs: in ring 3, in an interrupt handler that KVM emulates, in
/// what KVM itself reads or writes for it. No signal ends some of these waits.
#[test]
fn a_guest_that_has_next_to_none_of_its_pages_can_be_stopped_continued_and_reset() {
    for reset in [false, true, false, true, false, true] {
        let Some(scene) = Scene::with(restless) else { return };
        let mut stage = Postcopy::begin_cut_at_start(scene);
        stage.destination.qmp("stop", json!({}));
        assert_eq!(stage.destination.run_state(), "paused");
        stage.destination.qmp("cont", json!({}));
        assert_eq!(stage.destination.run_state(), "running");
        stage.destination.qmp("stop", json!({}));
        if reset {
            stage.destination.qmp("system_reset", json!({}));
        }
        stage.recover();
        assert_eq!(stage.destination.run_state(), "paused", "a recovery does not run what was stopped");
        stage.destination.qmp("cont", json!({}));
        if reset {
            stage.wait_second_boot();
        }
        stage.ends_well();
    }
}

/// A debugger, a profiler or a timer interrupts threads that wait in KVM for a page, and so does a
/// throttle that is over before the thread has noticed. None of them is to end the guest.
#[test]
fn a_guest_that_stands_still_for_its_pages_outlives_signals_that_change_nothing() {
    for _ in 0..3 {
        let Some(scene) = Scene::with(restless) else { return };
        let mut stage = Postcopy::begin_cut_at_start(scene);
        for _ in 0..200 {
            stage.destination.signal_vcpus();
        }
        assert_eq!(stage.destination.run_state(), "running", "{}", stage.destination.stderr());
        stage.recover();
        stage.ends_well();
    }
}

#[test]
fn a_guest_that_was_stopped_during_the_pause_keeps_its_memory() {
    let Some(mut stage) = stage() else { return };
    stage.relay.cut_all();
    stage.wait_paused();
    stage.wait_stalled();
    stage.destination.qmp("stop", json!({}));
    stage.recover();
    stage.complete();
    stage.destination.qmp("cont", json!({}));
    stage.go_on().ends_well();
}

#[test]
fn a_destination_ends_on_request_while_pages_come_and_while_none_do() {
    for paused in [false, true] {
        let Some(mut stage) = stage_with_disk() else { return };
        if paused {
            stage.relay.cut_all();
            stage.wait_paused();
            stage.wait_stalled();
        }
        let _ = stage.destination.try_qmp("quit", json!({}));
        let code = stage.destination.wait_exit(SOON);
        let says = stage.destination.stderr();
        assert_eq!(code, 0, "paused: {paused}: {says}");
        // The guest has ended, and waits for no page.
        assert!(!says.contains("waits for ever"), "{says}");
        if paused {
            let why = stage.scene.source.wait_migration(Status::PostcopyPaused).error_desc;
            assert!(why.is_some_and(|why| why.contains("lost")));
        } else {
            // The guest has ended with its process, and the source is needed no more.
            assert_eq!(stage.scene.source.wait_migration_end().status, Some(Status::Completed));
        }
        assert_eq!(stage.scene.source.run_state(), "postmigrate");
    }
}

#[test]
fn a_guest_can_be_reset_while_pages_come() {
    let Some(mut stage) = stage() else { return };
    stage.destination.qmp("system_reset", json!({}));
    stage.wait_second_boot();
    stage.ends_well();
}

/// Its vCPUs leave KVM, so that the reset can begin; what it writes to is not here.
#[test]
fn a_guest_that_waits_for_its_reset_can_be_stopped_and_continued() {
    let Some(scene) = Scene::with(|_, spec| spec) else { return };
    let mut stage = Postcopy::begin_cut_at_start(scene);
    stage.destination.qmp("system_reset", json!({}));
    for _ in 0..3 {
        stage.destination.qmp("stop", json!({}));
        assert_eq!(stage.destination.run_state(), "paused");
        stage.destination.qmp("cont", json!({}));
        assert_eq!(stage.destination.run_state(), "running");
    }
    stage.recover();
    stage.wait_second_boot();
    stage.ends_well();
}

#[test]
fn a_reset_during_the_pause_waits_for_the_pages_and_does_not_hold_up_the_client() {
    let Some(mut stage) = stage() else { return };
    stage.relay.cut_all();
    stage.wait_paused();
    stage.wait_stalled();
    stage.destination.qmp("system_reset", json!({}));
    assert_eq!(stage.destination.migration().status, Some(Status::PostcopyPaused));
    stage.destination.qmp("query-status", json!({}));
    stage.recover();
    stage.wait_second_boot();
    stage.ends_well();
}
