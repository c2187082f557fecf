//! Named fault points in the process itself: killed, frozen, delayed or refused by its host
//! exactly where it matters.
//!
//! docs/faults.md has the table of points. Each test here notices when its point is not where the
//! table says.

use ferry_devices::fault::WORKERS;
use ferry_migration::info::Status;
use ferry_tests::bad_input::run_to_end;
use ferry_tests::migration::{move_guest, statuses};
use ferry_tests::scene::{assert_never_ran, gave_up};
use ferry_tests::wait::wait_for;
use ferry_tests::{Ferry, SOON, Scene, disk, procfs};
use rustix::process::Signal;
use serde_json::json;

const KILLED: i32 = -Signal::KILL.as_raw();

/// A guest with a disk, and so with an ownership record.
fn scene() -> Option<Scene> {
    Scene::with(|lab, spec| spec.disk(&disk::image(lab, "disk.img", 256 << 10)))
}

/// The record comes to name the guest's process, with nothing under way.
fn is_settled_at(ferry: &mut Ferry) {
    wait_for(&format!("the record to name {}", ferry.label()), SOON, || {
        let now = ferry.ownership();
        now["owned-here"] == true && now["settled"] == true
    });
}

/// The guest has come to `destination` and is its own; the process that it left has ended or will.
fn lives_on_at(scene: &mut Scene, mut destination: Ferry) {
    scene.guest.moved_to(&destination);
    destination.wait_run_state("running");
    scene.guest.wait_reports(2);
    scene.guest.assert_ran_in_one_place();
    is_settled_at(&mut destination);
    scene.source = destination;
}

#[test]
fn a_source_that_is_killed_before_it_hands_over_has_lost_nothing() {
    let Some(mut scene) = scene() else { return };
    let destination = scene.destination();
    scene.source.set_fault(json!({ "at": "step:HandOver", "do": "kill", "in": "outgoing" }));
    scene.source.begin_migration(&destination.wait_listening());
    assert_eq!(scene.source.wait_exit(SOON), KILLED);
    lives_on_at(&mut scene, destination);
    scene.ends_well();
}

#[test]
fn a_destination_that_is_killed_between_its_claim_and_its_start_leaves_it_to_the_operator() {
    let Some(mut scene) = scene() else { return };
    scene.be_impatient();
    let mut destination = scene.destination_with("fault,at=step:Start,do=kill,in=incoming");
    scene.source.begin_migration(&destination.wait_listening());
    assert_eq!(destination.wait_exit(SOON), KILLED);
    scene.source.wait_migration(Status::Uncertain);
    assert_eq!(scene.source.ownership()["settled"], false, "the destination had claimed the guest");
    assert_ne!(scene.source.run_state(), "running");
    // The record cannot say whether the destination has run the guest: the operator must know it.
    let refused = scene.source.refused("x-ferry-resolve", json!({ "owner": "source", "peer-fenced": true }));
    assert!(refused.contains("names the destination") && refused.contains("never-ran"), "{refused}");
    scene.source.qmp("x-ferry-resolve", json!({ "owner": "source", "peer-fenced": true, "never-ran": true }));
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Failed));
    scene.source.wait_run_state("running");
    is_settled_at(&mut scene.source);
    scene.ends_well();
}

#[test]
fn a_guest_that_is_taken_back_from_a_dead_destination_is_settled_also_if_the_record_answers_late() {
    let Some(mut scene) = scene() else { return };
    let mut destination = scene.destination_with("fault,at=step:Start,do=kill,in=incoming");
    scene.source.begin_migration(&destination.wait_listening());
    assert_eq!(destination.wait_exit(SOON), KILLED);
    scene.source.wait_migration(Status::Uncertain);
    // The record names the destination while the migration ends, and is changed only after.
    scene.source.set_fault(json!({ "at": "record:write", "do": "errno:EIO", "times": 1 }));
    scene.source.qmp("x-ferry-resolve", json!({ "owner": "source", "peer-fenced": true, "never-ran": true }));
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Failed));
    scene.source.wait_run_state("running");
    is_settled_at(&mut scene.source);
    scene.ends_well();
}

