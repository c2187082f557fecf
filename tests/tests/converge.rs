//! A guest that writes faster than the link carries: how its migration ends all the same, and that
//! nothing of it stays behind.

use std::time::{Duration, Instant};

use ferry_guest::workload::{Order, Rate};
use ferry_migration::info::{MigrationInfo, RamStats, Status};
use ferry_tests::{Ferry, GuestLog, LONG, Scene, wait_until};
use serde_json::json;

const CPUS: u32 = 2;
/// What the link may carry, in bytes a second.
const LINK: u64 = 8 << 20;
/// What the guest writes all over, much faster than that.
const WORKING_SET: u64 = 8 << 20;
/// In milliseconds; a fraction of what the working set takes on the link.
const DOWNTIME_LIMIT: u64 = 200;
/// How long vCPUs rest between two runs at 99 %.
const REST: Duration = Duration::from_millis(990);

/// Two vCPUs that touch memory flat out, on a link that is too slow for them.
fn too_fast() -> Option<Scene> {
    let mut scene = Scene::with(|_, spec| {
        spec.cpus(CPUS).memory("48M").workload(|load| {
            load.working_set = WORKING_SET;
            load.rate = Rate::Max;
            load.order = Order::Rand;
            // A report takes milliseconds where ring 0 is emulated: there must not be one in every
            // run between two rests.
            load.report_ms = 500;
        })
    })?;
    scene.source.set_parameters(json!({ "max-bandwidth": LINK, "downtime-limit": DOWNTIME_LIMIT }));
    Some(scene)
}

/// Pages that the guest touches in a second of its own clock, from its next reports.
fn pace(guest: &mut GuestLog) -> u64 {
    guest.wait_reports(1);
    let first: Vec<_> = (0..CPUS).map(|cpu| guest.newest(cpu).clone()).collect();
    guest.wait("reports over a second", LONG, |log| {
        let paces = first.iter().map(|first| {
            let last = log.newest(first.cpu);
            let millis = last.uptime_ms - first.uptime_ms;
            (millis >= 1000).then(|| (last.pages - first.pages) * 1000 / millis)
        });
        paces.sum()
    })
}

/// Waits until the guest goes this fast: a busy host lets it only at times.
fn wait_pace(guest: &mut GuestLog, least: u64) {
    wait_until(&format!("{least} pages a second"), LONG, || (pace(guest) >= least).then_some(()));
}

/// Waits until the guest is throttled, to this percentage or more.
fn wait_throttled(source: &mut Ferry, least: u64) -> MigrationInfo {
    wait_until(&format!("vCPUs to be throttled by {least} %"), LONG, || {
        let info = source.migration();
        assert!(info.status.is_some_and(Status::is_active), "{info:?}");
        info.cpu_throttle_percentage.is_some_and(|percentage| percentage >= least).then_some(info)
    })
}

/// Begins a migration that throttles the guest by this percentage, and that does not converge all
/// the same.
fn begin_throttled(scene: &mut Scene, percentage: u64) -> Ferry {
    let destination = scene.destination();
    scene.source.switch_on("auto-converge");
    scene.source.set_parameters(json!({
        "cpu-throttle-initial": percentage, "max-cpu-throttle": percentage, "downtime-limit": 0,
    }));
    scene.source.begin_migration(&destination.wait_listening());
    wait_throttled(&mut scene.source, percentage);
    scene.slow_down();
    destination
}

#[test]
fn throttled_it_converges_and_otherwise_never() {
    let Some(mut scene) = too_fast() else { return };
    let full = pace(&mut scene.guest);
    let mut destination = scene.destination();
    scene.source.begin_migration(&destination.wait_listening());
    let info = wait_until("six rounds", LONG, || {
        let info = scene.source.migration();
        info.ram.as_ref().is_some_and(|ram| ram.dirty_sync_count > 6).then_some(info)
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
    // The driver may throttle before the page thread has begun the next round.
    assert!(info.ram.is_some_and(|ram| ram.dirty_sync_count >= 2), "two rounds come before it");
    let info = scene.source.wait_migration_end();
    assert_eq!((info.status, info.cpu_throttle_percentage), (Some(Status::Completed), None), "{info:?}");
    assert!(info.x_ferry_cpu_throttle_highest.is_some_and(|highest| (50..=99).contains(&highest)), "{info:?}");
    // What was left for the downtime fits the limit at the rate of the link. The time itself is the
    // machine's matter.
    let fits = |ram: &RamStats| ram.downtime_bytes as f64 * 8.0 <= ram.mbps * 1000.0 * DOWNTIME_LIMIT as f64;
    assert!(info.ram.as_ref().is_some_and(fits), "{info:?}");
    eprintln!("completed after {:?} rounds: {info:?}", info.ram.as_ref().map(|ram| ram.dirty_sync_count));

    scene.guest.moved_to(&destination);
    destination.wait_run_state("running");
    // At the destination it runs at its full speed.
    wait_pace(&mut scene.guest, full / 4);
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
        let mut destination = begin_throttled(&mut scene, 95);
        let slow = pace(&mut scene.guest);
        let expected = if cancelled {
            scene.source.qmp("migrate_cancel", json!({}));
            Status::Cancelled
        } else {
            destination.kill();
            Status::Failed
        };
        let info = scene.source.wait_migration(expected);
        assert_eq!((info.cpu_throttle_percentage, info.x_ferry_cpu_throttle_highest), (None, Some(95)), "{info:?}");
        eprintln!("{} at {slow} pages/s", expected.as_str());
        wait_pace(&mut scene.guest, slow * 4);
        scene.be_patient();
        scene.source.set_parameters(json!({ "max-bandwidth": LINK, "downtime-limit": DOWNTIME_LIMIT }));
    }
    scene.ends_well();
}

#[test]
fn stop_cont_and_quit_wait_for_no_rest() {
    let Some(mut scene) = too_fast() else { return };
    let _destination = begin_throttled(&mut scene, 99);
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
    destination = begin_throttled(&mut scene, 95);
    let slow = pace(&mut scene.guest);
    scene.source.set_parameters(json!({ "max-bandwidth": LINK }));
    scene.source.qmp("migrate-start-postcopy", json!({}));
    let info = scene.source.wait_migration_end();
    assert_eq!((info.status, info.cpu_throttle_percentage), (Some(Status::Completed), None), "{info:?}");
    assert!(info.x_ferry_postcopy.is_some(), "{info:?}");
    scene.guest.moved_to(&destination);
    wait_pace(&mut scene.guest, slow * 4);
    scene.guest.assert_ran_in_one_place();
    scene.source.quit();
    scene.source = destination;
    scene.ends_well();
}
