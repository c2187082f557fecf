//! Destinations that die, freeze, do not match or are no Ferry at all; sources that die; strangers
//! at the door.

use std::time::Duration;

use ferry_migration::info::Status;
use ferry_migration::wire::preamble::{LinkRole, Preamble};
use ferry_tests::peer::{Answer, FalsePeer, stranger};
use ferry_tests::relay::{Fault, Plan, Spot};
use ferry_tests::scene::{assert_never_ran, gave_up};
use ferry_tests::wait::wait_for;
use ferry_tests::{Ferry, Relay, SOON, Scene, Spec, disk};
use serde_json::json;

/// How far a migration gets before something happens to a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Setup,
    Rounds,
    Rehearsal,
    Device,
}

const PHASES: [Phase; 4] = [Phase::Setup, Phase::Rounds, Phase::Rehearsal, Phase::Device];

impl Phase {
    /// Brings a migration to `destination` into this phase, where it stays. The relay must be
    /// kept.
    fn reach(self, scene: &mut Scene, destination: &Ferry) -> Relay {
        let at = match self {
            // The frame that ends the phase does not pass.
            Phase::Setup => Spot::Message("HelloAck"),
            Phase::Rounds => Spot::Pages(4),
            Phase::Rehearsal => Spot::Message("Rehearsed"),
            Phase::Device => Spot::Message("Package"),
        };
        scene.source.set_parameters(json!({ "max-bandwidth": 0, "x-ferry-rehearsal": self == Phase::Rehearsal }));
        let relay = Relay::new(&destination.wait_listening(), Some(Plan { at, fault: Fault::Stall }));
        scene.source.begin_migration(&relay.uri());
        relay.wait_fired();
        relay
    }
}

#[test]
fn a_destination_that_is_killed_leaves_the_guest_at_the_source() {
    let Some(mut scene) = Scene::new() else { return };
    for phase in PHASES {
        let mut destination = scene.destination();
        let relay = phase.reach(&mut scene, &destination);
        destination.kill();
        // The relay stands for a network; the destination's host sends its last word through it.
        relay.heal();
        let reason = scene.source.wait_migration_failed();
        assert!(reason.contains("closed") || reason.contains("reset"), "{phase:?}: {reason}");
        scene.guest.wait_reports(1);
        assert_never_ran(&destination);
    }
    scene.ends_well();
}

#[test]
fn a_destination_that_freezes_is_given_up_in_time_and_never_runs() {
    let Some(mut scene) = Scene::new() else { return };
    scene.be_impatient();
    for phase in PHASES {
        let mut destination = scene.destination();
        let relay = phase.reach(&mut scene, &destination);
        destination.freeze();
        relay.heal();
        // What the destination had said before still brings the migration on by a step; then
        // nothing comes.
        let info = scene.source.wait_migration_end_or(Status::Uncertain);
        assert_eq!(info.status, Some(Status::Failed), "{phase:?}: {info:?}");
        scene.guest.wait_reports(1);
        destination.thaw();
        let _ = gave_up(&mut destination);
    }
    scene.ends_well();
}

#[test]
fn a_destination_that_freezes_before_it_is_ready_never_runs() {
    let Some(mut scene) = Scene::new() else { return };
    scene.be_impatient();
    scene.without_rehearsal();
    let mut destination = scene.destination_with("fault,at=load,do=delay:200,in=incoming");
    scene.source.begin_migration(&destination.wait_listening());
    wait_for("the guest to be stopped", SOON, || scene.source.migration().status == Some(Status::Device));
    destination.freeze();
    let info = scene.source.wait_migration_end_or(Status::Uncertain);
    // Nothing synchronises the two processes here: a freeze that comes after `Ready` is the matter
    // of the test above.
    if info.status == Some(Status::Failed) {
        scene.guest.wait_reports(1);
        destination.thaw();
        let _ = gave_up(&mut destination);
        scene.ends_well();
    }
}

#[test]
fn a_source_that_is_killed_ends_its_destination() {
    for phase in PHASES {
        let Some(mut scene) = Scene::new() else { return };
        let mut destination = scene.destination();
        let relay = phase.reach(&mut scene, &destination);
        scene.source.kill();
        relay.heal();
        let error = gave_up(&mut destination);
        assert!(error.contains("closed") || error.contains("reset"), "{phase:?}: {error}");
    }
}