#[test]
fn a_source_that_freezes_with_the_permit_sent_goes_on_as_one_that_has_no_guest() {
    let Some(mut scene) = scene() else { return };
    let destination = scene.destination();
    scene.source.set_fault(json!({ "at": "sent:Permit", "do": "freeze", "times": 1 }));
    scene.source.begin_migration(&destination.wait_listening());
    let pid = scene.source.pid();
    wait_for("the source to freeze", SOON, || procfs::is_stopped(pid));
    scene.guest.moved_to(&destination);
    scene.guest.wait_reports(2);
    scene.source.thaw();
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Completed));
    assert_eq!(scene.source.run_state(), "postmigrate");
    scene.guest.assert_ran_in_one_place();
    scene.lives_in(destination);
    is_settled_at(&mut scene.source);
    scene.ends_well();
}

#[test]
fn a_driver_that_hangs_does_not_keep_a_client_waiting() {
    let Some(mut scene) = Scene::new() else { return };
    scene.source.set_fault(json!({ "at": "step:Connect", "do": "hang" }));
    scene.source.begin_migration("tcp:127.0.0.1:1");
    let refused = scene.source.refused("migrate_cancel", json!({}));
    assert!(refused.contains("held up") && refused.contains("nothing was done"), "{refused}");
    assert_eq!(scene.source.run_state(), "running");
    scene.source.qmp("x-ferry-fault-set", json!({ "clear": true }));
    // Nothing listens there. A cancel that was refused is none, also afterwards.
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Failed));
    scene.ends_well();
}

#[test]
fn messages_can_be_held_before_they_are_sent_and_before_they_are_handled() {
    let Some(mut scene) = Scene::new() else { return };
    let slow = "do=delay:400,times=1,in=incoming";
    let mut destination = scene.lab.start_destination(
        &scene
            .spec
            .clone()
            .device(&format!("fault,at=received:Package,{slow}"))
            .device(&format!("fault,at=send:Ready,{slow}")),
    );
    let info = move_guest(&mut scene.source, &mut destination, &mut scene.guest);
    let parts = info.x_ferry_downtime.expect("the parts of the downtime");
    assert!(parts.package_transfer_us + parts.load_us >= 800_000, "{parts:?}");
}

#[test]
fn a_record_that_is_slow_or_fails_to_become_durable_leaves_the_guest_in_one_place() {
    let Some(mut scene) = scene() else { return };
    for fault in ["delay:2500", "errno:EIO"] {
        // The claim of the destination: whether it counts it cannot know before it has asked
        // again.
        let mut destination = scene.destination_with(&format!("fault,at=record:sync,do={fault},times=1,in=incoming"));
        scene.source.begin_migration(&destination.wait_listening());
        let info = scene.source.wait_migration_end();
        assert_eq!(info.status, Some(Status::Completed), "{fault}: {info:?}");
        assert_eq!(destination.wait_migration_end().status, Some(Status::Completed));
        scene.source.quit();
        let unsure = destination.stderr().contains("the ownership record was not reached");
        lives_on_at(&mut scene, destination);
        match fault {
            "errno:EIO" => assert!(unsure, "the claim failed once"),
            _ => assert!(scene.guest.worst_gap_us() >= 2_500_000, "the claim took its time"),
        }
    }
    scene.ends_well();
}

#[test]
fn a_record_on_full_storage_is_named_and_the_guest_does_not_stop() {
    let Some(mut scene) = scene() else { return };
    for (at, errno, told) in [
        ("record:write", "ENOSPC", "No space left on device"),
        ("record:lock", "ENOLCK", "No locks available"),
        ("record:read", "EIO", "Input/output error"),
    ] {
        scene.source.set_fault(json!({ "at": at, "do": format!("errno:{errno}"), "times": 1 }));
        let mut destination = scene.destination();
        let reason = scene.fails(&destination.wait_listening());
        assert!(reason.contains("disk.img.owner") && reason.contains(told), "{at}: {reason}");
        assert_eq!(scene.source.migration_statuses(), ["setup", "failed"], "{at}");
        let _ = gave_up(&mut destination);
    }
    is_settled_at(&mut scene.source);
    scene.ends_well();
}

