//! A guest whose disk another process holds when the guest is to go on at the source of a failed
//! migration.
//!
//! It stays stopped there, with the newest state of the guest; and it does not run again once
//! another process has run the guest.

use std::sync::Arc;

use ferry_devices::fault::{Direction, FaultControl};
use ferry_migration::info::Status;
use ferry_record::file::FileRecord;
use ferry_record::{Expected, Ownership, Record, Swap};
use ferry_tests::relay::{Fault, Plan, Spot};
use ferry_tests::scene::gave_up;
use ferry_tests::wait::wait_for;
use ferry_tests::{Relay, SOON, Scene, Spec, disk};
use serde_json::json;

/// A failed migration has left the guest stopped at the source, because the lock of its disk was
/// taken when the source had let go of it for the switchover. The lock is free again.
fn stopped_without_its_disk(handshake: &str) -> Option<Scene> {
    let mut scene = Scene::with(|lab, spec| spec.disk(&disk::image(lab, "disk.img", 4 << 20)))?;
    scene.source.wait_settled(1);
    scene.source.set_parameters(json!({ "x-ferry-handshake": handshake }));
    scene.without_rehearsal();
    let mut destination = scene.destination_with("fault,at=post_load,do=fail");
    let relay =
        Relay::new(&destination.wait_listening(), Some(Plan { at: Spot::Message("LoadFailed"), fault: Fault::Hold }));
    scene.source.begin_migration(&relay.uri());
    let thief = scene.steal_disk(&relay);
    relay.release();
    let info = scene.source.wait_migration_end();
    assert_eq!(info.status, Some(Status::Failed), "{info:?}");
    let reason = info.error_desc.expect("a failed migration says why");
    assert!(reason.contains("stays stopped") && reason.contains("disk.img"), "{reason}");
    let _ = gave_up(&mut destination);
    is_stopped(&mut scene);
    let refused = scene.source.refused("cont", json!({}));
    assert!(refused.contains("disk.img"), "{refused}");
    is_stopped(&mut scene);
    thief.release();
    Some(scene)
}

/// The guest stands still, and the record does not say that the migration is over.
fn is_stopped(scene: &mut Scene) {
    assert_eq!(scene.source.run_state(), "paused");
    let record = scene.source.ownership();
    assert_eq!((&record["settled"], &record["generation"]), (&json!(false), &json!(1)), "{record}");
}

#[test]
fn nobody_boots_over_a_guest_that_stays_stopped_and_cont_runs_it() {
    for handshake in ["setup", "owned"] {
        let Some(mut scene) = stopped_without_its_disk(handshake) else { return };
        let beside = scene.lab.refuses(&scene.spec);
        assert!(beside.contains("a hand-over is under way"), "{beside}");
        is_stopped(&mut scene);
        scene.source.qmp("cont", json!({}));
        scene.source.wait_settled(2);
        scene.source.wait_run_state("running");
        scene.guest.wait_reports(2);
        scene.ends_well();
    }
}

#[test]
fn a_guest_that_another_process_has_run_since_is_not_run_again() {
    let Some(mut scene) = stopped_without_its_disk("owned") else { return };
    let mut spec = scene.spec.clone();
    spec.more = vec!["--ownership".into(), "auto,take".into()];
    // It is refused as long as the source lives, also on a copy that has taken the image's name.
    assert!(scene.lab.refuses(&spec).contains("is in a hand-over"));
    let (image, aside) = (scene.lab.path("disk.img"), scene.lab.path("aside.img"));
    std::fs::rename(&image, &aside).unwrap();
    std::fs::copy(&aside, &image).unwrap();
    assert!(scene.lab.refuses(&spec).contains("another process has the guest"));
    std::fs::rename(&aside, &image).unwrap();
    // A process of a host that no lock reaches has run it.
    let faults = Arc::new(FaultControl::new(Direction::Incoming));
    let record = FileRecord::new(scene.lab.path("disk.img.owner"), SOON, faults);
    let there = record.read().unwrap().expect("there is a record");
    let owner = ferry_record::new_owner().unwrap();
    let elsewhere = Record { generation: there.generation + 1, owner, settled: true, ..there.clone() };
    assert_eq!(record.swap(&Expected::as_read(&there), &elsewhere).unwrap(), Swap::Won);
    let refused = scene.source.refused("cont", json!({}));
    assert!(refused.contains(&elsewhere.owner.to_string()), "{refused}");
    assert_eq!(scene.source.run_state(), "paused");
    scene.source.quit();
    scene.lab.start(&scene.spec).wait_settled(3);
}