#[test]
fn a_source_that_quits_ends_its_destination() {
    for phase in PHASES {
        let Some(mut scene) = Scene::new() else { return };
        let mut destination = scene.destination();
        let relay = phase.reach(&mut scene, &destination);
        scene.source.quit();
        relay.heal();
        let _ = gave_up(&mut destination);
    }
}

#[test]
fn a_source_that_is_killed_after_the_handover_does_not_matter() {
    let Some(mut scene) = Scene::new() else { return };
    let mut destination = scene.destination();
    ferry_tests::migration::move_guest(&mut scene.source, &mut destination, &mut scene.guest);
    scene.source.kill();
    scene.guest.wait_reports(3);
}

#[test]
fn a_peer_that_is_no_ferry_is_recognised() {
    let Some(mut scene) = Scene::new() else { return };
    scene.be_impatient();
    for (answer, said) in [
        (Answer::Nothing, "in time"),
        (Answer::Close, "closed"),
        (Answer::Bytes(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), "does not speak Ferry"),
        (Answer::Bytes(b"SSH-2.0-OpenSSH_9.2\r\nmore than a header long"), "does not speak Ferry"),
        (Answer::Bytes(&[0xff; 64]), "does not speak Ferry"),
    ] {
        let peer = FalsePeer::new(answer);
        let reason = scene.fails(&peer.uri());
        // A peer that closes at once is noticed by whichever comes first, a read or a write.
        let closed = answer == Answer::Close && (reason.contains("reset") || reason.contains("Broken pipe"));
        assert!(reason.contains(said) || closed, "{answer:?}: {reason}");
    }
    scene.ends_well();
}

#[test]
fn an_address_where_nobody_listens_is_named() {
    let Some(mut scene) = Scene::new() else { return };
    let closed = FalsePeer::new(Answer::Close).uri();
    let missing = format!("unix:{}", scene.lab.path("missing.sock").display());
    for address in [closed, missing] {
        let reason = scene.fails(&address);
        assert!(reason.contains(&address) && reason.contains("cannot connect"), "{reason}");
        assert_eq!(scene.source.migration_statuses(), ["setup", "failed"]);
    }
    scene.ends_well();
}

#[test]
fn strangers_do_not_disturb_a_destination_that_waits() {
    let Some(mut scene) = Scene::new() else { return };
    let mut destination = scene.destination();
    let to = destination.wait_listening();
    let mut strangers: Vec<_> = (0..5).map(|_| stranger(&to, b"")).collect();
    strangers.push(stranger(&to, b"GET / HTTP/1.1\r\nHost: guest\r\nAccept: everything\r\n\r\n"));
    strangers.push(stranger(&to, &[0xff; 100]));
    strangers.push(stranger(&to, b"FERRYMIG"));
    let unknown = Preamble { migration_id: 7, connection: 0, link: LinkRole::Bulk(0) };
    strangers.push(stranger(&to, &unknown.encode()));
    ferry_tests::migration::move_guest(&mut scene.source, &mut destination, &mut scene.guest);
    drop(strangers);
    scene.guest.wait_reports(1);
}

#[test]
fn a_crowd_of_strangers_does_not_keep_the_source_out() {
    let Some(mut scene) = Scene::new() else { return };
    let mut destination = scene.destination();
    let _crowd = ferry_tests::stranger::opens_many(&destination.wait_listening());
    ferry_tests::migration::move_guest(&mut scene.source, &mut destination, &mut scene.guest);
}

#[test]
fn strangers_do_not_disturb_a_migration_that_goes_on() {
    let Some(mut scene) = Scene::new() else { return };
    let mut destination = scene.destination();
    let to = destination.wait_listening();
    scene.slow_down();
    scene.source.begin_migration(&to);
    wait_for("pages to be sent", SOON, || scene.source.migration().ram.is_some_and(|ram| ram.normal > 0));
    let second = Preamble { migration_id: 7, connection: 0, link: LinkRole::Control };
    let bulk = Preamble { migration_id: 7, connection: 0, link: LinkRole::Bulk(0) };
    let strangers =
        [&second.encode()[..], &bulk.encode(), b"GET / HTTP/1.1\r\nHost: guest\r\nAccept: everything\r\n\r\n", b""]
            .map(|bytes| stranger(&to, bytes));
    let mut answer = [0; 1];
    let mut second = &strangers[0];
    second.set_read_timeout(Some(SOON)).unwrap();
    assert!(std::io::Read::read(&mut second, &mut answer).is_ok(), "a second source is answered, not left waiting");
    scene.be_patient();
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Completed));
    scene.guest.moved_to(&destination);
    destination.wait_run_state("running");
    scene.guest.wait_reports(2);
}

