//! The switchover of postcopy when an answer does not come: the destination dies, hangs or fails
//! before and after its word, with pages still to send and without. What QEMU 10.2.2 gets wrong
//! here is right here: nobody waits for ever, and nobody runs twice.
//!
//! Most tests take both handshakes: `setup`, which may have to ask an operator, and with a disk
//! `owned`, which asks the record.

use std::time::SystemTime;

use ferry_migration::{Handshake, Status};
use ferry_tests::failing::{STOPPED, Times, behind, with_both, working};
use ferry_tests::relay::{Fault, Spot};
use ferry_tests::scene::{assert_never_ran, gave_up};
use ferry_tests::wait::wait_for;
use ferry_tests::{Ferry, Relay, SOON, Scene, disk, wait_until};
use serde_json::json;

const READY: Spot = Spot::Message("Ready");
const PERMIT: Spot = Spot::Message("Permit");
const STARTED: Spot = Spot::Message("Started");

/// The source waits for the destination's word longer than the destination waits for its disk.
fn wait_for_the_word(scene: &mut Scene) {
    scene.source.set_parameters(json!({ "x-ferry-load-timeout-ms": 60_000 }));
}

/// A third party takes the disk before the permit passes; the destination's word of that is
/// stalled.
fn takes_disk_at_permit(scene: &Scene, relay: &Relay) -> disk::Lock {
    let thief = scene.steal_disk(relay);
    relay.set_plan(Spot::Message("NotStarted"), Fault::Stall);
    relay.release();
    relay.wait_fired();
    thief
}

/// A destination that has every page and hangs in the last step of its load, and the way to it.
/// Nothing but the link's end or an operator frees the source within the minute.
fn all_sent(scene: &mut Scene, handshake: Handshake, at: Spot, fault: Fault) -> (Ferry, Relay) {
    scene.source.set_parameters(json!({ "x-ferry-load-timeout-ms": 60_000 }));
    let mut destination = scene.destination_with("fault,at=post_load,do=hang,in=incoming");
    let relay = behind(&destination, at, fault);
    scene.begin_postcopy(&relay.uri());
    for side in [&mut scene.source, &mut destination] {
        let info = wait_until("all pages to be at the destination", SOON, || {
            let info = side.migration();
            let done = info.x_ferry_postcopy.as_ref().is_some_and(|stats| stats.missing_pages == 0);
            (info.status == Some(Status::PostcopySetup) && done).then_some(info)
        });
        assert_eq!(info.x_ferry_handshake, Some(handshake));
    }
    (destination, relay)
}

/// The migration ended well for the guest, which runs at `destination` only, once whoever must has
/// spoken and reconnected. The operator resolves an uncertainty that nothing else will end.
fn goes_on_at(mut scene: Scene, mut destination: Ferry, resolves: bool, to: &str) {
    scene.source.set_parameters(json!({ "max-bandwidth": 0 }));
    wait_until("the source to be done with the guest", SOON, || {
        let info = scene.source.migration();
        assert_ne!(scene.source.run_state(), "running", "two run: {info:?}");
        match info.status.expect("there is a migration") {
            Status::Completed => return Some(()),
            // A destination that has closed its links has taken back what was on its way.
            Status::Uncertain if resolves || destination.migration().status == Some(Status::PostcopyPaused) => {
                resolve(&mut scene.source, "destination", false);
            }
            Status::PostcopyPaused if destination.migration().status == Some(Status::Completed) => {
                // It has every page, and does not listen any more.
                resolve(&mut scene.source, "destination", true);
            }
            Status::PostcopyPaused => {
                // The destination may notice later than the source, or be done meanwhile.
                let _ = scene.source.try_qmp("migrate", json!({ "uri": to, "resume": true }));
            }
            other => assert!(other != Status::Failed && other != Status::Cancelled, "{info:?}"),
        }
        None
    });
    scene.arrived(&mut destination);
    scene.lives_in(destination);
    scene.ends_well_by_postcopy();
}

