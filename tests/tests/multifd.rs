//! Several bulk links share the pages of a migration (`multifd`): the guest arrives as over one,
//! and any of them that fails counts as the link.

use std::collections::BTreeSet;

use ferry_guest::workload::Rate;
use ferry_migration::info::Status;
use ferry_tests::migration::move_guest;
use ferry_tests::relay::{Fault, Link, Spot};
use ferry_tests::{Lab, Postcopy, SOON, Scene, Spec, memory};
use serde_json::json;

/// A guest whose memory is several links' work, on a source that uses so many.
fn scene(channels: u8) -> Option<Scene> {
    let mut scene = Scene::with(|_, spec| spec.cpus(2).memory("96M").workload(|load| load.working_set = 48 << 20))?;
    scene.source.use_channels(channels);
    Some(scene)
}

#[test]
fn a_guest_moves_over_several_links() {
    for channels in [2, 3, 8] {
        let Some(mut scene) = scene(channels) else { return };
        let mut destination = scene.destination();
        let info = move_guest(&mut scene.source, &mut destination, &mut scene.guest);
        assert_eq!(info.status, Some(Status::Completed), "{channels}: {info:?}");
        scene.source.quit();
        scene.source = destination;
        scene.source.use_channels(channels);
        scene.ends_well();
    }
}

#[test]
fn every_link_carries_its_share_and_memory_is_equal() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new().memory("96M").workload(|load| load.working_set = 64 << 20);
    let mut source = lab.start(&spec);
    let mut guest = ferry_tests::GuestLog::new(&source, 1);
    guest.wait_ready();
    source.qmp("stop", json!({}));
    source.use_channels(4);
    let mut destination = lab.start_destination(&spec);
    let relay = ferry_tests::Relay::new(&destination.wait_listening(), None);
    let info = source.migrate_to(&relay.uri());
    assert_eq!(info.status, Some(Status::Completed), "{info:?}");
    destination.wait_run_state("paused");
    memory::assert_equal(&mut source, &mut destination, 1);
    let frames = relay.frames();
    let with_pages = frames.iter().filter(|frame| frame.link == Link::Bulk && frame.name.starts_with("pages "));
    let links: BTreeSet<u64> = with_pages.map(|frame| frame.connection).collect();
    assert_eq!(links.len(), 4, "{frames:?}");
}

#[test]
fn a_link_of_several_that_fails_leaves_the_guest_at_the_source() {
    let Some(mut scene) = scene(3) else { return };
    scene.slow_down();
    for fault in [Fault::Cut, Fault::Corrupt(3), Fault::Lose, Fault::Repeat] {
        let (mut destination, relay) = scene.destination_behind(Spot::Pages(2), fault.clone());
        scene.source.begin_migration(&relay.uri());
        let reason = scene.source.wait_migration_failed();
        assert!(reason.contains("bulk") || reason.contains("link"), "{fault:?}: {reason}");
        let _ended = destination.wait_exit(SOON);
        scene.guest.wait_reports(1);
    }
    scene.be_patient();
    scene.ends_well();
}

#[test]
fn a_postcopy_over_several_links_is_broken_and_recovered() {
    // It asks for pages more slowly than the links are broken.
    let describe = |_: &Lab, spec: Spec| {
        spec.cpus(2).memory("96M").workload(|load| {
            (load.working_set, load.rate) = (32 << 20, Rate::BytesPerSecond(1 << 20));
        })
    };
    let Some(mut scene) = Scene::with(describe) else { return };
    scene.source.use_channels(2);
    let mut stage = Postcopy::begin(scene);
    for link in [Link::Bulk, Link::Urgent, Link::Control] {
        stage.relay.wait_open(link);
        stage.relay.cut_link(link);
        stage.wait_paused();
        stage.recover();
    }
    stage.ends_well();
}

#[test]
fn channels_that_cannot_be_are_refused() {
    let Some(mut scene) = Scene::new() else { return };
    for channels in [0, 33] {
        let refused = scene.source.refused("migrate-set-parameters", json!({ "multifd-channels": channels }));
        assert!(refused.contains("multifd-channels") && refused.contains("from 1 to 32"), "{refused}");
    }
}
