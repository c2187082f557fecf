//! The server over real sockets: clients that behave, clients that do not, and the file it leaves
//! or does not leave.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ferry_migration::Status;
use ferry_observe::events::Event;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{Client, ClientError};
use crate::connection::MAX_REQUEST;
use crate::mock::Mock;
use crate::outbox::{HIGH_WATER, LIMIT};
use crate::server::{MAX_CLIENTS, Server, ServerError};

const TIMEOUT: Duration = Duration::from_secs(20);

struct Fixture {
    _dir: TempDir,
    path: PathBuf,
    mock: Arc<Mock>,
    server: Server,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp");
    let mock = Mock::new();
    let server = Server::start(&path, mock.clone(), &mock.events).unwrap();
    Fixture { _dir: dir, path, mock, server }
}

impl Fixture {
    fn client(&self) -> Client {
        Client::connect(&self.path, TIMEOUT).unwrap()
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        stream
    }
}

fn read_line(stream: &mut UnixStream) -> Value {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "the server closed after {line:?}");
        line.push(byte[0]);
    }
    serde_json::from_slice(&line).unwrap()
}

#[test]
fn a_client_greets_commands_and_hears_events() {
    let fixture = fixture();
    let mut raw = fixture.raw();
    let greeting = read_line(&mut raw);
    assert_eq!(greeting["QMP"]["capabilities"], json!([]));
    assert!(greeting["QMP"]["version"]["qemu"]["major"].is_u64(), "{greeting}");

    let (mut one, mut other) = (fixture.client(), fixture.client());
    one.execute("cont", json!({})).unwrap();
    for client in [&mut one, &mut other] {
        let event = client.wait_event("RESUME", TIMEOUT).unwrap();
        assert!(event["timestamp"]["seconds"].as_u64().unwrap() > 1_600_000_000, "{event}");
    }
    let error = one.execute("migrate", json!({})).unwrap_err();
    assert_eq!(error.to_string(), "migrate: Parameter 'uri' is missing");
}

#[test]
fn migration_events_are_heard_once_the_capability_is_on() {
    let fixture = fixture();
    let mut client = fixture.client();
    fixture.mock.events.publish(Event::Migration(Status::Active));
    fixture.mock.events.publish(Event::Stop);
    let deadline = Instant::now() + TIMEOUT;
    let mut heard = Vec::new();
    while heard.is_empty() {
        assert!(Instant::now() < deadline, "STOP was not heard");
        client.execute("query-status", json!({})).unwrap();
        heard = client.take_events();
    }
    assert_eq!(heard[0]["event"], "STOP", "nothing before it: the capability is off");
    let on = json!({ "capabilities": [{ "capability": "events", "state": true }] });
    client.execute("migrate-set-capabilities", on).unwrap();
    fixture.mock.events.publish(Event::Migration(Status::Completed));
    let event = client.wait_event("MIGRATION", TIMEOUT).unwrap();
    assert_eq!(event["data"], json!({ "status": "completed" }));
}

#[test]
fn requests_arrive_in_any_pieces_and_errors_do_not_end_the_connection() {
    let fixture = fixture();
    let mut raw = fixture.raw();
    read_line(&mut raw);
    for byte in b"{\"execute\":\n\"qmp_capabilities\", \"id\": 1}" {
        raw.write_all(&[*byte]).unwrap();
    }
    assert_eq!(read_line(&mut raw), json!({ "return": {}, "id": 1 }));
    raw.write_all(b"{\"execute\": }\n{\"execute\": \"\xc0\"}\nstop\n").unwrap();
    for _ in 0..3 {
        let reply = read_line(&mut raw);
        assert!(reply["error"]["desc"].as_str().unwrap().starts_with("JSON parse error"), "{reply}");
    }
    raw.write_all(&vec![b'['; MAX_REQUEST * 2]).unwrap();
    assert!(read_line(&mut raw)["error"]["desc"].as_str().unwrap().contains("nesting"));
    raw.write_all(b"\n{\"").unwrap();
    raw.write_all(&vec![b'x'; MAX_REQUEST * 2]).unwrap();
    assert!(read_line(&mut raw)["error"]["desc"].as_str().unwrap().contains("larger than 65536"));
    raw.write_all(b"\n{\"execute\": \"stop\"}").unwrap();
    assert_eq!(read_line(&mut raw)["event"], "STOP", "what happened before the reply comes before it, as in QEMU");
    assert_eq!(read_line(&mut raw)["return"], json!({}));
}