#[test]
fn a_second_source_is_refused_while_the_first_migrates() {
    let Some(mut scene) = Scene::new() else { return };
    let mut destination = scene.destination();
    let to = destination.wait_listening();
    scene.slow_down();
    scene.source.begin_migration(&to);
    scene.source.wait_migration(Status::Active);
    let mut other = scene.lab.start(&scene.spec.clone().name("other"));
    other.begin_migration(&to);
    let reason = other.wait_migration_failed();
    assert!(reason.contains("another migration"), "{reason}");
    scene.be_patient();
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Completed));
    scene.guest.moved_to(&destination);
    destination.wait_run_state("running");
    scene.guest.wait_reports(2);
}

#[test]
fn a_machine_that_does_not_match_is_refused_by_name() {
    let Some(mut scene) = Scene::with(|lab, spec| spec.cpus(2).disk(&disk::image(lab, "disk.img", 4 << 20))) else {
        return;
    };
    let small = disk::image(&scene.lab, "small.img", 2 << 20);
    let spec = scene.spec.clone();
    let cases: [(&str, Spec); 5] = [
        ("memory: the source has 32 MiB", spec.clone().memory("48M")),
        ("vcpus: the source has 2, the destination has 1", spec.clone().cpus(1)),
        (
            "device virtio-blk/0: the source has it, the destination has no such device",
            Spec { disk: None, ..spec.clone() },
        ),
        (
            "device virtio-blk/0 capacity in bytes: the source has 4194304, the destination has 2097152",
            spec.clone().disk(&small),
        ),
        ("read-only", Spec { disk: spec.disk.clone().map(|(path, _)| (path, true)), ..spec }),
    ];
    for (item, other) in cases {
        let mut destination = scene.lab.start_destination(&other);
        let reason = scene.fails(&destination.wait_listening());
        assert!(reason.contains(item), "{item}: {reason}");
        assert_eq!(scene.source.migration_statuses(), ["setup", "failed"], "{item}: the guest was not touched");
        let error = gave_up(&mut destination);
        assert!(error.contains(item), "{item}: {error}");
    }
    scene.ends_well();
}

#[test]
fn a_disk_that_only_the_destination_has_is_refused_by_name() {
    let Some(mut scene) = Scene::new() else { return };
    let image = disk::image(&scene.lab, "disk.img", 4 << 20);
    let mut destination = scene.lab.start_destination(&scene.spec.clone().disk(&image));
    let reason = scene.fails(&destination.wait_listening());
    assert!(reason.contains("device virtio-blk/0: the source has no such device"), "{reason}");
    let _ = gave_up(&mut destination);
    scene.ends_well();
}

#[test]
fn a_source_that_freezes_is_given_up_by_its_destination() {
    let Some(mut scene) = Scene::new() else { return };
    scene.be_impatient();
    let mut destination = scene.destination();
    scene.slow_down();
    scene.source.begin_migration(&destination.wait_listening());
    scene.source.wait_migration(Status::Active);
    scene.source.freeze();
    let error = gave_up(&mut destination);
    assert!(error.contains("no sign of life"), "{error}");
    scene.source.thaw();
    let reason = scene.source.wait_migration_failed();
    assert!(!reason.is_empty());
    scene.guest.wait_reports(1);
    scene.ends_well();
}

#[test]
fn a_destination_without_a_source_waits_until_it_is_told_to_quit() {
    let Some(scene) = Scene::new() else { return };
    let mut destination = scene.destination();
    let reason = destination.refused("migrate", json!({ "uri": "tcp:127.0.0.1:1" }));
    assert!(reason.contains("no guest"), "{reason}");
    let reason = destination.refused("system_reset", json!({}));
    assert!(!reason.is_empty());
    assert!(destination.exit_status().is_none());
    destination.qmp("quit", json!({}));
    assert_eq!(destination.wait_exit(Duration::from_secs(20)), 0);
    assert_never_ran(&destination);
}
