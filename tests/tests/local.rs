//! The memory of a guest goes to a new process on the same host as a whole: to and fro, refused,
//! broken at every step. What is special here is that both sides have one memory, so a destination
//! that fails must have left no trace in it.

use ferry_migration::Handshake;
use ferry_migration::info::Status;
use ferry_tests::local::{
    address, assert_nothing_shared, go_between, memory_files, who_knows_nothing_of_it, with_record, without_record,
};
use ferry_tests::procfs::Holdings;
use ferry_tests::scene::{assert_never_ran, gave_up};
use ferry_tests::wait::wait_for;
use ferry_tests::{Ferry, Lab, SOON, Scene, Spec};
use serde_json::{Value, json};

type Describe = fn(&Lab, Spec) -> Spec;

/// What differs in how a hand-over is decided.
const WAYS: [(Describe, Handshake); 2] = [(without_record, Handshake::Setup), (with_record, Handshake::Owned)];

#[test]
fn a_busy_guest_moves_to_and_fro_and_its_memory_outlives_every_process() {
    for (describe, handshake) in WAYS {
        for cpus in [1, 2] {
            let Some(mut scene) = Scene::local(|lab, spec| describe(lab, spec).cpus(cpus)) else { return };
            for _ in 0..5 {
                let info = scene.moves_next_door();
                assert_eq!(info.x_ferry_handshake, Some(handshake));
            }
            scene.ends_well_locally();
        }
    }
}

#[test]
fn a_stopped_guest_arrives_with_every_byte_of_its_memory() {
    for (describe, _) in WAYS {
        let Some(mut scene) = Scene::local(describe) else { return };
        for _ in 0..2 {
            scene.source.qmp("stop", json!({}));
            let before = scene.source.memory_hash();
            let (mut neighbour, to) = scene.neighbour();
            scene.source.migrate_to(&to);
            neighbour.wait_run_state("paused");
            // Not even kvmclock's structures: a load cannot write.
            assert_eq!(neighbour.memory_hash(), before);
            assert_nothing_shared(&scene.source, &neighbour);
            scene.guest.moved_to(&neighbour);
            neighbour.qmp("cont", json!({}));
            scene.guest.wait_reports(2);
            scene.lives_in(neighbour);
            scene.source.set_parameters(json!({ "x-ferry-local": true }));
        }
        scene.ends_well_locally();
    }
}

/// A load that fails at each step of each part, or dies there: the guest's memory is as it was,
/// byte by byte, and it goes on.
#[test]
fn a_load_that_fails_leaves_no_trace_in_the_memory() {
    let Some(mut scene) = Scene::local(with_record) else { return };
    let (mut neighbour, to) = scene.patient_neighbour();
    let devices = ["serial/0", "virtio-blk/0", "fault/0"];
    let steps = devices.into_iter().flat_map(|of| ["load", "post_load"].map(|at| (at, Some(of))));
    let calls = ["KVM_SET_SREGS", "KVM_SET_MSRS", "KVM_SET_VCPU_EVENTS", "KVM_SET_IRQCHIP", "KVM_SET_CLOCK"];
    for (at, of) in steps.chain(calls.map(|call| (call, None))) {
        let mut rule = json!({ "at": at, "do": "fail", "times": 1 });
        if let Some(of) = of {
            rule["of"] = json!(of);
        }
        for stopped in [true, false] {
            neighbour.set_fault(rule.clone());
            neighbour.qmp("migrate-incoming", json!({ "uri": to, "exit-on-error": false }));
            if stopped {
                scene.source.qmp("stop", json!({}));
            }
            let before = stopped.then(|| scene.source.memory_hash());
            scene.source.begin_migration(&to);
            let info = scene.source.wait_migration_end();
            assert_eq!(info.status, Some(Status::Failed), "{at} {of:?}: {info:?}");
            let reason = info.error_desc.expect("a failed migration says why");
            assert!(reason.contains(of.unwrap_or(at)), "{at} {of:?}: {reason}");
            assert_eq!(scene.source.migration_statuses(), ["setup", "active", "device", "failed"], "{at} {of:?}");
            assert_eq!(before, stopped.then(|| scene.source.memory_hash()), "{at} {of:?} has written to the guest");
            if stopped {
                scene.source.qmp("cont", json!({}));
            }
            scene.guest.wait_reports(1);
            neighbour.wait_migration_end();
            assert_nothing_shared(&scene.source, &neighbour);
            assert_never_ran(&neighbour);
        }
    }
    // The process that has failed so often takes the guest.
    neighbour.qmp("migrate-incoming", json!({ "uri": to }));
    let info = scene.source.migrate_to(&to);
    scene.lives_next_door(&mut neighbour, &info);
    scene.lives_in(neighbour);
    scene.ends_well_locally();
}