#[test]
fn a_disk_that_does_not_flush_at_the_switchover_keeps_the_guest_where_it_is() {
    let Some(mut scene) = scene() else { return };
    scene.source.set_fault(json!({ "at": "disk:flush", "do": "errno:EIO", "times": 1, "of": "virtio-blk/0" }));
    let mut destination = scene.destination();
    let reason = scene.fails(&destination.wait_listening());
    assert!(reason.contains("virtio-blk/0: cannot flush disk image"), "{reason}");
    assert!(reason.contains("Input/output error"), "{reason}");
    assert!(scene.source.events().iter().any(|event| event["event"] == "RESUME"), "the guest was stopped and resumed");
    let error = gave_up(&mut destination);
    assert!(error.contains("cannot flush disk image"), "both sides tell the same: {error}");
    is_settled_at(&mut scene.source);
    scene.ends_well();
}

#[test]
fn a_disk_that_is_not_to_be_locked_at_the_destination_gives_the_guest_back() {
    let Some(mut scene) = scene() else { return };
    let mut destination = scene.destination_with("fault,at=disk:lock,do=errno:ENOLCK,in=incoming");
    let reason = scene.fails(&destination.wait_listening());
    assert!(reason.contains("cannot lock disk image") && reason.contains("No locks available"), "{reason}");
    let _ = gave_up(&mut destination);
    is_settled_at(&mut scene.source);
    scene.ends_well();
}

#[test]
fn a_host_that_is_short_of_something_is_named_and_the_guest_does_not_stop() {
    let Some(mut scene) = Scene::new() else { return };
    scene.source.allow_postcopy();
    for (at, errno, told) in [
        (
            "host:userfaultfd",
            "EMFILE",
            "userfaultfd cannot be opened; free descriptors or memory, or use precopy: Too many open files",
        ),
        ("host:memory", "ENOMEM", "its memory cannot be emptied: Cannot allocate memory"),
        ("host:thread", "EAGAIN", "Resource temporarily unavailable"),
    ] {
        let mut destination = scene.lab.start(&scene.spec.clone().incoming("tcp:127.0.0.1:0"));
        let to = destination.wait_listening();
        destination.set_fault(json!({ "at": at, "do": format!("errno:{errno}"), "in": "incoming" }));
        scene.source.begin_migration(&to);
        let info = scene.source.wait_migration_end();
        assert_eq!(info.status, Some(Status::Failed), "{at}: {info:?}");
        assert_eq!(scene.source.migration_statuses(), ["setup", "failed"], "{at}");
        let error = match at {
            // The connection could not even be read: only the destination knows why.
            "host:thread" => gave_up(&mut destination),
            _ => {
                let reason = info.error_desc.expect("a failed migration says why");
                assert!(reason.contains(told), "{at}: {reason}");
                gave_up(&mut destination)
            }
        };
        assert!(error.contains(told), "{at}: {error}");
    }
    scene.source.set_fault(json!({ "at": "host:connect", "do": "errno:EMFILE", "times": 1 }));
    let reason = scene.fails("tcp:127.0.0.1:1");
    assert!(reason.contains("cannot connect to tcp:127.0.0.1:1: Too many open files"), "{reason}");
    scene.ends_well();
}

#[test]
fn a_listener_whose_driver_gets_no_thread_gives_its_address_back() {
    let Some(mut scene) = Scene::new() else { return };
    let mut destination = scene.lab.start(&scene.spec.clone().incoming("defer"));
    let listen = json!({ "uri": format!("unix:{}", scene.lab.path("m.sock").display()) });
    destination.set_fault(json!({ "at": "host:thread", "do": "errno:EAGAIN", "of": "ferry-dest/0", "times": 1 }));
    let before = procfs::Holdings::of(destination.pid());
    let refused = destination.refused("migrate-incoming", listen.clone());
    assert!(refused.contains("cannot listen at") && refused.contains("Resource temporarily unavailable"), "{refused}");
    wait_for("everything of the attempt to be released", SOON, || {
        let now = procfs::Holdings::of(destination.pid());
        (now.threads, now.fds) == (before.threads, before.fds)
    });
    destination.qmp("migrate-incoming", listen);
    move_guest(&mut scene.source, &mut destination, &mut scene.guest);
}

