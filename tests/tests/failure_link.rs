//! Connections that break, stall, or change what they carry, at every step of a migration.

use ferry_migration::info::Status;
use ferry_tests::relay::{Fault, Plan, Spot};
use ferry_tests::scene::{assert_never_ran, gave_up};
use ferry_tests::{Relay, SOON, Scene, wait_until};
use serde_json::json;

/// Every frame before the permit, in the order in which they pass.
const BEFORE_THE_PERMIT: [Spot; 11] = [
    Spot::ControlPreamble,
    Spot::Message("Hello"),
    Spot::Message("HelloAck"),
    Spot::BulkPreamble,
    Spot::Pages(0),
    Spot::Pages(3),
    Spot::Message("Rehearse"),
    Spot::Message("Rehearsed"),
    Spot::Marker,
    Spot::Message("Package"),
    Spot::Message("Ready"),
];

/// Spoils one migration after the other; after each the guest runs on, and nothing ever runs on a
/// destination.
fn spoil_each(faults: impl Fn(Spot) -> Option<Fault>) {
    let Some(mut scene) = Scene::new() else { return };
    scene.be_impatient();
    for at in BEFORE_THE_PERMIT {
        let Some(fault) = faults(at) else { continue };
        let (mut destination, relay) = scene.destination_behind(at, fault);
        let reason = scene.fails(&relay.uri());
        assert!(!reason.is_empty(), "{at:?}");
        relay.wait_fired();
        drop(relay);
        if at == Spot::ControlPreamble {
            // For the destination that was a stranger: it still waits.
            assert_eq!(destination.run_state(), "inmigrate", "{at:?}");
            assert_never_ran(&destination);
        } else {
            let _ = gave_up(&mut destination);
        }
    }
    scene.ends_well();
}

#[test]
fn a_connection_that_is_cut_before_the_permit_leaves_the_guest_at_the_source() {
    spoil_each(|_| Some(Fault::Cut));
}

#[test]
fn a_connection_that_is_cut_behind_a_frame_leaves_the_guest_at_the_source() {
    // Behind `Ready` comes the permit, and behind what ends a phase comes the next: the cut is
    // noticed there.
    spoil_each(|at| (at != Spot::ControlPreamble && at != Spot::Message("Ready")).then_some(Fault::CutAfter));
}

#[test]
fn a_connection_that_stalls_before_the_permit_is_given_up_in_time() {
    spoil_each(|_| Some(Fault::Stall));
}

#[test]
fn a_frame_that_is_corrupted_is_noticed() {
    // The first byte of each: a magic number. Later bytes are the matter of the next test.
    spoil_each(|_| Some(Fault::Corrupt(0)));
}

#[test]
fn a_frame_that_is_lost_is_noticed() {
    spoil_each(|at| matches!(at, Spot::Message(_) | Spot::Pages(_) | Spot::Marker).then_some(Fault::Lose));
}

#[test]
fn a_frame_that_comes_twice_is_noticed() {
    // A repeated `Ready` finds a source that has permitted the start (see `uncertain.rs`), and
    // behind a marker the next frame that matters is on the other link.
    let repeats = |at| matches!(at, Spot::Message(_) | Spot::Pages(_)) && at != Spot::Message("Ready");
    spoil_each(|at| repeats(at).then_some(Fault::Repeat));
}

#[test]
fn a_corrupted_byte_is_named_as_such_on_both_sides() {
    let Some(mut scene) = Scene::new() else { return };
    scene.be_impatient();
    for (at, byte) in [
        // Session, body and attachment of control frames; a bitmap, the chunk's number and the
        // checksum of bulk frames.
        (Spot::Message("Hello"), 24),
        (Spot::Message("Hello"), 200),
        (Spot::Message("Rehearse"), 100),
        (Spot::Message("Package"), 1000),
        (Spot::Pages(0), 30),
        (Spot::Pages(1), 16),
        (Spot::Pages(2), 158),
        (Spot::Marker, 16),
    ] {
        let (mut destination, relay) = scene.destination_behind(at, Fault::Corrupt(byte));
        let reason = scene.fails(&relay.uri());
        assert!(reason.contains("checksum"), "{at:?} byte {byte}: {reason}");
        let error = gave_up(&mut destination);
        assert!(error.contains("checksum"), "{at:?} byte {byte}: {error}");
    }
    scene.ends_well();
}

#[test]
fn a_length_beyond_its_cap_is_refused_without_making_room() {
    let Some(mut scene) = Scene::new() else { return };
    scene.be_impatient();
    // The lengths of message and attachment (bytes 12 and 16 of a control frame's header).
    for (message, byte, field) in [("Hello", 12, "message length"), ("Package", 16, "attachment length")] {
        let fault = Fault::Replace(byte, &[0xff, 0xff, 0xff, 0x7f]);
        let (mut destination, relay) = scene.destination_behind(Spot::Message(message), fault);
        let reason = scene.fails(&relay.uri());
        assert!(reason.contains(field), "{reason}");
        let error = gave_up(&mut destination);
        assert!(error.contains(message) && error.contains(field), "{error}");
    }
    scene.ends_well();
}

#[test]
fn another_version_is_named_on_both_sides() {
    let Some(mut scene) = Scene::new() else { return };
    let (mut destination, relay) = scene.destination_behind(Spot::ControlPreamble, Fault::Replace(8, &[99, 0]));
    let reason = scene.fails(&relay.uri());
    assert!(reason.contains("version"), "{reason}");
    assert_eq!(scene.source.migration_statuses(), ["setup", "failed"]);
    wait_until("the destination to name the version", SOON, || {
        destination.stderr().contains("version 99").then_some(())
    });
    assert_eq!(destination.run_state(), "inmigrate", "it still waits for a source that it understands");
    scene.source.migrate_to(&destination.wait_listening());
    scene.guest.moved_to(&destination);
    scene.guest.wait_reports(2);
}

#[test]
fn a_link_that_is_slow_for_a_while_does_not_fail_a_migration() {
    let Some(mut scene) = Scene::new() else { return };
    let mut destination = scene.destination();
    let plan = Plan { at: Spot::Message("Package"), fault: Fault::Stall };
    let relay = Relay::new(&destination.wait_listening(), Some(plan));
    scene.source.begin_migration(&relay.uri());
    relay.wait_fired();
    assert_eq!(scene.source.migration().status, Some(Status::Device));
    relay.heal();
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Completed));
    scene.guest.moved_to(&destination);
    destination.wait_run_state("running");
    scene.guest.wait_reports(2);
    scene.guest.assert_ran_in_one_place();
}

#[test]
fn the_qmp_socket_answers_while_a_migration_hangs() {
    let Some(mut scene) = Scene::new() else { return };
    for at in [Spot::Message("HelloAck"), Spot::Pages(2), Spot::Message("Package")] {
        let (_destination, relay) = scene.destination_behind(at, Fault::Stall);
        scene.source.begin_migration(&relay.uri());
        relay.wait_fired();
        for command in ["query-status", "query-migrate", "query-migrate-parameters", "query-name"] {
            scene.source.qmp(command, json!({}));
        }
        let reason = scene.source.refused("migrate", json!({ "uri": "tcp:127.0.0.1:1" }));
        assert!(reason.contains("going on"), "{reason}");
        scene.source.qmp("migrate_cancel", json!({}));
        assert_eq!(scene.source.wait_migration_end().status, Some(Status::Cancelled));
    }
    scene.ends_well();
}