fn resolve(source: &mut Ferry, owner: &str, drop_pages: bool) {
    // It may have resolved itself since it was looked at.
    let _ = source.try_qmp("x-ferry-resolve", json!({ "owner": owner, "peer-fenced": true, "drop-pages": drop_pages }));
}

/// An uncertain source says what can be done, and does nothing by itself.
fn is_uncertain(source: &mut Ferry) {
    let info = source.wait_migration_end_or(Status::Uncertain);
    assert_eq!(info.status, Some(Status::Uncertain), "{info:?}");
    let why = info.error_desc.expect("an uncertain migration says why");
    assert!(why.contains("x-ferry-resolve"), "{why}");
    assert_eq!(source.run_state(), "finish-migrate");
    let reason = source.refused("migrate_cancel", json!({}));
    assert!(reason.contains("permitted"), "{reason}");
}

#[test]
fn a_destination_that_dies_with_every_page_but_before_its_answer_does_not_keep_the_source_waiting() {
    let times = std::cell::RefCell::new(Times::default());
    with_both(|mut scene, handshake| {
        let (mut destination, _relay) = all_sent(&mut scene, handshake, READY, Fault::Note);
        let killed = SystemTime::now();
        destination.kill();
        let resumed = scene.failed_as("link", &STOPPED).expect("the guest was stopped");
        times.borrow_mut().note(killed, resumed);
        assert_never_ran(&destination);
        scene.ends_well_by_postcopy();
    });
    times.into_inner().show("from the destination's death to RESUME");
}

#[test]
fn a_destination_that_freezes_with_every_page_but_before_its_answer_is_given_up_in_time() {
    with_both(|mut scene, handshake| {
        scene.source.set_parameters(json!({ "x-ferry-heartbeat-timeout-ms": 1000 }));
        let (mut destination, _relay) = all_sent(&mut scene, handshake, READY, Fault::Note);
        destination.freeze();
        scene.failed_as("no sign of life", &STOPPED);
        destination.thaw();
        let _ = gave_up(&mut destination);
        scene.ends_well_by_postcopy();
    });
}

#[test]
fn a_cancel_with_every_page_sent_and_no_answer_gives_the_guest_back_at_once() {
    with_both(|mut scene, handshake| {
        for frozen in [false, true] {
            let (mut destination, _relay) = all_sent(&mut scene, handshake, READY, Fault::Note);
            if frozen {
                destination.freeze();
            }
            scene.source.qmp("migrate_cancel", json!({}));
            assert_eq!(scene.source.wait_migration_end().status, Some(Status::Cancelled));
            assert_eq!(scene.source.run_state(), "running");
            let statuses = scene.source.migration_statuses();
            assert_eq!(statuses, ["setup", "active", "postcopy-setup", "cancelling", "cancelled"]);
            scene.guest.wait_reports(1);
            if frozen {
                destination.thaw();
            }
            let _ = gave_up(&mut destination);
        }
        scene.ends_well_by_postcopy();
    });
}

#[test]
fn an_answer_that_is_lost_before_the_permit_leaves_the_guest_at_the_source() {
    with_both(|mut scene, _| {
        for fault in [Fault::Cut, Fault::Stall, Fault::Lose] {
            for pending in [true, false] {
                scene.be_impatient();
                let mut destination = scene.destination();
                let relay = behind(&destination, READY, fault.clone());
                match pending {
                    true => scene.begin_slow_postcopy(&relay.uri()),
                    false => scene.begin_postcopy(&relay.uri()),
                }
                relay.wait_fired();
                scene.failed_as("", &STOPPED);
                relay.heal();
                let _ = gave_up(&mut destination);
            }
        }
        scene.ends_well_by_postcopy();
    });
}

#[test]
fn an_answer_that_is_lost_with_nothing_left_to_send_leaves_nobody_stuck() {
    with_both(|mut scene, handshake| {
        let (mut destination, relay) = all_sent(&mut scene, handshake, READY, Fault::Lose);
        destination.qmp("x-ferry-fault-set", json!({ "clear": true }));
        relay.wait_fired();
        // The next sign of life shows that something is missing.
        scene.failed_as("", &STOPPED);
        let _ = gave_up(&mut destination);
        scene.ends_well_by_postcopy();
    });
}

