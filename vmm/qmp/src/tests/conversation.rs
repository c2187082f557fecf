//! What each command takes, returns and refuses, word for word where QEMU has the words.

use std::sync::Arc;

use ferry_migration::parameters::Capability;
use ferry_migration::source::{Owner, Resolution};
use ferry_migration::{Parameters, Status};
use ferry_observe::RunState;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::mock::Mock;
use crate::session::{Session, Shared};

struct Talk {
    mock: Arc<Mock>,
    session: Session,
}

impl Talk {
    fn begin() -> Self {
        let mock = Mock::new();
        let session = Session::new(mock.clone(), Arc::new(Shared::default()));
        Talk { mock, session }
    }

    fn negotiated() -> Self {
        let mut talk = Self::begin();
        assert_eq!(talk.ask("qmp_capabilities", json!({})), json!({ "return": {} }));
        talk
    }

    fn ask(&mut self, execute: &str, arguments: Value) -> Value {
        let request = json!({ "execute": execute, "arguments": arguments }).to_string();
        serde_json::from_slice(&self.session.answer(Ok(request.into_bytes()))).unwrap()
    }

    fn returned(&mut self, execute: &str, arguments: Value) -> Value {
        let mut reply = self.ask(execute, arguments);
        assert!(reply.get("return").is_some(), "{execute}: {reply}");
        reply["return"].take()
    }

    fn refused(&mut self, execute: &str, arguments: Value) -> String {
        let reply = self.ask(execute, arguments);
        assert_eq!(reply["error"]["class"], "GenericError", "{execute}: {reply}");
        reply["error"]["desc"].as_str().unwrap().to_owned()
    }
}

#[test]
fn nothing_but_negotiation_is_heard_before_it_and_it_only_once() {
    let mut talk = Talk::begin();
    let early = talk.ask("query-status", json!({}));
    let desc = "Expecting capabilities negotiation with 'qmp_capabilities'";
    assert_eq!(early, json!({ "error": { "class": "CommandNotFound", "desc": desc } }));
    let oob = talk.refused("qmp_capabilities", json!({ "enable": ["oob"] }));
    assert!(oob.starts_with("Capability 'oob' is not available"), "{oob}");
    assert!(!talk.session.negotiated());
    talk.returned("qmp_capabilities", json!({ "enable": [] }));
    let desc = "Capabilities negotiation is already complete, command ignored";
    let again = talk.ask("qmp_capabilities", json!({}));
    assert_eq!(again, json!({ "error": { "class": "CommandNotFound", "desc": desc } }));
}

#[test]
fn the_id_comes_back_with_results_and_errors() {
    let mut talk = Talk::negotiated();
    for (execute, member) in [("stop", "return"), ("nonsense", "error")] {
        let request = json!({ "execute": execute, "id": { "a": [1] } }).to_string();
        let reply: Value = serde_json::from_slice(&talk.session.answer(Ok(request.into()))).unwrap();
        assert!(reply.get(member).is_some(), "{reply}");
        assert_eq!(reply["id"], json!({ "a": [1] }));
    }
}

#[test]
fn an_unknown_command_has_qemus_class() {
    let reply = Talk::negotiated().ask("device_add", json!({}));
    let desc = "The command device_add has not been found";
    assert_eq!(reply, json!({ "error": { "class": "CommandNotFound", "desc": desc } }));
}

#[test]
fn every_listed_command_is_found_and_refuses_unknown_arguments() {
    let mut talk = Talk::negotiated();
    let names = talk.returned("query-commands", json!({}));
    let names: Vec<_> = names.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect();
    assert!(names.len() > 15 && names.contains(&"query-migrate-capabilities".to_owned()), "{names:?}");
    for name in names.iter().filter(|name| *name != "qmp_capabilities") {
        let desc = talk.refused(name, json!({ "zz": 1 }));
        assert!(desc.starts_with("Parameter 'zz' is unexpected"), "{name}: {desc}");
    }
    assert_eq!(talk.mock.state().quits, 0);
}

