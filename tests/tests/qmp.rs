//! Every command of the QMP socket, through Ferry's own client, raw bytes, and QEMU's reference
//! client.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ferry_migration::Parameters;
use ferry_tests::bad_input::qmp::RawClient;
use ferry_tests::wait::poll;
use ferry_tests::{Ferry, GuestLog, LONG, Lab, Spec, lab};
use serde_json::{Value, json};

/// DESIGN §9, as far as precopy goes, and Ferry's own.
const COMMANDS: &[&str] = &[
    "qmp_capabilities",
    "query-version",
    "query-commands",
    "query-name",
    "query-status",
    "stop",
    "cont",
    "quit",
    "system_reset",
    "query-migrate",
    "migrate",
    "migrate-incoming",
    "migrate_cancel",
    "migrate-set-parameters",
    "query-migrate-parameters",
    "migrate-set-capabilities",
    "query-migrate-capabilities",
    "x-ferry-fault-set",
    "x-ferry-memory-hash",
];

#[test]
fn the_commands_are_listed_and_answer() {
    let Some(lab) = Lab::new() else { return };
    let mut ferry = lab.start(&Spec::new().name("harbour"));
    let listed = ferry.qmp("query-commands", json!({}));
    let listed: Vec<_> = listed.as_array().unwrap().iter().filter_map(|command| command["name"].as_str()).collect();
    for command in COMMANDS {
        assert!(listed.contains(command), "{command} is not in {listed:?}");
    }
    assert_eq!(ferry.qmp("query-name", json!({})), json!({ "name": "harbour" }));
    let version = ferry.qmp("query-version", json!({}));
    assert!(version["qemu"]["major"].is_u64() && version["package"].as_str().unwrap().contains("ferry"), "{version}");
    assert_eq!(ferry.qmp("query-status", json!({})), json!({ "status": "running", "running": true }));
    assert_eq!(ferry.qmp("query-migrate", json!({})), json!({}), "QEMU shows nothing when no migration was started");
}

#[test]
fn parameters_are_set_one_by_one_and_read_back() {
    let Some(lab) = Lab::new() else { return };
    let mut ferry = lab.start(&Spec::new());
    let read =
        |value: Value| serde_json::from_value::<Parameters>(value).expect("the parameters are those of this build");
    assert_eq!(read(ferry.qmp("query-migrate-parameters", json!({}))), Parameters::default());
    ferry.set_parameters(json!({ "max-bandwidth": 123_456_789 }));
    ferry.set_parameters(json!({ "downtime-limit": 42, "x-ferry-rehearsal": false }));
    let expected =
        Parameters { max_bandwidth: 123_456_789, downtime_limit: 42, rehearsal: false, ..Parameters::default() };
    assert_eq!(read(ferry.qmp("query-migrate-parameters", json!({}))), expected);
    let reason = ferry.refused("migrate-set-parameters", json!({ "downtime-limit": 7, "x-ferry-load-timeout-ms": 1 }));
    assert!(reason.contains("x-ferry-load-timeout-ms"), "{reason}");
    let unchanged = read(ferry.qmp("query-migrate-parameters", json!({})));
    assert_eq!(unchanged, expected, "a refused request changes nothing");
}

#[test]
fn migration_events_come_only_when_they_are_switched_on() {
    let Some(lab) = Lab::new() else { return };
    let mut ferry = lab.start(&Spec::new());
    let state = |ferry: &mut Ferry| ferry.qmp("query-migrate-capabilities", json!({}))[0].clone();
    assert_eq!(state(&mut ferry), json!({ "capability": "events", "state": true }), "the harness switches them on");
    let off = json!({ "capabilities": [{ "capability": "events", "state": false }] });
    ferry.qmp("migrate-set-capabilities", off);
    assert_eq!(state(&mut ferry), json!({ "capability": "events", "state": false }));
    let nowhere = format!("unix:{}", lab.path("nowhere").display());
    ferry.begin_migration(&nowhere);
    ferry.wait_migration_failed();
    assert_eq!(ferry_tests::migration::statuses(ferry.events()), Vec::<String>::new());
}