#[test]
fn a_word_of_the_start_that_is_lost_while_pages_are_pending_never_makes_two_runners() {
    for fault in [Fault::Cut, Fault::Stall, Fault::Lose] {
        with_both(|mut scene, handshake| {
            scene.be_impatient();
            let mut destination = scene.destination();
            let relay = behind(&destination, STARTED, fault.clone());
            scene.begin_slow_postcopy(&relay.uri());
            relay.wait_fired();
            destination.wait_run_state("running");
            let missing = destination.migration().x_ferry_postcopy.map(|stats| stats.missing_pages);
            assert!(missing.is_some_and(|missing| missing > 0), "pages are pending: {missing:?}");
            if handshake == Handshake::Setup {
                is_uncertain(&mut scene.source);
            }
            relay.heal();
            // A word that was only late ends it, and a record answers.
            let resolves = handshake == Handshake::Setup && fault != Fault::Stall;
            goes_on_at(scene, destination, resolves, &relay.uri());
        });
    }
}

#[test]
fn a_word_of_the_start_that_is_lost_with_nothing_left_to_send_leaves_nobody_stuck() {
    for fault in [Fault::Cut, Fault::Lose] {
        with_both(|mut scene, handshake| {
            let (mut destination, relay) = all_sent(&mut scene, handshake, STARTED, fault.clone());
            destination.qmp("x-ferry-fault-set", json!({ "clear": true }));
            relay.wait_fired();
            assert_eq!(destination.wait_migration_end().status, Some(Status::Completed), "it has every page");
            scene.be_patient();
            goes_on_at(scene, destination, handshake == Handshake::Setup, &relay.uri());
        });
    }
}

#[test]
fn a_destination_that_dies_after_its_answer_and_before_the_permit_leaves_one_runner_or_a_question() {
    with_both(|mut scene, handshake| {
        // The answer is on its way when it dies; then the permit is.
        for at in [READY, PERMIT] {
            let mut destination = scene.destination();
            let relay = behind(&destination, at, Fault::Stall);
            scene.begin_slow_postcopy(&relay.uri());
            relay.wait_fired();
            destination.kill();
            relay.heal();
            if handshake == Handshake::Setup {
                is_uncertain(&mut scene.source);
                let reason =
                    scene.source.refused("x-ferry-resolve", json!({ "owner": "source", "peer-fenced": false }));
                assert!(reason.contains("peer-fenced"), "{reason}");
                resolve(&mut scene.source, "source", false);
            }
            let info = scene.source.wait_migration_end();
            assert_eq!(info.status, Some(Status::Failed), "{at:?}: {info:?}");
            let said =
                if handshake == Handshake::Owned { "the ownership record names this side" } else { "the operator" };
            assert!(info.error_desc.as_ref().is_some_and(|reason| reason.contains(said)), "{info:?}");
            assert_eq!(scene.source.run_state(), "running");
            scene.guest.wait_reports(1);
            assert_never_ran(&destination);
            scene.be_patient();
        }
        scene.ends_well_by_postcopy();
    });
}

#[test]
fn a_destination_that_dies_after_the_permit_without_having_claimed_the_guest_leaves_it_to_the_source() {
    let Some(mut scene) = Scene::with(working) else { return };
    scene.by_postcopy(false);
    let mut destination = scene.destination();
    let relay = behind(&destination, PERMIT, Fault::Stall);
    scene.begin_slow_postcopy(&relay.uri());
    relay.wait_fired();
    // Nobody reaches the record while a third party has it locked.
    let record = disk::Lock::wait_for_record(&scene.lab.path("disk.img.owner"));
    record.wait_taken();
    relay.heal();
    // It closes its links when the record does not answer, and asks again.
    let info = scene.source.wait_migration_end_or(Status::Uncertain);
    assert_eq!(info.status, Some(Status::Uncertain), "{info:?}");
    assert_eq!(destination.run_state(), "inmigrate", "nothing runs without the record");
    destination.kill();
    record.release();
    scene.failed_as(
        "the ownership record names this side",
        &["setup", "active", "postcopy-setup", "uncertain", "failed"],
    );
    assert_never_ran(&destination);
    scene.ends_well_by_postcopy();
}

