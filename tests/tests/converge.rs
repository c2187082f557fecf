//! A guest that writes faster than the link carries: how its migration ends all the same, and that nothing of it stays behind.

use std::time::{Duration, Instant};

use ferry_guest::workload::{Order, Rate};
use ferry_migration::info::{MigrationInfo, Status};
use ferry_tests::{Ferry, GuestLog, LONG, Scene, wait_until};
use serde_json::json;

/// What the link may carry, in bytes a second.
const LINK: u64 = 24 << 20;
/// What the guest writes all over, much faster than that.
const WORKING_SET: u64 = 16 << 20;
/// In milliseconds; less than half of what the working set takes on the link.
const DOWNTIME_LIMIT: u64 = 300;
/// How long vCPUs rest between two runs at 99 %.
const REST: Duration = Duration::from_millis(990);

/// Two vCPUs that touch memory flat out, on a link that is too slow for them.
fn too_fast() -> Option<Scene> {
    let mut scene = Scene::with(|_, spec| {
        spec.cpus(2).memory("48M").workload(|load| {
            load.working_set = WORKING_SET;
            load.rate = Rate::Max;
            load.order = Order::Rand;
        })
    })?;
    scene.source.set_parameters(json!({ "max-bandwidth": LINK, "downtime-limit": DOWNTIME_LIMIT }));
    Some(scene)
}

/// Pages that the guest touches in a second of its own clock, from its next reports.
fn pace(guest: &mut GuestLog, cpus: u32) -> u64 {
    guest.wait_reports(1);
    let first: Vec<_> = (0..cpus).map(|cpu| guest.newest(cpu).clone()).collect();
    guest.wait("reports over a second", LONG, |log| {
        let paces = first.iter().map(|first| {
            let last = log.newest(first.cpu);
            let millis = last.uptime_ms - first.uptime_ms;
            (millis >= 1000).then(|| (last.pages - first.pages) * 1000 / millis)
        });
        paces.sum()
    })
}

/// Waits until the guest is throttled, to this percentage or more.
fn wait_throttled(source: &mut Ferry, least: u64) -> MigrationInfo {
    wait_until(&format!("vCPUs to be throttled by {least} %"), LONG, || {
        let info = source.migration();
        assert_eq!(info.status, Some(Status::Active), "{info:?}");
        info.cpu_throttle_percentage.is_some_and(|percentage| percentage >= least).then_some(info)
    })
}

/// Begins a migration that throttles the guest as much as it can, in rounds that then take long.
fn begin_throttled(scene: &mut Scene) -> Ferry {
    let destination = scene.destination();
    scene.source.switch_on("auto-converge");
    scene.source.set_parameters(json!({ "max-cpu-throttle": 99, "cpu-throttle-initial": 99 }));
    scene.source.begin_migration(&destination.wait_listening());
    wait_throttled(&mut scene.source, 99);
    scene.slow_down();
    destination
}

#[test]
fn throttled_it_converges_and_otherwise_never() {
    let Some(mut scene) = too_fast() else { return };
    let full = pace(&mut scene.guest, 2);
    let mut destination = scene.destination();
    scene.source.begin_migration(&destination.wait_listening());
    let info = wait_until("eight rounds", LONG, || {
        let info = scene.source.migration();
        info.ram.as_ref().is_some_and(|ram| ram.dirty_sync_count > 8).then_some(info)
    });
    assert_eq!((info.status, info.cpu_throttle_percentage), (Some(Status::Active), None), "{info:?}");
    assert!(info.expected_downtime.is_some_and(|ms| ms > DOWNTIME_LIMIT), "{info:?}");
    scene.source.qmp("migrate_cancel", json!({}));
    scene.source.wait_migration(Status::Cancelled);
    destination.wait_exit(LONG);

    let mut destination = scene.destination();
    scene.source.switch_on("auto-converge");
    scene.source.set_parameters(json!({ "cpu-throttle-initial": 50, "cpu-throttle-increment": 20 }));
    scene.source.begin_migration(&destination.wait_listening());
    let info = wait_throttled(&mut scene.source, 50);
    assert!(info.ram.is_some_and(|ram| ram.dirty_sync_count > 2), "two rounds come before it");
    let info = scene.source.wait_migration_end();
    assert_eq!((info.status, info.cpu_throttle_percentage), (Some(Status::Completed), None), "{info:?}");
    assert!(info.x_ferry_cpu_throttle_highest.is_some_and(|highest| (50..=99).contains(&highest)), "{info:?}");
    assert!(info.downtime.is_some_and(|ms| ms <= DOWNTIME_LIMIT), "{info:?}");
    eprintln!("completed after {:?} rounds: {info:?}", info.ram.as_ref().map(|ram| ram.dirty_sync_count));

    scene.guest.moved_to(&destination);
    destination.wait_run_state("running");
    let there = pace(&mut scene.guest, 2);
    assert!(there * 4 > full, "at the destination it runs at its full speed: {there} pages/s of {full}");
    scene.guest.assert_ran_in_one_place();
    scene.source.quit();

    // Fast enough, the next link converges by itself.
    let mut next = scene.destination();
    destination.switch_on("auto-converge");
    let info = destination.migrate_to(&next.wait_listening());
    assert_eq!(info.x_ferry_cpu_throttle_highest, None, "{info:?}");
    scene.guest.moved_to(&next);
    scene.guest.wait_reports(2);
    scene.guest.assert_ran_in_one_place();
    destination.quit();
    next.quit();
}

