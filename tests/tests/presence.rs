//! A guest without a disk, whose record alone keeps a second boot away while a process has the
//! guest.

use ferry_migration::Handshake;
use ferry_tests::migration::move_guest;
use ferry_tests::relay::{Fault, Spot};
use ferry_tests::scene::gave_up;
use ferry_tests::wait::wait_for;
use ferry_tests::{Ferry, SOON, Scene};
use serde_json::json;

/// A guest that has a record and no disk.
fn scene() -> Option<Scene> {
    let mut scene = Scene::with(|lab, mut spec| {
        spec.more = vec!["--ownership".into(), format!("file:{}", lab.path("guest.owner").display())];
        spec
    })?;
    scene.source.wait_settled(1);
    Some(scene)
}

/// A plain run of the guest is refused, also with `,take`, and is told which process has the
/// guest.
fn is_refused(scene: &Scene, holder: &Ferry) {
    let mut spec = scene.spec.clone();
    for taken in [false, true] {
        if taken {
            spec.more[1].push_str(",take");
        }
        let says = scene.lab.refuses(&spec);
        let named = says.contains(&format!(":{} (", holder.pid()));
        assert!(named && says.contains("another process has the guest"), "{says}");
    }
}

#[test]
fn a_guest_without_a_disk_boots_once_and_again_when_its_process_has_ended() {
    let Some(mut scene) = scene() else { return };
    is_refused(&scene, &scene.source);
    let mut destination = scene.destination();
    let info = move_guest(&mut scene.source, &mut destination, &mut scene.guest);
    assert_eq!(info.x_ferry_handshake, Some(Handshake::Owned));
    destination.wait_settled(2);
    is_refused(&scene, &destination);
    destination.quit();
    // The source, which lives, has the guest no longer.
    scene.lab.start(&scene.spec).wait_settled(3);
}

#[test]
fn a_guest_that_comes_by_setup_is_kept_from_a_boot_from_its_greeting_on() {
    let Some(mut scene) = scene() else { return };
    scene.source.set_parameters(json!({ "x-ferry-handshake": "setup" }));
    // The destination does not learn that the source has ended.
    let (mut destination, relay) = scene.destination_behind(Spot::Pages(0), Fault::Stall);
    scene.source.begin_migration(&relay.uri());
    wait_for("the first pages", SOON, || relay.fired().is_some());
    // The source's own sign ends with it.
    scene.source.kill();
    let mut taken = scene.spec.clone();
    taken.more[1].push_str(",take");
    let says = scene.lab.refuses(&taken);
    assert!(says.contains("another process has the guest"), "{says}");
    destination.kill();
}

#[test]
fn a_source_whose_migration_has_failed_still_has_the_guest() {
    let Some(mut scene) = scene() else { return };
    scene.without_rehearsal();
    let mut destination = scene.destination_with("fault,at=load,do=fail,in=incoming");
    let _reason = scene.fails(&destination.wait_listening());
    let _ = gave_up(&mut destination);
    scene.source.wait_settled(1);
    is_refused(&scene, &scene.source);
    scene.ends_well();
}