#[test]
fn several_clients_are_served_and_all_hear_events() {
    let Some(lab) = Lab::new() else { return };
    let mut ferry = lab.start(&Spec::new());
    let mut clients: Vec<_> = (0..4).map(|_| RawClient::negotiated(ferry.qmp_path())).collect();
    ferry.qmp("stop", json!({}));
    for (number, client) in clients.iter_mut().enumerate() {
        // The guest may have been started after the client came.
        while client.event()["event"] != "STOP" {}
        client.send(json!({ "execute": "query-status", "id": number }).to_string().as_bytes());
        let answer = client.answer();
        assert_eq!((&answer["id"], &answer["return"]["status"]), (&json!(number), &json!("paused")));
    }
}

#[test]
fn a_client_that_never_reads_disturbs_nobody() {
    let Some(lab) = Lab::new() else { return };
    let mut ferry = lab.start(&Spec::new());
    let mut guest = GuestLog::new(&ferry, 1);
    let mut deaf = RawClient::negotiated(ferry.qmp_path());
    // Each answer is a few hundred bytes: far more than a socket holds.
    while deaf.try_send(br#"{"execute": "query-commands"}"#) {}
    for _ in 0..50 {
        ferry.qmp("stop", json!({}));
        ferry.qmp("cont", json!({}));
    }
    assert_eq!(ferry.run_state(), "running");
    guest.wait_reports(1);
    ferry.quit();
}

#[test]
fn requests_may_come_in_pieces_and_in_heaps() {
    let Some(lab) = Lab::new() else { return };
    let ferry = lab.start(&Spec::new());
    let mut client = RawClient::negotiated(ferry.qmp_path());
    let heap: String = (0..20).map(|id| json!({ "execute": "query-status", "id": id }).to_string()).collect();
    for piece in heap.as_bytes().chunks(7) {
        client.send_piece(piece);
    }
    client.send(b"");
    for id in 0..20 {
        assert_eq!(client.answer()["id"], id);
    }
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let Some(lab) = Lab::new() else { return };
    let mut first = lab.start(&Spec::new());
    let at = format!("unix:{}", first.qmp_path().display());
    let more = vec!["run".into(), "--serial".into(), "null".into(), "--qmp".into(), at];
    let (code, text) = ferry_tests::bad_input::run_to_end(&lab, &more);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(".qmp") && text.contains("another process is listening"), "{text}");
    first.kill();
    assert!(first.qmp_path().exists(), "a process that was killed leaves its socket behind");
    let mut second = Ferry::start_as(&lab, &Spec::new(), first.label().to_owned());
    assert_eq!(second.run_state(), "running");
    second.quit();
}

/// A Python that has QEMU's client, from the virtual environment that the set-up makes.
fn python() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is around this package");
    let venv = std::env::var_os("FERRY_TEST_VENV").map_or_else(|| root.join("target/venv"), PathBuf::from);
    let python = venv.join("bin/python3");
    let has_client = Command::new(&python)
        .args(["-c", "import qemu.qmp"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    assert!(
        has_client,
        "{} has no qemu.qmp; get it with: python3 -m venv target/venv && target/venv/bin/pip install qemu.qmp \
         (or name another virtual environment in FERRY_TEST_VENV)",
        venv.display()
    );
    python
}

#[test]
fn the_reference_client_drives_a_migration() {
    let Some(lab) = Lab::new() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/drive.py");
    let log = lab.path("python.log");
    let file = std::fs::File::create(&log).unwrap();
    let mut child = Command::new(python())
        .arg(script)
        .args([lab::binary().as_path(), lab.directory()])
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    let status = poll(LONG, || child.try_wait().unwrap());
    if status.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let text = std::fs::read_to_string(log).unwrap();
    assert!(status.is_some_and(|status| status.success()), "{status:?}: {text}");
    assert!(text.contains("all steps done"), "{text}");
}
