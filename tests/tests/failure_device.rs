//! Devices that fail, hang or dawdle in every step of a migration, on either side.

use ferry_migration::info::Status;
use ferry_tests::Scene;
use ferry_tests::scene::gave_up;
use serde_json::json;

/// A destination's device fails in this step of the final load: the guest was stopped and goes on
/// at the source.
fn fails_in_the_package(step: &str) {
    let Some(mut scene) = Scene::new() else { return };
    scene.without_rehearsal();
    let mut destination = scene.destination_with(&format!("fault,at={step},do=fail,in=incoming"));
    let reason = scene.fails(&destination.wait_listening());
    let told = format!("fault/0: told to fail in {step}");
    assert!(reason.contains(&told), "{reason}");
    assert_eq!(scene.source.migration_statuses(), ["setup", "active", "device", "failed"]);
    assert!(scene.source.events().iter().any(|event| event["event"] == "RESUME"), "the guest was stopped and resumed");
    let error = gave_up(&mut destination);
    assert!(error.contains(&told), "both sides tell the same: {error}");
    scene.ends_well();
}

#[test]
fn a_device_that_fails_in_load_leaves_the_guest_at_the_source() {
    fails_in_the_package("load");
}

#[test]
fn a_device_that_fails_in_post_load_leaves_the_guest_at_the_source() {
    fails_in_the_package("post_load");
}

/// With a rehearsal the same failure is found while the guest runs.
fn fails_in_rehearsal(step: &str) {
    let Some(mut scene) = Scene::new() else { return };
    let mut destination = scene.destination_with(&format!("fault,at={step},do=fail,in=incoming"));
    let reason = scene.fails(&destination.wait_listening());
    assert!(reason.contains("rehearsal") && reason.contains(&format!("fault/0: told to fail in {step}")), "{reason}");
    assert_eq!(scene.source.migration_statuses(), ["setup", "active", "failed"], "the guest never stopped");
    let error = gave_up(&mut destination);
    assert!(error.contains("fault/0") && error.contains("rehearsal"), "{error}");
    scene.ends_well();
}

#[test]
fn a_rehearsal_finds_a_device_that_fails_in_load() {
    fails_in_rehearsal("load");
}

#[test]
fn a_rehearsal_finds_a_device_that_fails_in_post_load() {
    fails_in_rehearsal("post_load");
}

#[test]
fn a_device_that_hangs_on_the_destination_is_given_up_in_time() {
    let Some(mut scene) = Scene::new() else { return };
    scene.be_impatient();
    for (step, rehearsal, statuses) in [
        ("load", false, &["setup", "active", "device", "failed"][..]),
        ("post_load", false, &["setup", "active", "device", "failed"]),
        ("load", true, &["setup", "active", "failed"]),
        ("post_load", true, &["setup", "active", "failed"]),
    ] {
        scene.source.set_parameters(json!({ "x-ferry-rehearsal": rehearsal }));
        let mut destination = scene.destination_with(&format!("fault,at={step},do=hang,in=incoming"));
        let reason = scene.fails(&destination.wait_listening());
        assert!(reason.contains("in time"), "{step}: {reason}");
        assert_eq!(scene.source.migration_statuses(), statuses, "{step}, rehearsal {rehearsal}");
        let error = gave_up(&mut destination);
        assert!(error.contains("in time"), "the destination knows why: {error}");
    }
    scene.ends_well();
}

#[test]
fn devices_that_take_their_time_do_not_fail_a_migration() {
    let Some(mut scene) = Scene::new() else { return };
    for step in ["load", "post_load"] {
        let mut destination = scene.destination_with(&format!("fault,at={step},do=delay:300,times=2,in=incoming"));
        scene.source.set_fault(json!({ "at": "save", "do": "delay:300", "times": 2, "in": "outgoing" }));
        let info = ferry_tests::migration::move_guest(&mut scene.source, &mut destination, &mut scene.guest);
        let parts = info.x_ferry_downtime.expect("the parts of the downtime");
        assert!(parts.load_us >= 300_000 && parts.device_save_us >= 300_000, "{parts:?}");
        scene.source.quit();
        scene.source = destination;
    }
    scene.ends_well();
}

#[test]
fn a_device_that_fails_in_save_leaves_the_guest_at_the_source() {
    let Some(mut scene) = Scene::new() else { return };
    for (rehearsal, statuses) in
        [(false, &["setup", "active", "device", "failed"][..]), (true, &["setup", "active", "failed"])]
    {
        scene.source.set_parameters(json!({ "x-ferry-rehearsal": rehearsal }));
        scene.source.set_fault(json!({ "at": "save", "do": "fail", "times": 1 }));
        let mut destination = scene.destination();
        let reason = scene.fails(&destination.wait_listening());
        assert!(reason.contains("fault/0: told to fail in save"), "{reason}");
        assert_eq!(scene.source.migration_statuses(), statuses);
        let error = gave_up(&mut destination);
        assert!(error.contains("fault/0: told to fail in save"), "the destination knows why: {error}");
    }
    scene.ends_well();
}

#[test]
fn a_device_that_hangs_in_save_is_given_up_in_time() {
    let Some(mut scene) = Scene::new() else { return };
    scene.be_impatient();
    for (rehearsal, last) in [(false, "device"), (true, "active")] {
        scene.source.set_parameters(json!({ "x-ferry-rehearsal": rehearsal }));
        scene.source.set_fault(json!({ "at": "save", "do": "hang", "times": 1 }));
        let mut destination = scene.destination();
        let reason = scene.fails(&destination.wait_listening());
        assert!(reason.contains("in time"), "{reason}");
        let statuses = scene.source.migration_statuses();
        assert_eq!(statuses[statuses.len() - 2], last, "{statuses:?}");
        let _ = gave_up(&mut destination);
    }
    scene.ends_well();
}

#[test]
fn a_device_fails_again_and_again_until_it_does_not() {
    let Some(mut scene) = Scene::new() else { return };
    scene.source.set_fault(json!({ "at": "save", "do": "fail", "times": 5 }));
    for _ in 0..5 {
        let mut destination = scene.destination();
        let reason = scene.fails(&destination.wait_listening());
        assert!(reason.contains("fault/0"), "{reason}");
        let _ = gave_up(&mut destination);
    }
    assert_eq!(scene.source.migration().status, Some(Status::Failed));
    scene.ends_well();
}

#[test]
fn a_destination_may_be_told_to_live_through_a_failure() {
    let Some(mut scene) = Scene::new() else { return };
    let mut destination = scene.lab.start(&scene.spec.clone().incoming("defer"));
    destination.set_fault(json!({ "at": "load", "do": "fail", "times": 1 }));
    let listen =
        json!({ "uri": "unix:".to_owned() + scene.lab.path("m.sock").to_str().unwrap(), "exit-on-error": false });
    destination.qmp("migrate-incoming", listen.clone());
    let to = destination.wait_listening();
    let reason = scene.fails(&to);
    assert!(reason.contains("fault/0"), "{reason}");
    let info = destination.wait_migration_end();
    assert_eq!(info.status, Some(Status::Failed));
    assert!(info.error_desc.is_some_and(|text| text.contains("fault/0")));
    // The same process takes the guest at the second attempt.
    destination.qmp("migrate-incoming", listen);
    scene.source.migrate_to(&to);
    scene.guest.moved_to(&destination);
    scene.guest.wait_reports(2);
    scene.guest.assert_ran_in_one_place();
}