#[test]
fn what_cannot_work_is_refused_with_the_guest_untouched() {
    let Some(mut scene) = Scene::local(without_record) else { return };
    let to = address(&scene.lab, "nobody");
    scene.source.forget_events();
    let refused = |scene: &mut Scene, to: &str| scene.source.refused("migrate", json!({ "uri": to }));
    let reason = refused(&mut scene, "tcp:127.0.0.1:1");
    assert!(reason.contains("unix:PATH, and not to tcp:127.0.0.1:1") && reason.contains("x-ferry-local"), "{reason}");
    for handshake in ["none", "pong"] {
        scene.source.set_parameters(json!({ "x-ferry-handshake": handshake }));
        let reason = refused(&mut scene, &to);
        assert!(reason.contains("x-ferry-handshake"), "{reason}");
    }
    scene.source.set_parameters(json!({ "x-ferry-handshake": "auto" }));
    scene.source.allow_postcopy();
    let reason = refused(&mut scene, &to);
    assert!(reason.contains("postcopy-ram"), "{reason}");
    let off = json!([{ "capability": "postcopy-ram", "state": false }]);
    scene.source.qmp("migrate-set-capabilities", json!({ "capabilities": off }));
    assert!(scene.source.events().is_empty(), "nothing has begun");

    // What only the destination can tell.
    let anonymous = scene.spec.clone().memory("48M").incoming(&address(&scene.lab, "a"));
    refuses(&mut scene, anonymous, "start it with --memory SIZE,backing=memfd");
    let larger = scene.spec.clone().memory("64M,backing=memfd").incoming(&address(&scene.lab, "l"));
    refuses(&mut scene, larger, "memory");
    let at = address(&scene.lab, "old");
    let old = who_knows_nothing_of_it(&at);
    let reason = scene.fails(&at);
    assert!(reason.contains("does not know of memory that is handed over"), "{reason}");
    let farewell = old.join().expect("the source speaks the protocol");
    assert!(String::from_utf8_lossy(&farewell).contains("gave up"), "it is told that no page will come");
    let (mut neighbour, to) = scene.neighbour();
    let at = address(&scene.lab, "between");
    go_between(&at, &to);
    let reason = scene.fails(&at);
    assert!(reason.contains("0 descriptors came"), "{reason}");
    assert!(gave_up(&mut neighbour).contains("0 descriptors came"));
    assert!(scene.source.events().iter().all(|event| event["event"] != "STOP"), "the guest never stopped");
    scene.ends_well_locally();
}

fn refuses(scene: &mut Scene, spec: Spec, told: &str) {
    let mut destination = scene.lab.start(&spec);
    let reason = scene.fails(&destination.wait_listening());
    assert!(reason.contains("refused") && reason.contains(told), "`{told}` is to be in: {reason}");
    assert!(gave_up(&mut destination).contains(told));
}

#[test]
fn anonymous_memory_is_refused_at_its_source() {
    let Some(mut scene) = Scene::local(|lab, spec| without_record(lab, spec).memory("48M")) else { return };
    let reason = scene.source.refused("migrate", json!({ "uri": address(&scene.lab, "m") }));
    assert!(reason.contains("backing=memfd on both sides"), "{reason}");
    scene.source.set_parameters(json!({ "x-ferry-local": false }));
    scene.ends_well();
}

#[test]
fn a_destination_that_dies_before_it_is_ready_leaves_the_guest_as_it_was() {
    for (describe, _) in WAYS {
        let Some(mut scene) = Scene::local(describe) else { return };
        for at in ["received:Hello", "sent:HelloAck", "step:Load", "KVM_SET_LAPIC", "post_load", "send:Ready"] {
            let (mut neighbour, to) = scene.neighbour_with(&[&format!("fault,at={at},do=kill,in=incoming")]);
            let reason = scene.fails(&to);
            assert!(reason.contains("the control link"), "{at}: {reason}");
            assert_eq!(neighbour.wait_exit(SOON), -9);
            assert_never_ran(&neighbour);
        }
        scene.ends_well_locally();
    }
}

