//! Compressed pages (`x-ferry-compression`): the guest arrives as without, in fewer bytes, and a
//! block that is damaged ends the migration.

use ferry_migration::info::{MigrationInfo, Status};
use ferry_migration::wire::bulk::HEADER_LEN;
use ferry_tests::migration::move_guest;
use ferry_tests::postcopy::restless;
use ferry_tests::relay::{Fault, Spot};
use ferry_tests::{Lab, Postcopy, Scene, Spec, memory};
use serde_json::json;

/// The built-in guest's pages hold a few bytes each: whatever packs them makes them so many times
/// shorter at least.
const PACKED: u64 = 4;
/// The same of a migration that sends some as they are.
const PARTLY: u64 = 2;

fn compressing(mut scene: Scene) -> Scene {
    scene.source.set_parameters(json!({ "x-ferry-compression": "lz4" }));
    scene
}

fn scene() -> Option<Scene> {
    Scene::with(|_, spec| spec.cpus(2).memory("96M").workload(|load| load.working_set = 48 << 20)).map(compressing)
}

fn assert_packed(info: &MigrationInfo, times: u64) {
    let ram = info.ram.as_ref().expect("it has sent memory");
    assert!(ram.normal_bytes > 32 << 20, "{ram:?}");
    assert!(ram.transferred * times < ram.normal_bytes, "{ram:?}");
}

#[test]
fn a_guest_arrives_in_fewer_bytes_over_one_link_and_over_several() {
    for channels in [1, 3] {
        let Some(mut scene) = scene() else { return };
        scene.source.use_channels(channels);
        let mut destination = scene.destination();
        let info = move_guest(&mut scene.source, &mut destination, &mut scene.guest);
        assert_eq!(info.status, Some(Status::Completed), "{channels}: {info:?}");
        assert_packed(&info, PACKED);
        assert_packed(&destination.migration(), PACKED);
        scene.source.quit();
        scene.source = destination;
        scene.ends_well();
    }
}

#[test]
fn memory_is_equal() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new().memory("96M").workload(|load| load.working_set = 64 << 20);
    let mut source = lab.start(&spec);
    ferry_tests::GuestLog::new(&source, 1).wait_ready();
    source.qmp("stop", json!({}));
    source.set_parameters(json!({ "x-ferry-compression": "lz4" }));
    let mut destination = lab.start_destination(&spec);
    let info = source.migrate_to(&destination.wait_listening());
    assert_eq!(info.status, Some(Status::Completed), "{info:?}");
    assert_packed(&info, PACKED);
    destination.wait_run_state("paused");
    memory::assert_equal(&mut source, &mut destination, 1);
}

#[test]
fn a_postcopy_is_packed_too_and_recovers() {
    let Some(mut scene) = Scene::with(restless) else { return };
    scene.source.use_channels(2);
    let mut stage = Postcopy::begin_cut_at_start(scene);
    // Any faster, and the pages could be gone before anybody looks.
    stage.scene.source.set_parameters(json!({ "x-ferry-compression": "lz4", "max-bandwidth": 64 << 10 }));
    stage.recover();
    for info in stage.complete() {
        assert_packed(&info, PARTLY);
    }
    stage.go_on().ends_well();
}

#[test]
fn a_damaged_block_ends_the_migration() {
    let Some(mut scene) = scene() else { return };
    // The block's first byte holds two lengths (LZ4 block format, token).
    let damage = Fault::Corrupt(HEADER_LEN);
    let (mut destination, relay) = scene.destination_behind(Spot::Pages(5), damage);
    scene.source.begin_migration(&relay.uri());
    let reason = scene.source.wait_migration_failed();
    assert!(reason.contains("bulk link") && reason.contains("do not unpack"), "{reason}");
    let _ended = destination.wait_exit(ferry_tests::SOON);
    scene.guest.wait_reports(1);
    scene.ends_well();
}

#[test]
fn a_compression_that_is_not_known_is_refused() {
    let Some(mut scene) = Scene::new() else { return };
    let refused = scene.source.refused("migrate-set-parameters", json!({ "x-ferry-compression": "zip" }));
    assert!(refused.contains("x-ferry-compression") && refused.contains("none, lz4"), "{refused}");
}