#[test]
fn a_destination_that_cannot_take_a_connection_takes_it_in_a_moment() {
    let Some(mut scene) = Scene::new() else { return };
    let mut destination = scene.destination_with("fault,at=host:accept,do=errno:EMFILE,times=3");
    move_guest(&mut scene.source, &mut destination, &mut scene.guest);
    let stderr = destination.stderr();
    assert_eq!(stderr.matches("a connection could not be taken").count(), 3, "{stderr}");
    scene.lives_in(destination);
    scene.ends_well();
}

#[test]
fn a_page_that_finds_no_memory_pauses_the_postcopy_which_recovers() {
    let Some(mut scene) = Scene::new() else { return };
    scene.by_postcopy(false);
    let mut destination = scene.destination();
    scene.begin_slow_postcopy(&destination.wait_listening());
    scene.source.wait_migration(Status::PostcopyActive);
    scene.guest.moved_to(&destination);
    destination.set_fault(json!({ "at": "host:memory", "do": "errno:ENOMEM", "times": 1 }));
    scene.source.wait_migration(Status::PostcopyPaused);
    let info = destination.wait_migration(Status::PostcopyPaused);
    assert!(info.error_desc.as_ref().is_some_and(|why| why.contains("Cannot allocate memory")), "{info:?}");
    scene.source.set_parameters(json!({ "max-bandwidth": 0 }));
    scene.source.qmp("migrate", json!({ "uri": destination.wait_listening(), "resume": true }));
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Completed));
    assert_eq!(destination.wait_migration_end().status, Some(Status::Completed));
    scene.guest.wait_reports(2);
    scene.lives_in(destination);
    scene.ends_well();
}

#[test]
fn a_clock_that_jumps_moves_the_guests_on_or_not_at_all() {
    let Some(mut scene) = Scene::new() else { return };
    let kvmclock_ms = |scene: &Scene| scene.guest.newest(0).kvmclock_ms.expect("the guest has a kvmclock");
    for (skew_ms, least_ms, told) in [(60_000, 60_000, false), (3_600_000, 0, true), (-3_600_000, 0, false)] {
        let mut destination = scene.destination_with(&format!("fault,at=clock:realtime,do=skew:{skew_ms},in=incoming"));
        let before = kvmclock_ms(&scene);
        // Every report is checked: no clock goes back, and the guest finds no error.
        move_guest(&mut scene.source, &mut destination, &mut scene.guest);
        let passed = kvmclock_ms(&scene) - before;
        assert!((least_ms..least_ms + 50_000).contains(&passed), "{skew_ms}: {passed} ms");
        assert_eq!(destination.stderr().contains("the hosts' clocks differ too much"), told, "{skew_ms}");
        scene.lives_in(destination);
    }
    scene.ends_well();
}