#[test]
fn a_destination_that_hangs_before_it_is_ready_is_given_up_in_time() {
    let Some(mut scene) = Scene::local(with_record) else { return };
    for at in ["load", "post_load"] {
        scene.be_impatient();
        let (mut neighbour, to) = scene.neighbour_with(&[&format!("fault,at={at},do=hang,in=incoming")]);
        let reason = scene.fails(&to);
        assert!(reason.contains("in time"), "{at}: {reason}");
        let _ = gave_up(&mut neighbour);
    }
    scene.ends_well_locally();
}

/// A destination gets the permit and dies over it. Without a record an operator must say that it
/// has not run the guest.
#[test]
fn a_permit_that_is_lost_is_decided_by_an_operator_or_the_record() {
    for (describe, handshake) in WAYS {
        let Some(mut scene) = Scene::local(describe) else { return };
        scene.be_impatient();
        for at in ["sent:Ready", "received:Permit"] {
            let (mut neighbour, to) = scene.neighbour_with(&[&format!("fault,at={at},do=kill,in=incoming")]);
            match handshake {
                Handshake::Owned => {
                    let reason = scene.fails(&to);
                    assert!(reason.contains("the ownership record names this side"), "{at}: {reason}");
                }
                _ => {
                    scene.source.begin_migration(&to);
                    let info = scene.source.wait_migration_end_or(Status::Uncertain);
                    assert_eq!(info.status, Some(Status::Uncertain), "{at}: {info:?}");
                    assert_ne!(scene.source.run_state(), "running");
                    resolve_to_source(&mut scene);
                }
            }
            assert_eq!(neighbour.wait_exit(SOON), -9);
            assert_never_ran(&neighbour);
            scene.guest.wait_reports(1);
        }
        scene.ends_well_locally();
    }
}

/// Both sides have one memory: once the destination has run the guest, the source must not,
/// whatever an operator says.
#[test]
fn a_guest_that_has_run_elsewhere_is_never_resolved_to_its_source() {
    for (describe, _) in WAYS {
        let Some(mut scene) = Scene::local(describe) else { return };
        scene.be_impatient();
        // It dies over the permit: nothing has happened yet, and the operator may say so.
        let (mut neighbour, to) = scene.neighbour_with(&["fault,at=step:Start,do=kill,in=incoming"]);
        scene.source.begin_migration(&to);
        assert_eq!(scene.source.wait_migration_end_or(Status::Uncertain).status, Some(Status::Uncertain));
        assert_eq!(neighbour.wait_exit(SOON), -9);
        resolve_to_source(&mut scene);
        scene.guest.wait_reports(2);
        scene.guest.assert_ran_in_one_place();

        // It dies when the guest runs, and before it has told anybody.
        let (mut neighbour, to) = scene.neighbour_with(&["fault,at=send:Started,do=kill,in=incoming"]);
        scene.source.begin_migration(&to);
        assert_eq!(neighbour.wait_exit(SOON), -9);
        let info = scene.source.wait_migration_end_or(Status::Uncertain);
        if info.status == Some(Status::Uncertain) {
            let to_source = json!({ "owner": "source", "peer-fenced": true });
            let reason = scene.source.refused("x-ferry-resolve", to_source);
            assert!(reason.contains("has taken the guest's memory"), "{reason}");
            scene.source.qmp("x-ferry-resolve", json!({ "owner": "destination", "peer-fenced": true }));
        }
        assert_eq!(scene.source.wait_migration_end().status, Some(Status::Completed));
        assert_eq!(scene.source.run_state(), "postmigrate");
    }
}

fn resolve_to_source(scene: &mut Scene) {
    scene.source.qmp("x-ferry-resolve", json!({ "owner": "source", "peer-fenced": true, "never-ran": true }));
    scene.source.wait_migration_end();
    scene.source.wait_run_state("running");
}

#[test]
fn a_destination_that_has_the_permit_and_cannot_start_gives_the_memory_back_with_the_guest() {
    let Some(mut scene) = Scene::local(with_record) else { return };
    let (mut neighbour, to) = scene.patient_neighbour();
    for _ in 0..3 {
        neighbour.set_fault(json!({ "at": "disk:lock", "do": "errno:EIO", "times": 1, "in": "incoming" }));
        neighbour.qmp("migrate-incoming", json!({ "uri": to, "exit-on-error": false }));
        let reason = scene.fails(&to);
        assert!(reason.contains("virtio-blk/0"), "{reason}");
        neighbour.wait_migration_end();
        assert_nothing_shared(&scene.source, &neighbour);
        assert_never_ran(&neighbour);
    }
    scene.ends_well_locally();
}