#[test]
fn the_run_state_is_told_and_changed() {
    let mut talk = Talk::negotiated();
    assert_eq!(talk.returned("query-name", json!({})), json!({ "name": "mock" }));
    assert_eq!(talk.returned("query-status", json!({})), json!({ "status": "paused", "running": false }));
    talk.returned("cont", json!({}));
    assert_eq!(talk.returned("query-status", json!({})), json!({ "status": "running", "running": true }));
    talk.mock.state().run_state = RunState::FinishMigrate;
    assert_eq!(talk.returned("query-status", json!({})), json!({ "status": "finish-migrate", "running": false }));
    talk.returned("quit", json!({}));
    assert_eq!(talk.mock.state().quits, 1);
}

#[test]
fn migrate_takes_both_of_qemus_address_forms() {
    let mut talk = Talk::negotiated();
    let channel = |addr: Value| json!({ "channels": [{ "channel-type": "main", "addr": addr }] });
    talk.returned("migrate", json!({ "uri": "tcp:[::1]:5" }));
    talk.returned("migrate", channel(json!({ "transport": "socket", "type": "inet", "host": "::1", "port": "5" })));
    talk.returned("migrate", channel(json!({ "transport": "socket", "type": "unix", "path": "/p" })));
    let migrations: Vec<_> = talk.mock.state().migrations.iter().map(ToString::to_string).collect();
    assert_eq!(migrations, ["tcp:[::1]:5", "tcp:[::1]:5", "unix:/p"]);

    assert_eq!(talk.refused("migrate", json!({})), "Parameter 'uri' is missing");
    assert!(talk.refused("migrate", json!({ "uri": "exec:x" })).contains("write tcp:HOST:PORT"));
    let exec = talk.refused("migrate", channel(json!({ "transport": "exec" })));
    assert!(exec.starts_with("Parameter 'channels[0].addr.transport' does not accept value 'exec'"), "{exec}");
    let no_port = talk.refused("migrate", channel(json!({ "transport": "socket", "type": "inet", "host": "h" })));
    assert_eq!(no_port, "Parameter 'channels[0].addr.port' is missing");
    assert!(talk.refused("migrate", json!({ "channels": [] })).contains("one channel"));
}

#[test]
fn where_it_listens_is_told_as_qemu_tells_it() {
    let mut talk = Talk::negotiated();
    assert_eq!(talk.returned("query-migrate", json!({})), json!({}));
    talk.returned("migrate-incoming", json!({ "uri": "tcp:127.0.0.1:7", "exit-on-error": false }));
    let (at, exit_on_error) = talk.mock.state().listening.clone().unwrap();
    assert_eq!((at.to_string().as_str(), exit_on_error), ("tcp:127.0.0.1:7", false));
    let address = json!([{ "type": "inet", "host": "127.0.0.1", "port": "7" }]);
    assert_eq!(talk.returned("query-migrate", json!({}))["socket-address"], address);
}

#[test]
fn parameters_are_set_one_by_one() {
    let mut talk = Talk::negotiated();
    talk.returned("migrate-set-parameters", json!({ "downtime-limit": 50 }));
    talk.returned("migrate-set-parameters", json!({ "max-bandwidth": 1000, "x-ferry-on-limit": "switch" }));
    let parameters = talk.returned("query-migrate-parameters", json!({}));
    assert_eq!(
        (&parameters["downtime-limit"], &parameters["max-bandwidth"], &parameters["x-ferry-on-limit"]),
        (&json!(50), &json!(1000), &json!("switch"))
    );
    let unknown = talk.refused("migrate-set-parameters", json!({ "xbzrle-cache-size": 2 }));
    assert!(unknown.starts_with("Parameter 'xbzrle-cache-size' is unexpected; known are max-bandwidth,"), "{unknown}");
    let wrong = talk.refused("migrate-set-parameters", json!({ "downtime-limit": "x" }));
    assert_eq!(wrong, "Invalid parameter type for 'downtime-limit', expected: u64");
    assert_eq!(talk.returned("query-migrate-parameters", json!({})), parameters);
}

