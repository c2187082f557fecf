//! What a management client asks of a migration that goes on, or is refused: it changes nothing
//! that it should not, and what it is told is true.

use std::process::Command;

use ferry_migration::info::{MigrationInfo, RamStats, Status};
use ferry_migration::pages::PAGE_SIZE;
use ferry_tests::bad_input::qmp::RawClient;
use ferry_tests::local::without_record;
use ferry_tests::postcopy::restless;
use ferry_tests::{Ferry, Lab, Postcopy, Scene, Spec};
use serde_json::{Value, json};

/// Held up so far that its rounds do not end by themselves.
fn slow() -> Value {
    json!({ "max-bandwidth": 1 << 20, "downtime-limit": 1 })
}

fn begin_slowly(scene: &mut Scene, to: &str) {
    scene.source.forget_events();
    let on = json!([{ "capability": "multifd", "state": true }]);
    let arguments = json!({ "uri": to, "x-ferry-parameters": slow(), "x-ferry-capabilities": on });
    scene.source.qmp("migrate", arguments);
    scene.source.wait_migration(Status::Active);
}

/// What a migration has of its own, and what the process has.
fn settings(ferry: &mut Ferry) -> [Value; 4] {
    let info = ferry.qmp("query-migrate", json!({}));
    let process = ["query-migrate-parameters", "query-migrate-capabilities"].map(|query| ferry.qmp(query, json!({})));
    let [parameters, capabilities] = process;
    [info["x-ferry-parameters"].clone(), info["x-ferry-capabilities"].clone(), parameters, capabilities]
}

#[test]
fn a_migrate_that_is_refused_changes_nothing() {
    let Some(mut scene) = Scene::new() else { return };
    let destination = scene.destination();
    let before = settings(&mut scene.source);
    begin_slowly(&mut scene, &destination.wait_listening());
    let running = settings(&mut scene.source);
    assert_eq!(running[..2], [slow(), json!([{ "capability": "multifd", "state": true }])]);
    assert_eq!(running[2..], before[2..], "the process's own are as they were");

    let own = json!({ "x-ferry-max-rounds": 1, "max-bandwidth": 65_536, "x-ferry-handshake": "none" });
    let on = json!([{ "capability": "postcopy-ram", "state": true }]);
    for (uri, resume) in [("tcp:127.0.0.1:1", false), ("exec:cat", false), ("tcp:127.0.0.1:1", true)] {
        let mut arguments = json!({ "uri": uri, "resume": resume, "x-ferry-parameters": own });
        if !resume {
            arguments["x-ferry-capabilities"] = on.clone();
        }
        let refused = scene.source.refused("migrate", arguments);
        assert_eq!(settings(&mut scene.source), running, "{uri}, resume {resume}: {refused}");
    }
    let output = Command::new(ferry_tests::lab::binary())
        .args(["migrate", "--to", "tcp:127.0.0.1:1", "--max-rounds", "1", "--local", "--mode", "postcopy"])
        .args(["--channels", "9", "--qmp", &format!("unix:{}", scene.source.qmp_path().display())])
        .output()
        .expect("the ferry binary can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("going on already"), "{said}");
    assert_eq!(settings(&mut scene.source), running, "{said}");

    // What the process is told now is for this migration too.
    scene.source.set_parameters(json!({ "max-bandwidth": 0, "downtime-limit": 2000 }));
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Completed));
    scene.guest.moved_to(&destination);
    scene.lives_in(destination);
    scene.ends_well();
}

#[test]
fn what_a_cancelled_migration_had_of_its_own_ends_with_it() {
    let Some(mut scene) = Scene::new() else { return };
    let destination = scene.destination();
    let before = settings(&mut scene.source);
    begin_slowly(&mut scene, &destination.wait_listening());
    scene.source.qmp("migrate_cancel", json!({}));
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Cancelled));
    assert_eq!(settings(&mut scene.source), before, "nothing of it is left for the next");
    scene.ends_well();
}

#[test]
fn a_parameter_out_of_range_begins_nothing() {
    let Some(mut scene) = Scene::new() else { return };
    scene.source.forget_events();
    let own = json!({ "max-bandwidth": 100 });
    let refused = scene.source.refused("migrate", json!({ "uri": "tcp:127.0.0.1:1", "x-ferry-parameters": own }));
    assert!(refused.contains("from 65536 (64 KiB/s)"), "{refused}");
    assert_eq!(scene.source.migration(), MigrationInfo::default());
    scene.ends_well();
}

#[test]
fn both_sides_of_a_completed_migration_have_the_same_figures() {
    let Some(mut scene) = Scene::new() else { return };
    scene.source.qmp("stop", json!({}));
    let total = (32 << 20) / PAGE_SIZE;
    let mut destination = scene.destination();
    let info = scene.source.migrate_to(&destination.wait_listening());
    let arrived = destination.wait_migration_end();
    let ram = |info: &MigrationInfo| info.ram.clone().expect("page counters");
    let (sent, received) = (ram(&info), ram(&arrived));
    for (info, ram) in [(&info, &sent), (&arrived, &received)] {
        assert_eq!((ram.remaining, ram.total), (0, total * PAGE_SIZE), "{info:?}");
        assert!(ram.normal + ram.duplicate >= total && ram.normal_bytes == ram.normal * PAGE_SIZE, "{info:?}");
        assert!(info.total_time.is_some() && info.total_time >= info.setup_time, "{info:?}");
    }
    let pages = |ram: &RamStats| (ram.normal, ram.duplicate, ram.transferred);
    assert_eq!(pages(&sent), pages(&received));
}

