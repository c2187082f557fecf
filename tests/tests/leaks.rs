//! Nothing is left behind: threads, descriptors and memory after many migrations, good and bad.

use ferry_tests::migration::move_guest;
use ferry_tests::postcopy::restless;
use ferry_tests::procfs::Holdings;
use ferry_tests::relay::{Fault, Spot};
use ferry_tests::scene::gave_up;
use ferry_tests::wait::wait_for;
use ferry_tests::{Postcopy, SOON, Scene, disk};
use serde_json::json;

/// Memory that may come and go: stacks, allocator caches.
const SLACK_KIB: u64 = 16 << 10;

/// Waits until a process holds no more threads and descriptors than before; a thread may need a
/// moment to end.
fn settles(pid: u32, before: Holdings) {
    let now = holds_no_more(pid, before);
    assert!(now.rss_kib <= before.rss_kib + SLACK_KIB, "{before} before, {now} now");
}

/// As [`settles`], for a process whose memory may grow.
fn holds_no_more(pid: u32, before: Holdings) -> Holdings {
    let mut now = Holdings::of(pid);
    wait_for(&format!("at most {before}"), SOON, || {
        now = Holdings::of(pid);
        now.threads <= before.threads && now.fds <= before.fds
    });
    now
}

#[test]
fn failed_migrations_leave_nothing_behind_at_the_source() {
    let Some(mut scene) = Scene::with(|lab, spec| spec.cpus(2).disk(&disk::image(lab, "disk.img", 4 << 20))) else {
        return;
    };
    scene.be_impatient();
    let attempt = |scene: &mut Scene, number: usize| {
        let faults = [
            (Spot::Message("HelloAck"), Fault::Stall),
            (Spot::Pages(2), Fault::Cut),
            (Spot::Message("Rehearsed"), Fault::Corrupt(0)),
            (Spot::Message("Package"), Fault::Stall),
            (Spot::Message("Ready"), Fault::Cut),
        ];
        let (at, fault) = faults[number % faults.len()].clone();
        let (mut destination, relay) = scene.destination_behind(at, fault);
        let _ = scene.fails(&relay.uri());
        drop(relay);
        let _ = gave_up(&mut destination);
    };
    // The first attempts may fill caches once.
    (0..5).for_each(|number| attempt(&mut scene, number));
    let before = Holdings::of(scene.source.pid());
    (0..10).for_each(|number| attempt(&mut scene, number));
    settles(scene.source.pid(), before);
    scene.ends_well();
}

#[test]
fn a_destination_that_lives_through_failures_leaves_nothing_behind() {
    let Some(mut scene) = Scene::new() else { return };
    let mut destination = scene.lab.start(&scene.spec.clone().incoming("defer"));
    let to = format!("unix:{}", scene.lab.path("m.sock").display());
    destination.set_fault(json!({ "at": "post_load", "do": "fail", "times": 13 }));
    let mut before = None;
    for number in 0..13 {
        destination.qmp("migrate-incoming", json!({ "uri": to, "exit-on-error": false }));
        let reason = scene.fails(&to);
        assert!(reason.contains("fault/0"), "{reason}");
        destination.wait_migration_end();
        wait_for("the socket to be free again", SOON, || !scene.lab.path("m.sock").exists());
        if number == 2 {
            before = Some(Holdings::of(destination.pid()));
        }
    }
    settles(destination.pid(), before.expect("there were three attempts"));
    destination.qmp("migrate-incoming", json!({ "uri": to }));
    scene.source.migrate_to(&to);
    scene.guest.moved_to(&destination);
    scene.guest.wait_reports(2);
}

#[test]
fn ten_moves_leave_no_more_than_one() {
    let Some(mut scene) = Scene::with(|lab, spec| spec.cpus(2).disk(&disk::image(lab, "disk.img", 4 << 20))) else {
        return;
    };
    let mut first = None;
    for _ in 0..10 {
        let mut destination = scene.destination();
        move_guest(&mut scene.source, &mut destination, &mut scene.guest);
        scene.source.quit();
        scene.source = destination;
        match first {
            None => first = Some(Holdings::of(scene.source.pid())),
            Some(first) => settles(scene.source.pid(), first),
        }
    }
}

#[test]
fn cancelled_migrations_leave_nothing_behind() {
    let Some(mut scene) = Scene::new() else { return };
    scene.slow_down();
    let mut before = None;
    for number in 0..13 {
        let mut destination = scene.destination();
        scene.source.begin_migration(&destination.wait_listening());
        scene.source.wait_migration(ferry_migration::Status::Active);
        scene.source.qmp("migrate_cancel", json!({}));
        scene.source.wait_migration_end();
        let _ = gave_up(&mut destination);
        if number == 2 {
            before = Some(Holdings::of(scene.source.pid()));
        }
    }
    settles(scene.source.pid(), before.expect("there were three attempts"));
    scene.ends_well();
}

#[test]
fn broken_connections_of_a_postcopy_leave_nothing_behind() {
    let Some(scene) = Scene::with(restless) else { return };
    let mut stage = Postcopy::begin(scene);
    let mut before = None;
    for number in 0..13 {
        match number % 3 {
            0 => stage.relay.cut_all(),
            1 => drop(stage.scene.source.qmp("migrate-pause", json!({}))),
            _ => drop(stage.destination.qmp("migrate-pause", json!({}))),
        }
        stage.wait_paused();
        stage.recover();
        // A guest that goes on has all of its links again.
        stage.scene.guest.wait_reports(1);
        if number == 2 {
            before = Some([&stage.scene.source, &stage.destination].map(|side| Holdings::of(side.pid())));
        }
    }
    let [source, destination] = before.expect("there were three breaks");
    settles(stage.scene.source.pid(), source);
    // Its memory is arriving.
    holds_no_more(stage.destination.pid(), destination);
    stage.ends_well();
}