#[test]
fn capabilities_are_set_by_name_and_not_during_a_migration() {
    let mut talk = Talk::negotiated();
    let set = |name: &str| json!({ "capabilities": [{ "capability": name, "state": true }] });
    let unknown = talk.refused("migrate-set-capabilities", set("xbzrle"));
    let known = "it accepts events, postcopy-ram, multifd, auto-converge";
    assert_eq!(unknown, format!("Parameter 'capabilities[0].capability' does not accept value 'xbzrle'; {known}"));
    let states = |talk: &mut Talk| {
        let all = talk.returned("query-migrate-capabilities", json!({}));
        let all = all.as_array().unwrap().clone();
        let states = all.iter().map(|one| (one["capability"].as_str().unwrap().to_owned(), one["state"] == true));
        states.collect::<Vec<_>>()
    };
    let mut expected = ["events", "postcopy-ram", "multifd", "auto-converge"].map(|name| (name.to_owned(), false));
    for at in 0..expected.len() {
        talk.returned("migrate-set-capabilities", set(&expected[at].0));
        expected[at].1 = true;
        assert_eq!(states(&mut talk), expected);
    }
    talk.mock.state().info.status = Some(Status::Active);
    assert!(talk.refused("migrate-set-capabilities", set("events")).starts_with("There's a migration"));
}

#[test]
fn what_a_migration_is_given_is_its_own() {
    let mut talk = Talk::negotiated();
    talk.returned("migrate-set-parameters", json!({ "downtime-limit": 7 }));
    let own = json!({
        "uri": "tcp:h:1",
        "x-ferry-parameters": { "max-bandwidth": 1 << 20, "x-ferry-handshake": "pong" },
        "x-ferry-capabilities": [{ "capability": "postcopy-ram", "state": true }],
    });
    talk.returned("migrate", own);
    let process = talk.mock.state().parameters.clone();
    let own = talk.mock.state().own[0].clone();
    assert_eq!((process.max_bandwidth, process.downtime_limit, process.handshake), (0, 7, None));
    let migration = own.parameters.over(&process);
    assert_eq!((migration.max_bandwidth, migration.downtime_limit), (1 << 20, 7));
    assert_eq!((own.capabilities, talk.mock.state().capabilities.len()), (vec![(Capability::PostcopyRam, true)], 0));
    talk.returned("migrate", json!({ "uri": "tcp:h:1", "resume": true, "x-ferry-parameters": { "max-bandwidth": 0 } }));
    assert_eq!(talk.mock.state().resumed[0].1.over(&migration).max_bandwidth, 0);
}

#[test]
fn what_a_migration_cannot_be_given_is_named() {
    let mut talk = Talk::negotiated();
    let with = |member: &str, value: Value| json!({ "uri": "tcp:h:1", member: value });
    let events = json!([{ "capability": "events", "state": true }]);
    for (arguments, told) in [
        (with("x-ferry-parameters", json!({ "speed": 1 })), "Parameter 'x-ferry-parameters.speed' is unexpected"),
        (with("x-ferry-parameters", json!([])), "Invalid parameter type for 'x-ferry-parameters', expected: object"),
        (
            with("x-ferry-parameters", json!({ "max-bandwidth": "x" })),
            "Invalid parameter type for 'x-ferry-parameters.max-bandwidth', expected: u64",
        ),
        (
            with("x-ferry-capabilities", json!([{ "capability": "fly", "state": true }])),
            "Parameter 'x-ferry-capabilities[0].capability' does not accept value 'fly'",
        ),
        (with("x-ferry-capabilities", events.clone()), "use migrate-set-capabilities"),
        (json!({ "uri": "tcp:h:1", "resume": true, "x-ferry-capabilities": events }), "leave them out with 'resume'"),
        (json!({ "uri": "exec:x", "x-ferry-parameters": { "downtime-limit": 1 } }), "write tcp:HOST:PORT"),
    ] {
        let refused = talk.refused("migrate", arguments);
        assert!(refused.contains(told), "`{told}` is to be in: {refused}");
    }
    let state = talk.mock.state();
    assert_eq!((state.migrations.len(), state.parameters.clone()), (0, Parameters::default()));
}

#[test]
fn a_running_migration_shows_what_it_has_of_its_own() {
    let mut talk = Talk::negotiated();
    talk.mock.state().info.status = Some(Status::Active);
    talk.mock.state().in_force = Some((Parameters::default(), vec![]));
    assert_eq!(talk.returned("query-migrate", json!({})), json!({ "status": "active" }));
    let own = Parameters { max_bandwidth: 1 << 20, ..Parameters::default() };
    talk.mock.state().in_force = Some((own, vec![Capability::Multifd]));
    talk.returned("migrate-set-parameters", json!({ "downtime-limit": 7 }));
    let info = talk.returned("query-migrate", json!({}));
    assert_eq!(info["x-ferry-parameters"], json!({ "max-bandwidth": 1 << 20, "downtime-limit": 300 }));
    assert_eq!(info["x-ferry-capabilities"], json!([{ "capability": "multifd", "state": true }]));
}