#[test]
fn a_migration_that_ends_early_lets_the_guest_go() {
    let Some(mut scene) = too_fast() else { return };
    for cancelled in [true, false] {
        let mut destination = begin_throttled(&mut scene);
        let slow = pace(&mut scene.guest, 2);
        let expected = if cancelled {
            scene.source.qmp("migrate_cancel", json!({}));
            Status::Cancelled
        } else {
            destination.kill();
            Status::Failed
        };
        let info = scene.source.wait_migration(expected);
        assert_eq!((info.cpu_throttle_percentage, info.x_ferry_cpu_throttle_highest), (None, Some(99)));
        let again = pace(&mut scene.guest, 2);
        eprintln!("{slow} pages/s at 99 %, {again} after it was {}", expected.as_str());
        assert!(again > slow * 4, "{again} pages/s after {slow}");
        scene.be_patient();
        scene.source.set_parameters(json!({ "max-bandwidth": LINK }));
    }
    scene.ends_well();
}

#[test]
fn stop_cont_and_quit_wait_for_no_rest() {
    let Some(mut scene) = too_fast() else { return };
    let _destination = begin_throttled(&mut scene);
    let began = Instant::now();
    for _ in 0..10 {
        scene.source.qmp("stop", json!({}));
        scene.source.qmp("cont", json!({}));
    }
    let took = began.elapsed();
    assert!(took < REST * 5, "20 commands took {took:?}");
    let info = scene.source.migration();
    assert_eq!((info.status, info.cpu_throttle_percentage), (Some(Status::Active), Some(99)), "{info:?}");
    scene.source.quit();
}

#[test]
fn postcopy_ends_it_as_well_and_frees_the_guest() {
    let Some(mut scene) = too_fast() else { return };
    scene.source.allow_postcopy();
    scene.source.set_parameters(json!({ "x-ferry-postcopy-when": "no-progress" }));
    let mut destination = scene.destination();
    let info = scene.source.migrate_to(&destination.wait_listening());
    assert!(info.x_ferry_postcopy.is_some_and(|stats| stats.received_pages > 0), "it moved by postcopy");
    assert_eq!(info.x_ferry_cpu_throttle_highest, None);
    scene.guest.moved_to(&destination);
    scene.guest.wait_reports(2);
    scene.guest.assert_ran_in_one_place();
    scene.source.quit();

    // Throttled first, and then told to go by postcopy.
    scene.source = destination;
    scene.source.allow_postcopy();
    scene.source.set_parameters(json!({ "max-bandwidth": LINK, "downtime-limit": DOWNTIME_LIMIT }));
    destination = begin_throttled(&mut scene);
    let slow = pace(&mut scene.guest, 2);
    scene.source.set_parameters(json!({ "max-bandwidth": LINK }));
    scene.source.qmp("migrate-start-postcopy", json!({}));
    let info = scene.source.wait_migration_end();
    assert_eq!((info.status, info.cpu_throttle_percentage), (Some(Status::Completed), None), "{info:?}");
    assert!(info.x_ferry_postcopy.is_some(), "{info:?}");
    scene.guest.moved_to(&destination);
    let again = pace(&mut scene.guest, 2);
    assert!(again > slow * 4, "{again} pages/s at the destination after {slow}");
    scene.guest.assert_ran_in_one_place();
    scene.source.quit();
    scene.source = destination;
    scene.ends_well();
}
