//! A disk image that is enlarged while its guest runs: the guest keeps the disk that it booted
//! with, and loses nothing.

use std::fs;

use ferry_tests::scene::gave_up;
use ferry_tests::{Scene, disk};
use serde_json::json;

const BYTES: u64 = 4 << 20;

fn stage() -> Option<Scene> {
    Scene::with(|lab, spec| spec.disk(&disk::image(lab, "disk.img", BYTES)))
}

fn grow(scene: &Scene, bytes: u64) {
    disk::resize(&scene.lab.path("disk.img"), bytes);
}

/// Nothing beyond the end of the guest's disk has been written.
fn assert_kept_inside(scene: &Scene) {
    let bytes = fs::read(scene.lab.path("disk.img")).expect("the image can be read");
    let (inside, beyond) = bytes.split_at(BYTES as usize);
    assert!(inside.iter().any(|byte| *byte != 0), "the guest has not written");
    assert!(!beyond.is_empty() && beyond.iter().all(|byte| *byte == 0), "the guest has written beyond its disk");
}

#[test]
fn a_guest_whose_image_has_grown_goes_on_after_a_stop_and_after_a_migration_that_failed() {
    let Some(mut scene) = stage() else { return };
    let mut destination = scene.destination_with("fault,at=load,do=fail");
    scene.without_rehearsal();
    grow(&scene, 2 * BYTES);
    scene.source.qmp("stop", json!({}));
    scene.source.qmp("cont", json!({}));
    scene.guest.wait_reports(1);
    scene.fails(&destination.wait_listening());
    let _ = gave_up(&mut destination);
    assert_eq!(scene.source.run_state(), "running");
    assert_kept_inside(&scene);
    scene.ends_well();
}

/// Each destination opens a larger image than the guest knows.
#[test]
fn a_guest_whose_image_has_grown_moves_on_and_back_and_keeps_its_disk_over_a_reset() {
    let Some(mut scene) = stage() else { return };
    for factor in [2, 3] {
        grow(&scene, factor * BYTES);
        let mut destination = scene.destination();
        scene.source.migrate_to(&destination.wait_listening());
        scene.guest.moved_to(&destination);
        scene.guest.wait_reports(2);
        std::mem::swap(&mut scene.source, &mut destination);
        destination.quit();
        assert_kept_inside(&scene);
    }
    scene.source.qmp("system_reset", json!({}));
    scene.guest.wait("the second boot", ferry_tests::SOON, |log| (log.boots() == 2).then_some(()));
    scene.guest.wait_reports(2);
    assert_kept_inside(&scene);
    scene.ends_well();
}