#[test]
fn a_destination_that_dies_once_it_runs_takes_the_guest_with_it_and_the_source_says_so() {
    with_both(|mut scene, handshake| {
        let mut destination = scene.destination();
        let relay = behind(&destination, STARTED, Fault::Cut);
        scene.begin_slow_postcopy(&relay.uri());
        relay.wait_fired();
        destination.wait_run_state("running");
        scene.guest.moved_to(&destination);
        if handshake == Handshake::Owned {
            // Until the record says that the guest has arrived for good, the destination might
            // still give it back.
            wait_for("the record to be settled", SOON, || destination.ownership()["settled"] == true);
        }
        destination.kill();
        if handshake == Handshake::Setup {
            is_uncertain(&mut scene.source);
            resolve(&mut scene.source, "destination", false);
        }
        let info = scene.source.wait_migration_end_or(Status::PostcopyPaused);
        assert_eq!(info.status, Some(Status::PostcopyPaused), "{info:?}");
        assert!(info.error_desc.is_some(), "{info:?}");
        let reason = scene.source.refused("x-ferry-resolve", json!({ "owner": "source", "peer-fenced": true }));
        assert!(reason.contains("old"), "memory that was outrun never runs again: {reason}");
        resolve(&mut scene.source, "destination", true);
        assert_eq!(scene.source.wait_migration_end().status, Some(Status::Completed));
        assert_eq!(scene.source.run_state(), "postmigrate");
        scene.guest.assert_ran_in_one_place();
    });
}

#[test]
fn a_destination_whose_disk_is_taken_after_the_permit_gives_the_guest_back() {
    for handshake in ["setup", "owned"] {
        let Some(mut scene) = Scene::with(working) else { return };
        scene.by_postcopy(false);
        scene.source.set_parameters(json!({ "x-ferry-handshake": handshake }));
        let mut destination = scene.destination();
        wait_for_the_word(&mut scene);
        let relay = behind(&destination, PERMIT, Fault::Hold);
        scene.begin_slow_postcopy(&relay.uri());
        let thief = takes_disk_at_permit(&scene, &relay);
        assert_eq!(scene.source.run_state(), "finish-migrate", "nobody runs before it is known who owns the guest");
        thief.release();
        relay.heal();
        scene.both_failed_as(&mut destination, "virtio-blk/0", &STOPPED);
        if handshake == "owned" {
            let record = scene.source.ownership();
            assert_eq!(record["owned-here"], true, "{record}");
        }
        scene.be_patient();
        scene.ends_well_by_postcopy();
    }
}

#[test]
fn a_destination_whose_disk_was_taken_takes_the_guest_at_the_next_try() {
    let Some(mut scene) = Scene::with(working) else { return };
    scene.by_postcopy(false);
    let mut destination = scene.lab.start(&scene.spec.clone().incoming("defer"));
    let listen = json!({ "uri": "tcp:127.0.0.1:0", "exit-on-error": false });
    destination.qmp("migrate-incoming", listen);
    wait_for_the_word(&mut scene);
    let relay = behind(&destination, PERMIT, Fault::Hold);
    scene.begin_slow_postcopy(&relay.uri());
    let thief = takes_disk_at_permit(&scene, &relay);
    thief.release();
    relay.heal();
    scene.failed_as("virtio-blk/0", &STOPPED);
    assert_eq!(destination.wait_migration_end().status, Some(Status::Failed));
    assert_eq!(destination.run_state(), "inmigrate");
    let uri = format!("unix:{}", scene.lab.path("m.sock").display());
    destination.qmp("migrate-incoming", json!({ "uri": uri, "exit-on-error": false }));
    scene.begin_postcopy(&uri);
    scene.arrived(&mut destination);
    scene.lives_in(destination);
    scene.ends_well_by_postcopy();
}