/// The replies to `text`, sent in pieces of these lengths, one after the other.
fn replies(fixture: &Fixture, text: &[u8], pieces: &[usize]) -> Vec<Value> {
    let mut raw = fixture.raw();
    let mut writer = raw.try_clone().unwrap();
    let (text, pieces) = (text.to_vec(), pieces.to_vec());
    let sent = thread::spawn(move || {
        let mut rest = &text[..];
        for piece in pieces.iter().cycle() {
            let (head, tail) = rest.split_at((*piece).min(rest.len()));
            writer.write_all(head).unwrap();
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut all = String::new();
    raw.read_to_string(&mut all).unwrap();
    sent.join().unwrap();
    all.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_request_of_a_pipeline_is_answered_in_order() {
    let fixture = fixture();
    for (count, command) in [(140, "query-commands"), (2000, "query-migrate-parameters"), (20_000, "query-name")] {
        let mut text = b"{\"execute\":\"qmp_capabilities\",\"id\":0}".to_vec();
        for id in 1..=count {
            text.extend(format!("{{\"execute\":\"{command}\",\"id\":{id}}}\n").bytes());
        }
        // Open to the end, so that nothing but the replies' being read lets the server go on.
        let mut raw = fixture.raw();
        let mut writer = raw.try_clone().unwrap();
        let sent = thread::spawn(move || writer.write_all(&text).unwrap());
        read_line(&mut raw);
        let mut replies = BufReader::new(&raw).lines();
        for id in 0..=count {
            let reply: Value = serde_json::from_str(&replies.next().unwrap().unwrap()).unwrap();
            assert_eq!(reply["id"], id, "{command}: {reply}");
            assert!(reply.get("return").is_some(), "{reply}");
        }
        sent.join().unwrap();
    }
}

#[test]
fn an_unfinished_request_is_an_error_when_the_client_closes_its_side() {
    let fixture = fixture();
    let replies = replies(&fixture, b"{\"execute\":\"qmp_capabilities\"}{\"execute\":", &[7]);
    assert!(replies[1]["error"]["desc"].as_str().unwrap().contains("the input ends inside of a value"), "{replies:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn pieces_do_not_change_the_replies(
        requests in proptest::collection::vec(
            prop_oneof![
                Just(&b"{\"execute\":\"query-commands\"}"[..]),
                Just(&b"{\"execute\":\"query-name\",\"id\":\"\\u00e9 }\"}\n"[..]),
                Just(&b"{\"execute\":\"sail\"}"[..]),
                Just(&b"{]\n"[..]),
                Just(&b"\xff"[..]),
                Just(&b"nonsense\r\n"[..]),
                Just(&b"{\"execute\":\"que\x01"[..]),
            ],
            0..400,
        ),
        pieces in proptest::collection::vec(1usize..5000, 1..8),
    ) {
        let fixture = fixture();
        let text = [&[&b"{\"execute\":\"qmp_capabilities\"}"[..]], &requests[..]].concat().concat();
        let whole = replies(&fixture, &text, &[text.len()]);
        prop_assert_eq!(whole.len(), requests.len() + 1, "one reply to each");
        prop_assert_eq!(whole, replies(&fixture, &text, &pieces));
    }
}

#[test]
fn a_client_that_closes_its_side_still_gets_its_replies() {
    let fixture = fixture();
    let mut raw = fixture.raw();
    raw.write_all(b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"query-name\"}").unwrap();
    raw.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = String::new();
    raw.read_to_string(&mut all).unwrap();
    assert_eq!(all.lines().count(), 3, "{all}");
    assert!(all.contains("mock"), "{all}");
}

#[test]
fn a_client_that_never_reads_blocks_nobody_and_is_dropped() {
    let fixture = fixture();
    let mut deaf = fixture.raw();
    deaf.write_all(b"{\"execute\":\"qmp_capabilities\"}").unwrap();
    let (greeting, negotiated) = (read_line(&mut deaf), read_line(&mut deaf));
    assert_eq!((greeting.get("QMP").is_some(), negotiated), (true, json!({ "return": {} })));
    let mut other = fixture.client();
    let deadline = Instant::now() + TIMEOUT;
    // Published in portions that another client has heard, so that the publisher's own bound is
    // not what drops.
    let mut published = 0;
    while fixture.server.client_count() == 2 {
        assert!(Instant::now() < deadline, "still connected after {published} events");
        for _ in 0..100 {
            fixture.mock.events.publish(Event::Stop);
        }
        for _ in 0..100 {
            other.wait_event("STOP", TIMEOUT).unwrap();
        }
        published += 100;
    }
    assert!(published * 80 > LIMIT, "dropped after only {published} events");
    other.execute("query-status", json!({})).unwrap();
}

#[test]
fn a_client_that_only_sends_is_answered_no_further_than_the_bound() {
    let fixture = fixture();
    let raw = fixture.raw();
    raw.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let request = b"{\"execute\":\"query-commands\"}".repeat(100);
    let blocked = (0..10_000).find_map(|_| (&raw).write(&request).err());
    assert!(blocked.is_some(), "28 MB of requests were taken from a client that reads no reply");
    const { assert!(HIGH_WATER < LIMIT) };
    fixture.client().execute("query-status", json!({})).unwrap();
}

#[test]
fn the_number_of_clients_is_bounded_and_a_place_is_given_back() {
    let fixture = fixture();
    let mut clients: Vec<_> = (0..MAX_CLIENTS).map(|_| fixture.client()).collect();
    let refused = Client::connect(&fixture.path, TIMEOUT).unwrap_err();
    assert!(refused.to_string().contains("16 clients are connected already"), "{refused}");
    clients.pop();
    let deadline = Instant::now() + TIMEOUT;
    while Client::connect(&fixture.path, TIMEOUT).is_err() {
        assert!(Instant::now() < deadline, "no place was given back");
        thread::yield_now();
    }
}

#[test]
fn finishing_delivers_what_was_published_and_removes_the_file() {
    let fixture = fixture();
    let mut client = fixture.client();
    for _ in 0..500 {
        fixture.mock.events.publish(Event::Stop);
    }
    fixture.mock.events.publish(Event::Shutdown { guest: false, reason: "host-qmp-quit" });
    let reader = thread::spawn(move || {
        let event = client.wait_event("SHUTDOWN", TIMEOUT).unwrap();
        (event, client.wait_event("STOP", TIMEOUT).unwrap_err())
    });
    fixture.server.finish();
    assert!(!fixture.path.exists());
    let (event, end) = reader.join().unwrap();
    assert_eq!(event["data"], json!({ "guest": false, "reason": "host-qmp-quit" }));
    assert!(matches!(end, ClientError::Closed { .. }), "{end}");
}

#[test]
fn a_process_that_ends_answers_the_clients_that_are_connected_until_they_have_gone() {
    let fixture = fixture();
    let began = Instant::now();
    fixture.server.linger(TIMEOUT);
    assert!(began.elapsed() < TIMEOUT, "there is no client");
    let mut client = fixture.client();
    fixture.server.linger(Duration::from_millis(1));
    let lingering = thread::scope(|scope| {
        let lingering = scope.spawn(|| fixture.server.linger(TIMEOUT));
        client.execute("query-status", json!({})).unwrap();
        assert!(!lingering.is_finished(), "the client is connected");
        drop(client);
        lingering.join()
    });
    lingering.unwrap();
    assert!(began.elapsed() < TIMEOUT, "it ends with the last client");
}

#[test]
fn only_a_socket_that_nobody_listens_on_is_replaced() {
    let fixture = fixture();
    let events = &fixture.mock.events;
    let start = |path: &PathBuf| Server::start(path, fixture.mock.clone(), events);
    assert!(matches!(start(&fixture.path), Err(ServerError::InUse { .. })));
    let file = fixture.path.with_file_name("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(start(&file), Err(ServerError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    let stale = fixture.path.with_file_name("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let server = start(&stale).unwrap();
    Client::connect(&stale, TIMEOUT).unwrap();
    // Another listener's file is not removed.
    std::fs::remove_file(&stale).unwrap();
    let _theirs = UnixListener::bind(&stale).unwrap();
    server.finish();
    assert!(stale.exists());
}

#[test]
fn a_client_waits_no_longer_than_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mute");
    let missing = Client::connect_when_up(&path, Duration::from_millis(20), || true).unwrap_err();
    assert!(matches!(missing, ClientError::Connect { .. }), "{missing}");
    let _listener = UnixListener::bind(&path).unwrap();
    let mute = Client::connect(&path, Duration::from_millis(20)).unwrap_err();
    assert!(matches!(mute, ClientError::Timeout { .. }), "{mute}");
    assert!(mute.to_string().ends_with("the greeting did not come within 20 ms"), "{mute}");
}

#[test]
fn a_client_says_why_the_process_has_gone() {
    for (last, why) in [
        (
            Some(json!({ "event": "SHUTDOWN", "data": { "guest": true, "reason": "guest-shutdown" } })),
            "the guest has shut down",
        ),
        (
            Some(json!({ "event": "SHUTDOWN", "data": { "guest": false, "reason": "host-qmp-quit" } })),
            "was told to quit",
        ),
        (None, "the process ended before"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("brief");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            writeln!(stream, "{}", json!({ "QMP": { "version": {}, "capabilities": [] } })).unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            writeln!(stream, "{}", json!({ "return": {}, "id": 1 })).unwrap();
            if let Some(event) = last {
                writeln!(stream, "{event}").unwrap();
            }
        });
        let mut client = Client::connect(&path, TIMEOUT).unwrap();
        server.join().unwrap();
        // The process has gone before the command is sent.
        let error = client.execute("query-status", json!({})).unwrap_err();
        assert!(matches!(error, ClientError::Closed { .. }), "{error:?}");
        assert!(
            error.to_string().contains(why) && error.to_string().contains("the reply to 'query-status'"),
            "{error}"
        );
    }
}

#[test]
fn a_reply_that_comes_too_late_does_not_stand_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("slow");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut commands = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut hear = || serde_json::from_str::<Value>(&commands.next().unwrap().unwrap()).unwrap();
        let mut say = |value: Value| writeln!(stream, "{value}").unwrap();
        say(json!({ "QMP": { "version": {}, "capabilities": [] } }));
        say(json!({ "return": {}, "id": hear()["id"] }));
        let (first, second) = (hear(), hear());
        say(json!({ "return": "first", "id": first["id"] }));
        say(json!({ "return": "second", "id": second["id"] }));
    });
    let mut client = Client::connect(&path, Duration::from_millis(200)).unwrap();
    let given_up = client.execute("query-name", json!({})).unwrap_err();
    assert!(matches!(given_up, ClientError::Timeout { .. }), "{given_up}");
    assert_eq!(client.execute("query-status", json!({})).unwrap(), "second");
    server.join().unwrap();
}
