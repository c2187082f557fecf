//! What a boot makes of the record beside its disk: one that is damaged, in the middle of a
//! hand-over, or cannot be.

use std::fs::File;
use std::path::PathBuf;

use ferry_migration::info::Status;
use ferry_tests::{Lab, Scene, Spec, disk};
use serde_json::json;

fn record(lab: &Lab) -> PathBuf {
    lab.path("disk.img.owner")
}

#[test]
fn a_record_that_is_none_is_left_alone() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new().disk(&disk::image(&lab, "disk.img", 4 << 20)).paused();
    lab.start(&spec).quit();
    let whole = std::fs::read(record(&lab)).unwrap();
    let mut newer = whole.clone();
    (newer[8], newer[4096 + 8]) = (99, 99);
    for slot in [0, 4096] {
        let sum = crc32c::crc32c(&newer[slot..slot + 508]);
        newer[slot + 508..slot + 512].copy_from_slice(&sum.to_le_bytes());
    }
    for (bytes, hint) in [
        (whole[..whole.len() / 2].to_vec(), "damaged"),
        (b"#!/bin/sh\nexit 0\n".to_vec(), "no ownership record"),
        (vec![0; whole.len()], "damaged"),
        (newer, "later ferry"),
    ] {
        std::fs::write(record(&lab), &bytes).unwrap();
        let error = lab.refuses(&spec);
        assert!(error.contains(hint) && error.contains("disk.img.owner"), "{error}");
        assert_eq!(std::fs::read(record(&lab)).unwrap(), bytes, "nothing was overwritten");
    }
    std::fs::write(record(&lab), &whole).unwrap();
    lab.start(&spec).quit();
}

#[test]
fn a_guest_in_the_middle_of_a_hand_over_is_not_booted_again() {
    let Some(mut scene) = Scene::with(|lab, spec| spec.disk(&disk::image(lab, "disk.img", 4 << 20))) else { return };
    scene.source.set_fault(json!({ "at": "save", "do": "hang", "in": "outgoing" }));
    scene.without_rehearsal();
    let destination = scene.destination();
    scene.source.begin_migration(&destination.wait_listening());
    scene.source.wait_migration(Status::Device);
    // Both hosts are lost now.
    scene.source.kill();
    drop(destination);
    let spec = scene.spec.clone().paused();
    let error = scene.lab.refuses(&spec);
    assert!(error.contains("hand-over is under way") && error.contains("take"), "{error}");
    let mut taken = spec.clone();
    taken.more = vec!["--ownership".into(), "auto,take".into()];
    let mut ferry = scene.lab.start(&taken);
    ferry.wait_settled(2);
    ferry.quit();
    scene.lab.start(&spec).quit();
}

#[test]
fn a_folder_in_the_place_of_the_record_is_refused_and_left_alone() {
    let Some(lab) = Lab::new() else { return };
    let image = disk::image(&lab, "disk.img", 4 << 20);
    // Root may write in any folder, so a missing permission cannot be tried; a folder in the
    // record's place is an error for root as well.
    std::fs::create_dir(record(&lab)).unwrap();
    let spec = Spec::new().disk(&image).paused();
    let error = lab.refuses(&spec);
    assert!(error.contains("a folder"), "{error}");
    let mut without = spec;
    without.more = vec!["--ownership".into(), "none".into()];
    lab.start(&without).quit();
    assert!(File::open(record(&lab)).unwrap().metadata().unwrap().is_dir());
}