#[test]
fn a_second_migration_that_fails_early_does_not_say_that_the_guest_is_safe() {
    for handshake in ["setup", "owned"] {
        let Some(mut scene) = stopped_without_its_disk(handshake) else { return };
        let other = scene.lab.start_destination(&scene.spec.clone().name("another"));
        scene.source.begin_migration(&other.wait_listening());
        let info = scene.source.wait_migration_end();
        assert_eq!(info.status, Some(Status::Failed), "{info:?}");
        drop(other);
        let beside = scene.lab.refuses(&scene.spec);
        assert!(beside.contains("a hand-over is under way"), "{beside}");
        assert_eq!(scene.source.ownership()["settled"], json!(false));
        scene.source.qmp("cont", json!({}));
        scene.source.wait_settled(2);
        scene.guest.wait_reports(2);
        scene.ends_well();
    }
}

#[test]
fn no_boot_by_another_path_or_record_takes_the_disk_of_a_guest_that_stays_stopped() {
    let Some(mut scene) = stopped_without_its_disk("owned") else { return };
    let link = scene.lab.path("link.img");
    std::fs::hard_link(scene.lab.path("disk.img"), &link).unwrap();
    let with = |spec: Spec, ownership: &str| Spec { more: vec!["--ownership".into(), ownership.into()], ..spec };
    let elsewhere = format!("file:{}", scene.lab.path("other.owner").display());
    let spec = scene.spec.clone();
    for boot in [spec.clone().disk(&link), with(spec.clone(), "none"), with(spec, &elsewhere)] {
        let says = scene.lab.refuses(&boot);
        assert!(says.contains("is in a hand-over"), "{says}");
    }
    is_stopped(&mut scene);
    scene.source.qmp("cont", json!({}));
    scene.source.wait_settled(2);
    scene.guest.wait_reports(2);
    scene.ends_well();
}

#[test]
fn no_boot_takes_the_disk_in_the_gap_of_a_switchover_and_every_boot_when_all_is_over() {
    let Some(mut scene) = Scene::with(|lab, spec| spec.disk(&disk::image(lab, "disk.img", 4 << 20))) else { return };
    let mut blind = scene.spec.clone();
    blind.more = vec!["--ownership".into(), "none".into()];
    // The source has let go of the disk, and the destination does not have it yet.
    let mut destination = scene.destination_with("fault,at=disk:lock,do=hang,times=1,in=incoming");
    scene.source.begin_migration(&destination.wait_listening());
    scene.source.wait_run_state("finish-migrate");
    wait_for("the disk to be free", SOON, || scene.lab.refuses(&blind).contains("is in a hand-over"));
    destination.qmp("x-ferry-fault-set", json!({ "clear": true }));
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Completed));
    scene.guest.moved_to(&destination);
    scene.guest.wait_reports(2);
    assert!(scene.lab.refuses(&blind).contains("is in use"));
    destination.quit();
    // The source lives, and has nothing to do with the disk any more.
    scene.lab.start(&blind).quit();
}

#[test]
fn a_guest_that_has_its_disk_back_and_cannot_run_is_not_said_to_be_here() {
    let Some(mut scene) = stopped_without_its_disk("owned") else { return };
    let slow = scene.spec.clone().device("fault,at=load,do=delay:1500").device("fault,at=post_load,do=fail");
    let mut destination = scene.lab.start_destination(&slow);
    scene.source.begin_migration(&destination.wait_listening());
    scene.source.wait_migration(Status::Device);
    // It is carried out when the guest goes on, with its disk in hand and the record claimed.
    scene.source.qmp("system_reset", json!({}));
    scene.source.set_fault(json!({ "at": "KVM_SET_PIT2", "do": "fail" }));
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Failed));
    let _ = gave_up(&mut destination);
    assert_eq!(scene.source.run_state(), "paused");
    let beside = scene.lab.refuses(&scene.spec);
    assert!(beside.contains("a hand-over is under way"), "{beside}");
    scene.source.qmp("x-ferry-fault-set", json!({ "clear": true }));
    scene.source.qmp("cont", json!({}));
    scene.source.wait_run_state("running");
    scene.source.wait_settled(3);
}

#[test]
fn a_refused_cont_keeps_the_lock_of_a_stopped_guest() {
    let Some(mut scene) = Scene::with(|lab, spec| spec.disk(&disk::image(lab, "disk.img", 4 << 20))) else { return };
    scene.source.wait_settled(1);
    scene.source.qmp("stop", json!({}));
    let image = std::fs::File::options().write(true).open(scene.lab.path("disk.img")).expect("there is an image");
    let bytes = image.metadata().expect("an open file").len();
    image.set_len(bytes - 512).expect("it can be cut");
    let refused = scene.source.refused("cont", json!({}));
    assert!(refused.contains("restore its size"), "{refused}");
    let mut spec = scene.spec.clone();
    spec.more = vec!["--ownership".into(), "auto,take".into()];
    let beside = scene.lab.refuses(&spec);
    assert!(beside.contains("is in use"), "{beside}");
    image.set_len(bytes).expect("it can grow");
    scene.source.qmp("cont", json!({}));
    scene.source.wait_settled(1);
    scene.guest.wait_reports(2);
    scene.ends_well();
}