#[test]
fn a_fault_at_the_start_of_a_process_is_told_as_its_host_would_tell_it() {
    let Some(lab) = ferry_tests::Lab::new() else { return };
    let spec = ferry_tests::Spec::new().disk(&disk::image(&lab, "disk.img", 1 << 20)).paused();
    for (rule, told) in [
        ("at=disk:open,do=errno:EMFILE", "cannot open disk image"),
        ("at=disk:lock,do=errno:EIO", "cannot lock disk image"),
        ("at=record:sync,do=errno:ENOSPC", "free some space there"),
    ] {
        let spec = spec.clone().device(&format!("fault,{rule}"));
        let arguments = spec.arguments(&lab.path("refused.qmp"), &lab.path("refused.serial"));
        let arguments: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
        let (code, stderr) = run_to_end(&lab, &arguments);
        assert_eq!(code, 1, "{rule}: {stderr}");
        assert!(stderr.contains(told) && stderr.contains("(os error"), "{rule}: {stderr}");
    }
    let mut ferry = lab.start(&spec);
    for (rule, told) in [
        (json!({ "at": "disk:open", "do": "fail" }), "give it with --device"),
        (json!({ "at": "step:Start", "do": "kill", "in": "outgoing" }), "write step: and one of"),
        (json!({ "at": "step:StartTimer", "do": "kill" }), "is reached by no migration"),
        (json!({ "at": "send:Permit", "do": "kill", "in": "incoming" }), "DrainedAck"),
        (json!({ "at": "step:Start", "do": "fail" }), "takes no do=fail: write do=hang|delay:MS|kill|freeze"),
        (json!({ "at": "record:read", "do": "fail", "of": "serial/0" }), "leave of= out"),
        (json!({ "at": "disk:read", "do": "fail", "of": "serial/0" }), "write of= with one of virtio-blk/0"),
    ] {
        let refused = ferry.refused("x-ferry-fault-set", rule);
        assert!(refused.contains(told), "{refused}");
    }
    ferry.quit();
    let diskless = ferry_tests::Spec::new().paused();
    let refused = lab.start(&diskless).refused("x-ferry-fault-set", json!({ "at": "disk:read", "do": "fail" }));
    assert!(refused.contains("with --disk"), "{refused}");
}

/// Every worker of a postcopy, on either side, cannot be started once: the guest is whole at one
/// of the sides, also when that takes a recovery or an operator.
#[test]
fn a_worker_that_cannot_be_started_never_loses_the_guest() {
    let Some(mut scene) = scene() else { return };
    for name in WORKERS.iter().filter(|name| !["ferry-dest", "ferry-dst-load", "ferry-dst-accept"].contains(name)) {
        println!("{name}");
        scene.be_patient();
        scene.by_postcopy(true);
        let mut destination = scene.destination();
        let rule = json!({ "at": "host:thread", "do": "errno:EAGAIN", "of": format!("{name}/0"), "times": 1 });
        let at_source = name.starts_with("ferry-s");
        if at_source { &mut scene.source } else { &mut destination }.set_fault(rule);
        scene.source.set_parameters(
            json!({ "x-ferry-postcopy-when": "first-round", "downtime-limit": 0, "max-bandwidth": 16 << 20 }),
        );
        scene.source.forget_events();
        if let Err(error) = scene.source.try_qmp("migrate", json!({ "uri": destination.wait_listening() })) {
            println!("  refused: {error}");
            assert_eq!(statuses(scene.source.events()), Vec::<String>::new(), "{name}: nothing has begun");
            assert!(error.to_string().contains("Resource temporarily unavailable"), "{name}: {error}");
            scene.guest.wait_reports(1);
            continue;
        }
        scene.source.wait_migration_end_or(Status::PostcopyPaused);
        let info = scene.source.migration();
        println!("  {:?} {:?}", info.status, info.error_desc);
        match info.status {
            Some(Status::Failed) => {
                scene.source.wait_run_state("running");
                assert_never_ran(&destination);
                is_settled_at(&mut scene.source);
                scene.guest.wait_reports(2);
                continue;
            }
            Some(Status::PostcopyPaused) => {
                scene.source.set_parameters(json!({ "max-bandwidth": 0 }));
                destination.wait_migration(Status::PostcopyPaused);
                scene.source.qmp("migrate", json!({ "uri": destination.wait_listening(), "resume": true }));
                assert_eq!(scene.source.wait_migration_end().status, Some(Status::Completed), "{name}");
            }
            other => assert_eq!(other, Some(Status::Completed), "{name}: {info:?}"),
        }
        assert_eq!(destination.wait_migration_end().status, Some(Status::Completed), "{name}");
        scene.source.quit();
        lives_on_at(&mut scene, destination);
    }
    scene.ends_well();
}