#[test]
fn a_source_that_dies_leaves_the_guest_where_it_belongs() {
    for (describe, _) in WAYS {
        // Before the permit the guest goes with it.
        let Some(mut scene) = Scene::local(describe) else { return };
        scene.source.set_fault(json!({ "at": "send:Package", "do": "kill", "in": "outgoing" }));
        let (mut neighbour, to) = scene.neighbour();
        // It may not live to answer.
        let _ = scene.source.try_qmp("migrate", json!({ "uri": to }));
        assert_eq!(scene.source.wait_exit(SOON), -9);
        let _ = gave_up(&mut neighbour);

        // After it the memory lives on without who made it.
        for at in ["sent:Permit", "received:Started", "step:HandOver"] {
            let Some(mut scene) = Scene::local(describe) else { return };
            scene.source.set_fault(json!({ "at": at, "do": "kill", "in": "outgoing" }));
            let (mut neighbour, to) = scene.neighbour();
            let _ = scene.source.try_qmp("migrate", json!({ "uri": to }));
            assert_eq!(scene.source.wait_exit(SOON), -9);
            neighbour.wait_run_state("running");
            scene.guest.moved_to(&neighbour);
            scene.guest.wait_reports(3);
            scene.guest.assert_ran_in_one_place();
            scene.source = neighbour;
            scene.ends_well_locally();
        }
    }
}

#[test]
fn an_operator_may_change_his_mind_until_the_permit() {
    let Some(mut scene) = Scene::local(without_record) else { return };
    let (mut neighbour, to) = scene.neighbour_with(&["fault,at=load,do=delay:700,in=incoming"]);
    scene.source.begin_migration(&to);
    scene.source.wait_migration(Status::Device);
    scene.source.qmp("migrate_cancel", json!({}));
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Cancelled));
    let _ = gave_up(&mut neighbour);
    scene.source.wait_run_state("running");
    scene.ends_well_locally();
}

/// Memory that may come and go: stacks, allocator caches.
const SLACK_KIB: u64 = 16 << 10;

fn settles(ferry: &Ferry, before: Holdings) {
    let what = format!("{} to hold at most {before}", ferry.label());
    wait_for(&what, SOON, || {
        let now = Holdings::of(ferry.pid());
        now.threads <= before.threads && now.fds <= before.fds && now.rss_kib <= before.rss_kib + SLACK_KIB
    });
    assert_eq!(memory_files(ferry).len(), 1);
}

#[test]
fn failed_hand_overs_leave_nothing_behind_on_either_side() {
    let Some(mut scene) = Scene::local(with_record) else { return };
    let (mut neighbour, to) = scene.patient_neighbour();
    let faults: [Value; 4] = [
        json!({ "at": "post_load", "do": "fail", "times": 1 }),
        json!({ "at": "disk:lock", "do": "errno:EIO", "times": 1 }),
        json!({ "at": "KVM_SET_MSRS", "do": "fail", "times": 1 }),
        json!({ "at": "host:memory", "do": "errno:ENOMEM", "times": 1 }),
    ];
    let mut before = None;
    for number in 0..16 {
        neighbour.set_fault(faults[number % faults.len()].clone());
        neighbour.qmp("migrate-incoming", json!({ "uri": to, "exit-on-error": false }));
        let _ = scene.fails(&to);
        neighbour.wait_migration_end();
        if number == 3 {
            wait_for("the socket to be free again", SOON, || !scene.lab.path("again").exists());
            before = Some([&scene.source, &neighbour].map(|side| Holdings::of(side.pid())));
        }
    }
    let [source, destination] = before.expect("there were four attempts");
    settles(&scene.source, source);
    settles(&neighbour, destination);
    scene.ends_well_locally();
}

#[test]
fn ten_moves_leave_no_more_than_one() {
    let Some(mut scene) = Scene::local(with_record) else { return };
    let mut first = None;
    for _ in 0..10 {
        scene.moves_next_door();
        match first {
            None => first = Some(Holdings::of(scene.source.pid())),
            Some(first) => settles(&scene.source, first),
        }
    }
}
