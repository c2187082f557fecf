//! The handshakes that are there for comparison: what they do when all goes well, and what `none`
//! does to a guest when not.

use ferry_migration::{Handshake, Status};
use ferry_tests::Scene;
use ferry_tests::failing::working;
use ferry_tests::scene::gave_up;
use serde_json::json;

fn scene(handshake: &str) -> Option<Scene> {
    let mut scene = Scene::with(working)?;
    scene.by_postcopy(false);
    scene.source.set_parameters(json!({ "x-ferry-handshake": handshake }));
    Some(scene)
}

/// Begins a migration by precopy or postcopy.
fn begin(scene: &mut Scene, postcopy: bool, to: &str) {
    match postcopy {
        true => scene.begin_postcopy(to),
        false => scene.source.begin_migration(to),
    }
}

#[test]
fn all_of_them_move_a_guest_when_nothing_fails() {
    for (name, handshake) in
        [("none", Handshake::None), ("pong", Handshake::Pong), ("setup", Handshake::Setup), ("owned", Handshake::Owned)]
    {
        for postcopy in [false, true] {
            let Some(mut scene) = scene(name) else { return };
            let mut destination = scene.destination();
            begin(&mut scene, postcopy, &destination.wait_listening());
            let there = scene.arrived(&mut destination);
            assert_eq!(there.x_ferry_handshake, Some(handshake), "{there:?}");
            let here = scene.source.migration();
            assert_eq!((here.x_ferry_handshake, here.x_ferry_postcopy.is_some()), (Some(handshake), postcopy));
            scene.lives_in(destination);
            scene.ends_well_by_postcopy();
        }
    }
}

#[test]
fn none_with_a_load_that_fails_leaves_the_guest_nowhere_and_says_so() {
    for (postcopy, status) in [(false, "device"), (true, "postcopy-setup")] {
        for (at, told) in
            [("load", "fault/0: told to fail in load"), ("KVM_SET_LAPIC", "vcpu/0: KVM_SET_LAPIC: Invalid argument")]
        {
            let Some(mut scene) = scene("none") else { return };
            let mut destination = scene.destination_with(&format!("fault,at={at},do=fail,in=incoming"));
            begin(&mut scene, postcopy, &destination.wait_listening());
            let info = scene.source.wait_migration_end();
            assert_eq!(info.status, Some(Status::Failed), "{info:?}");
            let reason = info.error_desc.expect("a failed migration says why");
            assert!(reason.contains(told) && reason.contains("runs nowhere"), "{reason}");
            assert_eq!(scene.source.migration_statuses(), ["setup", "active", status, "failed"]);
            assert_eq!(scene.source.run_state(), "postmigrate", "this side has let go of it");
            let refused = scene.source.refused("cont", json!({}));
            assert!(refused.contains("handed over"), "{refused}");
            let error = gave_up(&mut destination);
            assert!(error.contains(told), "{error}");
        }
    }
}

#[test]
fn pong_with_a_load_that_fails_leaves_the_guest_at_the_source() {
    for postcopy in [false, true] {
        let Some(mut scene) = scene("pong") else { return };
        let mut destination = scene.destination_with("fault,at=KVM_SET_REGS,do=fail,in=incoming");
        begin(&mut scene, postcopy, &destination.wait_listening());
        let status = if postcopy { "postcopy-setup" } else { "device" };
        let told = "vcpu/0: KVM_SET_REGS: Invalid argument";
        let reason = scene.source.wait_migration_failed();
        assert!(reason.contains(told), "{reason}");
        assert_eq!(scene.source.migration_statuses(), ["setup", "active", status, "failed"]);
        assert!(gave_up(&mut destination).contains(told));
        scene.guest.wait_reports(1);
        scene.source.set_parameters(json!({ "x-ferry-handshake": "owned" }));
        scene.ends_well_by_postcopy();
    }
}
