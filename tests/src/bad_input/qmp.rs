//! QMP requests that cannot be carried out: each is answered with an error, and the connection
//! goes on.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::Row;
use crate::wait::SOON;
use crate::{Lab, Spec};

/// A request as it goes over the socket, and what the answer must hold.
const CASES: &[(&str, &str)] = &[
    ("{]", "JSON parse error"),
    ("nonsense", "JSON parse error"),
    ("[1, 2]", "GenericError"),
    ("42", "GenericError"),
    ("\"stop\"", "GenericError"),
    ("{}", "'execute'"),
    (r#"{"execute": 7}"#, "'execute'"),
    (r#"{"execute": "stop", "colour": "blue"}"#, "'colour' is unexpected"),
    (r#"{"execute": "stop", "arguments": []}"#, "'arguments'"),
    (r#"{"execute": "query-status", "execute": "quit"}"#, "duplicate key 'execute'"),
    (r#"{"execute": "sail"}"#, "The command sail has not been found"),
    (r#"{"execute": ""}"#, "CommandNotFound"),
    (r#"{"execute": "stop", "arguments": {"now": true}}"#, "Parameter 'now' is unexpected"),
    (r#"{"execute": "qmp_capabilities"}"#, "already complete"),
    (r#"{"execute": "migrate"}"#, "Parameter 'uri' is missing"),
    (r#"{"execute": "migrate", "arguments": {"uri": 7}}"#, "'uri'"),
    (r#"{"execute": "migrate", "arguments": {"uri": "127.0.0.1:4444"}}"#, "write tcp:HOST:PORT or unix:PATH"),
    (r#"{"execute": "migrate", "arguments": {"uri": "exec:cat"}}"#, "write tcp:HOST:PORT or unix:PATH"),
    (r#"{"execute": "migrate", "arguments": {"uri": "tcp:a:1", "channels": []}}"#, "mutually exclusive"),
    (r#"{"execute": "migrate", "arguments": {"channels": []}}"#, "'channels'"),
    (
        r#"{"execute": "migrate", "arguments": {"uri": "tcp:a:1", "x-ferry-parameters": {"speed": 1}}}"#,
        "'x-ferry-parameters.speed' is unexpected",
    ),
    (
        r#"{"execute": "migrate", "arguments": {"uri": "tcp:a:1", "x-ferry-parameters": {"max-bandwidth": 100}}}"#,
        "the unit is bytes a second",
    ),
    (
        r#"{"execute": "migrate", "arguments": {"uri": "tcp:a:1", "x-ferry-capabilities": [{"capability": "events", "state": true}]}}"#,
        "use migrate-set-capabilities",
    ),
    (r#"{"execute": "migrate", "arguments": {"uri": "tcp:a:1", "resume": true}}"#, "no migration is going on"),
    (r#"{"execute": "migrate-incoming", "arguments": {"uri": "tcp:127.0.0.1:0"}}"#, "--incoming"),
    (r#"{"execute": "migrate-set-parameters", "arguments": {"speed": 1}}"#, "'speed'"),
    (r#"{"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": "fast"}}"#, "'max-bandwidth'"),
    (r#"{"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": -1}}"#, "'max-bandwidth'"),
    (r#"{"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": 100}}"#, "from 65536 (64 KiB/s)"),
    (
        r#"{"execute": "migrate-set-parameters", "arguments": {"downtime-limit": 2000001}}"#,
        "from 0 to 2000000 milliseconds",
    ),
    (r#"{"execute": "migrate-set-parameters", "arguments": {"cpu-throttle-initial": 0}}"#, "from 1 to 99 percent"),
    (
        r#"{"execute": "migrate-set-parameters", "arguments": {"max-cpu-throttle": 10}}"#,
        "from cpu-throttle-initial to 99 percent",
    ),
    (r#"{"execute": "migrate-set-parameters", "arguments": {"x-ferry-on-limit": "hope"}}"#, "x-ferry-on-limit"),
    (
        r#"{"execute": "migrate-set-parameters", "arguments": {"x-ferry-load-timeout-ms": 1}}"#,
        "from 10 to 600000 milliseconds",
    ),
    (
        r#"{"execute": "migrate-set-capabilities", "arguments": {"capabilities": [{"capability": "fly", "state": true}]}}"#,
        "fly",
    ),
    (r#"{"execute": "migrate-set-capabilities", "arguments": {}}"#, "Parameter 'capabilities' is missing"),
    (r#"{"execute": "x-ferry-fault-set", "arguments": {"at": "load", "do": "explode"}}"#, "fail|hang|delay:MS"),
    (
        r#"{"execute": "x-ferry-fault-set", "arguments": {"at": "post_load", "do": "fail", "of": "vcpu/0"}}"#,
        "write of= with one of serial/0",
    ),
    (r#"{"execute": "x-ferry-fault-set", "arguments": {"at": "load"}}"#, "Parameter 'do' is missing"),
    (r#"{"execute": "x-ferry-fault-set", "arguments": {"clear": false}}"#, "'clear' can only be true"),
    (r#"{"execute": "x-ferry-memory-hash"}"#, "send 'stop' before this"),
];

/// A client that sends what it likes.
#[derive(Debug)]
pub struct RawClient {
    reader: BufReader<UnixStream>,
}

impl RawClient {
    /// Connects and reads the greeting.
    ///
    /// # Panics
    /// When nobody greets.
    #[must_use]
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("the process listens");
        stream.set_read_timeout(Some(SOON)).expect("a socket takes a timeout");
        let mut client = RawClient { reader: BufReader::new(stream) };
        assert!(client.answer()["QMP"].is_object(), "a greeting comes first");
        client
    }

    /// As [`RawClient::connect`], and negotiates.
    ///
    /// # Panics
    /// When nobody greets or the negotiation fails.
    #[must_use]
    pub fn negotiated(path: &Path) -> Self {
        let mut client = Self::connect(path);
        client.send(br#"{"execute": "qmp_capabilities"}"#);
        assert!(client.answer()["return"].is_object(), "the negotiation succeeds");
        client
    }

    /// Sends bytes and the end of a line.
    ///
    /// # Panics
    /// When the connection is closed.
    pub fn send(&mut self, bytes: &[u8]) {
        let stream = self.reader.get_mut();
        stream.write_all(bytes).and_then(|()| stream.write_all(b"\n")).expect("the process takes a request");
    }

    /// Sends bytes and no end of a line.
    ///
    /// # Panics
    /// When the connection is closed.
    pub fn send_piece(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).expect("the process takes a piece of a request");
    }

    /// Sends a line if the process takes one within a second.
    #[must_use]
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        let stream = self.reader.get_mut();
        stream.set_write_timeout(Some(Duration::from_secs(1))).expect("a socket takes a timeout");
        stream.write_all(bytes).and_then(|()| stream.write_all(b"\n")).is_ok()
    }

    /// The next answer; events are skipped.
    ///
    /// # Panics
    /// When none comes, or it is no JSON.
    pub fn answer(&mut self) -> Value {
        loop {
            let value = self.value();
            if value.get("event").is_none() {
                return value;
            }
        }
    }

    /// The next event; answers are skipped.
    ///
    /// # Panics
    /// When none comes, or it is no JSON.
    pub fn event(&mut self) -> Value {
        loop {
            let value = self.value();
            if value.get("event").is_some() {
                return value;
            }
        }
    }

    fn value(&mut self) -> Value {
        let mut line = String::new();
        let taken = self.reader.read_line(&mut line).expect("an answer comes in time");
        assert_ne!(taken, 0, "the connection stays open");
        serde_json::from_str(&line).expect("what comes is JSON")
    }
}

/// Tries each, on one connection.
pub fn rows(lab: &Lab) -> Vec<Row> {
    let ferry = lab.start(&Spec::new().name("qmp"));
    let mut rows = vec![];
    let mut early = RawClient::connect(ferry.qmp_path());
    early.send(br#"{"execute": "query-status"}"#);
    let input = r#"{"execute": "query-status"} before qmp_capabilities"#;
    rows.push(Row::new(lab, "QMP", input, &error(&early.answer()), "CommandNotFound"));

    let mut client = RawClient::negotiated(ferry.qmp_path());
    for (request, expected) in CASES {
        client.send(request.as_bytes());
        rows.push(Row::new(lab, "QMP", *request, &error(&client.answer()), expected));
        client.send(br#"{"execute": "query-status", "id": "still here"}"#);
        assert_eq!(client.answer()["id"], "still here", "the connection goes on after {request}");
    }
    let invalid = [b"{\"execute\": \"", &[0xc0, 0x80][..], b"\"}"].concat();
    let stray = b"{\"execute\": \xff".to_vec();
    let deep = "[".repeat(100_000);
    let long = format!(r#"{{"execute": "{}"}}"#, "x".repeat(1 << 20));
    for (what, request, expected) in [
        ("a request that is no UTF-8", invalid, "GenericError"),
        ("a byte that no JSON text holds", stray, "stray byte 0xff"),
        ("100000 nested arrays", deep.into_bytes(), "GenericError"),
        ("a request of a MiB", long.into_bytes(), "GenericError"),
    ] {
        let mut client = RawClient::negotiated(ferry.qmp_path());
        client.send(&request);
        rows.push(Row::new(lab, "QMP", what, &error(&client.answer()), expected));
    }
    rows
}

fn error(answer: &Value) -> String {
    match answer.get("error") {
        Some(error) => format!("{}: {}", error["class"].as_str().unwrap_or("?"), error["desc"].as_str().unwrap_or("?")),
        None => format!("accepted: {answer}"),
    }
}
