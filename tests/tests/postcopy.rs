//! Postcopy migrations that succeed: the guest runs at the destination while its memory follows.

use ferry_guest::workload::{Order, Rate};
use ferry_migration::info::{MigrationInfo, Status};
use ferry_tests::migration::statuses;
use ferry_tests::{Ferry, Lab, Scene, Spec, disk, memory};
use serde_json::json;

/// A guest that keeps two vCPUs, memory and a disk busy.
fn loaded(lab: &Lab, spec: Spec) -> Spec {
    let image = disk::image(lab, "disk.img", 16 << 20);
    spec.cpus(2).memory("128M").disk(&image).workload(|load| {
        load.working_set = 48 << 20;
        load.rate = Rate::BytesPerSecond(64 << 20);
        load.order = Order::Rand;
    })
}

/// Lets the next migration of `source` use postcopy, which begins `when`.
fn allow(source: &mut Ferry, when: &str) {
    source.allow_postcopy();
    source.set_parameters(json!({ "x-ferry-postcopy-when": when }));
}

/// What both sides say of a postcopy that has ended well must fit together.
fn check_numbers(source: &MigrationInfo, destination: &MigrationInfo) {
    let (ours, theirs) = (source.ram.as_ref().unwrap(), destination.ram.as_ref().unwrap());
    let [sent, received] = [source, destination].map(|info| info.x_ferry_postcopy.clone().expect("postcopy's figures"));
    assert_eq!((sent.missing_pages, received.missing_pages), (0, 0), "{sent:?} {received:?}");
    assert_eq!(sent.received_pages, received.received_pages, "{sent:?} {received:?}");
    assert!(ours.postcopy_bytes > 0 && ours.postcopy_bytes == sent.urgent_bytes + sent.background_bytes, "{ours:?}");
    assert_eq!(ours.transferred, theirs.transferred, "what was sent has arrived");
    let waits = received.waits.expect("the destination knows of waits");
    assert!(waits.count <= theirs.postcopy_requests && waits.pending == 0, "{waits:?}");
    if let Some(dist) = &destination.postcopy_latency_dist {
        assert_eq!(dist.iter().sum::<u64>(), waits.count);
    }
}

#[test]
fn a_loaded_guest_moves_by_postcopy_to_and_fro() {
    let Some(mut scene) = Scene::with(loaded) else { return };
    for when in ["first-round", "no-progress", "first-round", "first-round"] {
        allow(&mut scene.source, when);
        // Nothing but no page at all is little enough to do without.
        scene.source.set_parameters(json!({ "downtime-limit": 0 }));
        let mut destination = scene.destination();
        let info = scene.source.migrate_to(&destination.wait_listening());
        scene.guest.moved_to(&destination);
        let there = destination.wait_migration_end();
        assert_eq!(there.status, Some(Status::Completed), "{there:?}");
        if info.x_ferry_postcopy.is_some() {
            check_numbers(&info, &there);
            let expected = ["setup", "active", "postcopy-setup", "postcopy-active", "completed"];
            assert_eq!(statuses(scene.source.events()), expected);
            assert_eq!(statuses(destination.events()), expected);
        }
        scene.guest.wait_reports(2);
        scene.guest.assert_ran_in_one_place();
        scene.source.quit();
        scene.source = destination;
    }
    scene.ends_well();
}

#[test]
fn postcopy_starts_when_told_to_even_within_the_first_round() {
    let Some(mut scene) = Scene::new() else { return };
    scene.source.allow_postcopy();
    scene.slow_down();
    let mut destination = scene.destination();
    scene.source.begin_migration(&destination.wait_listening());
    scene.source.wait_migration(Status::Active);
    scene.source.qmp("migrate-start-postcopy", json!({}));
    scene.source.wait_migration(Status::PostcopyActive);
    // Nearly all memory is missing now, and the background stream is slow.
    scene.guest.moved_to(&destination);
    destination.wait_run_state("running");
    scene.guest.wait_reports(3);
    let info = destination.migration();
    assert_eq!(info.status, Some(Status::PostcopyActive), "{info:?}");
    let stats = info.x_ferry_postcopy.expect("postcopy's figures, live");
    assert!(stats.missing_pages > 0 && stats.received_pages > 0, "{stats:?}");
    assert!(stats.waits.is_some_and(|waits| waits.count > 0), "the guest had to wait for its pages");
    assert!(scene.source.migration().ram.is_some_and(|ram| ram.postcopy_requests > 0));
    scene.source.set_parameters(json!({ "max-bandwidth": 0 }));
    let info = scene.source.wait_migration_end();
    assert_eq!(info.status, Some(Status::Completed), "{info:?}");
    check_numbers(&info, &destination.wait_migration_end());
    scene.guest.wait_reports(2);
    scene.guest.assert_ran_in_one_place();
    scene.source.quit();
    scene.source = destination;
    scene.ends_well();
}

#[test]
fn memory_is_equal_for_both_backings_and_their_crossings() {
    for (from, to, mode) in [
        ("memfd", "memfd", "minor"),
        ("anon", "anon", "missing"),
        ("memfd", "anon", "missing"),
        ("anon", "memfd", "minor"),
    ] {
        let memory = |backing: &str| format!("48M,backing={backing}");
        let Some(mut scene) = Scene::with(|_, spec| spec.cpus(2).memory(&memory(from))) else { return };
        allow(&mut scene.source, "first-round");
        scene.source.set_parameters(json!({ "downtime-limit": 0 }));
        let mut destination = scene.lab.start_destination(&scene.spec.clone().memory(&memory(to)).paused());
        scene.source.migrate_to(&destination.wait_listening());
        scene.guest.moved_to(&destination);
        destination.wait_run_state("paused");
        let info = destination.wait_migration_end();
        assert_eq!(info.x_ferry_postcopy.and_then(|stats| stats.fault_mode).as_deref(), Some(mode));
        memory::assert_equal(&mut scene.source, &mut destination, scene.spec.cpus);
        destination.qmp("cont", json!({}));
        scene.guest.wait_reports(2);
        scene.guest.assert_ran_in_one_place();
        scene.source.quit();
        scene.source = destination;
        scene.spec = scene.spec.memory(&memory(to));
        scene.ends_well();
    }
}