#[test]
fn postcopy_is_started_paused_and_reconnected() {
    let mut talk = Talk::negotiated();
    talk.returned("migrate-start-postcopy", json!({}));
    talk.returned("migrate-pause", json!({}));
    talk.returned("migrate", json!({ "uri": "tcp:h:1", "resume": true }));
    talk.returned("migrate-recover", json!({ "uri": "tcp:h:2" }));
    let state = talk.mock.state();
    assert_eq!((state.start_postcopy, state.pauses, state.migrations.len()), (1, 1, 0));
    assert_eq!((state.resumed[0].0.to_string(), state.recovered[0].to_string()), ("tcp:h:1".into(), "tcp:h:2".into()));
}

#[test]
fn only_who_has_fenced_the_peer_resolves() {
    let mut talk = Talk::negotiated();
    let resolve = |fenced: bool| json!({ "owner": "destination", "peer-fenced": fenced });
    assert!(talk.refused("x-ferry-resolve", resolve(false)).contains("'peer-fenced': true"));
    assert_eq!(talk.refused("x-ferry-resolve", json!({ "owner": "source" })), "Parameter 'peer-fenced' is missing");
    assert!(talk.mock.state().resolved.is_empty());
    talk.returned("x-ferry-resolve", resolve(true));
    talk.returned(
        "x-ferry-resolve",
        json!({ "owner": "source", "peer-fenced": true, "drop-pages": true, "never-ran": true }),
    );
    assert_eq!(
        talk.mock.state().resolved,
        [(Resolution::to(Owner::Destination), false), (Resolution { owner: Owner::Source, never_ran: true }, true)]
    );
    assert_eq!(talk.returned("x-ferry-query-ownership", json!({})), json!({}), "there is no record");
}

#[test]
fn the_handshake_can_be_set_back() {
    let mut talk = Talk::negotiated();
    for handshake in ["owned", "none", "pong", "setup", "auto"] {
        talk.returned("migrate-set-parameters", json!({ "x-ferry-handshake": handshake }));
        assert_eq!(talk.returned("query-migrate-parameters", json!({}))["x-ferry-handshake"], handshake);
    }
}

#[test]
fn faults_are_written_as_on_the_command_line() {
    let mut talk = Talk::negotiated();
    talk.returned("x-ferry-fault-set", json!({ "at": "load", "do": "delay:5", "times": 2, "in": "incoming" }));
    assert_eq!(talk.mock.state().faults, ["at=load,do=delay:5,times=2,in=incoming"]);
    talk.returned("x-ferry-fault-set", json!({ "at": "KVM_SET_MSRS", "do": "fail", "of": "vcpu/1" }));
    assert_eq!(talk.mock.state().faults[1], "at=KVM_SET_MSRS,do=fail,of=vcpu/1");
    assert_eq!(talk.refused("x-ferry-fault-set", json!({ "at": "load" })), "Parameter 'do' is missing");
    assert!(talk.refused("x-ferry-fault-set", json!({ "at": "load", "do": "fail,times=3" })).contains("do=fail|hang"));
    talk.returned("x-ferry-fault-set", json!({ "clear": true }));
    assert!(talk.mock.state().faults.is_empty());
}

#[test]
fn memory_is_hashed_only_while_the_guest_is_stopped() {
    let mut talk = Talk::negotiated();
    let hash = talk.returned("x-ferry-memory-hash", json!({}));
    assert_eq!(hash, json!({ "hash": format!("{:032x}", 0xabc), "bytes": 4096, "nonzero-pages": 1 }));
    talk.mock.state().run_state = RunState::Running;
    assert!(talk.refused("x-ferry-memory-hash", json!({})).contains("send 'stop'"));
}

proptest! {
    #[test]
    fn any_bytes_get_one_reply_that_is_json(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let reply = Talk::negotiated().session.answer(Ok(bytes));
        prop_assert!(serde_json::from_slice::<Value>(&reply).is_ok());
    }
}