#[test]
fn memory_is_hashed_only_where_it_is_whole() {
    let Some(scene) = Scene::with(restless) else { return };
    let mut waiting = scene.destination();
    let refused = waiting.refused("x-ferry-memory-hash", json!({}));
    assert!(refused.contains("no guest has arrived here"), "{refused}");
    let mut stage = Postcopy::begin(scene);
    stage.destination.qmp("stop", json!({}));
    let refused = stage.destination.refused("x-ferry-memory-hash", json!({}));
    assert!(refused.contains("are missing here: ask again when query-migrate says completed"), "{refused}");
    stage.scene.source.memory_hash();
    stage.destination.qmp("migrate-pause", json!({}));
    stage.wait_paused();
    let refused = stage.destination.refused("x-ferry-memory-hash", json!({}));
    assert!(refused.contains("are missing here"), "{refused}");
    stage.recover();
    stage.complete();
    stage.destination.memory_hash();
    stage.destination.qmp("cont", json!({}));
    stage.go_on().ends_well();
}

#[test]
fn memory_that_was_handed_over_is_not_hashed() {
    let Some(mut scene) = Scene::local(without_record) else { return };
    scene.source.qmp("stop", json!({}));
    let before = scene.source.memory_hash();
    let (mut neighbour, to) = scene.neighbour();
    scene.source.migrate_to(&to);
    let refused = scene.source.refused("x-ferry-memory-hash", json!({}));
    assert!(refused.contains("in use at the destination: ask there"), "{refused}");
    neighbour.wait_migration_end();
    assert_eq!(neighbour.memory_hash(), before);
}

#[test]
fn a_destination_whose_driver_hangs_does_not_keep_a_client_waiting() {
    let Some(scene) = Scene::with(restless) else { return };
    let mut stage = Postcopy::begin(scene);
    stage.destination.set_fault(json!({ "at": "step:Paused", "do": "hang", "in": "incoming" }));
    let refused = stage.destination.refused("migrate-pause", json!({}));
    // The driver has begun with it, so it cannot be void any more.
    assert!(refused.contains("held up while it does what was asked"), "{refused}");
    stage.destination.qmp("query-migrate", json!({}));
    let refused = stage.destination.refused("migrate-pause", json!({}));
    assert!(refused.contains("held up") && refused.contains("nothing was done"), "{refused}");
    stage.destination.qmp("x-ferry-fault-set", json!({ "clear": true }));
    stage.wait_paused();
    stage.recover();
    stage.ends_well();
}

#[test]
fn a_pipeline_is_answered_to_its_end_and_a_stray_byte_begins_anew() {
    let Some(lab) = Lab::new() else { return };
    let ferry = lab.start(&Spec::new());
    let mut client = RawClient::negotiated(ferry.qmp_path());
    let heap: String = (0..300).map(|id| json!({ "execute": "query-commands", "id": id }).to_string()).collect();
    client.send_piece(heap.as_bytes());
    for id in 0..300 {
        assert_eq!(client.answer()["id"], id);
    }
    for junk in [&b"{\"execute\":\x01"[..], b"{\"execute\":\"stop\",\"arguments\":{\"a\":[\xff", b"nonsense\x00"] {
        client.send_piece(junk);
        client.send_piece(br#"{"execute": "query-name", "id": "after"}"#);
        assert!(client.answer()["error"].is_object(), "{junk:?}");
        assert_eq!(client.answer()["id"], "after", "{junk:?}");
    }
}

#[test]
fn a_reconnected_postcopy_takes_what_came_with_the_reconnect() {
    let Some(scene) = Scene::with(restless) else { return };
    let mut stage = Postcopy::begin(scene);
    stage.destination.qmp("migrate-pause", json!({}));
    stage.wait_paused();
    let before = settings(&mut stage.scene.source);
    let with = |uri: &str, bandwidth: u64| json!({ "uri": uri, "resume": true, "x-ferry-parameters": { "max-bandwidth": bandwidth } });
    stage.scene.source.refused("migrate", with(&stage.relay.uri(), 100));
    assert_eq!(settings(&mut stage.scene.source), before, "a reconnect that is refused changes nothing");
    stage.scene.source.qmp("migrate", with(&stage.relay.uri(), 2 << 20));
    let [own, _, parameters, capabilities] = settings(&mut stage.scene.source);
    assert_eq!(own, json!({ "max-bandwidth": 2 << 20 }));
    assert_eq!([&parameters, &capabilities], [&before[2], &before[3]], "the process's own are as they were");
    stage.wait_active();
    stage.ends_well();
}
