//! The shapes of QMP on the wire: greeting, request, reply, error, event (QEMU
//! `docs/interop/qmp-spec`).
//!
//! Connections read [`Request`]s and write the lines made here; nothing here depends on a command.

use std::time::UNIX_EPOCH;

use serde::Serialize;
use serde_json::{Map, Value, json};

use ferry_observe::causes;
use ferry_observe::events::{Event, Stamped};

/// QEMU's error classes that Ferry uses (`qapi/error.json`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ErrorClass {
    /// Everything without a class of its own.
    GenericError,
    /// The command does not exist, or not in this phase of the connection.
    CommandNotFound,
}

/// A refused request, as the client reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{desc}")]
pub struct CommandError {
    /// For programs.
    pub class: ErrorClass,
    /// For people.
    pub desc: String,
}

impl CommandError {
    /// An error without a class of its own.
    pub fn generic(desc: impl Into<String>) -> Self {
        CommandError { class: ErrorClass::GenericError, desc: desc.into() }
    }

    /// The command does not exist, or not in this phase of the connection.
    pub fn not_found(desc: impl Into<String>) -> Self {
        CommandError { class: ErrorClass::CommandNotFound, desc: desc.into() }
    }

    /// What `error` and its causes say, in one line.
    pub fn from_chain(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::generic(causes(error))
    }
}

/// A client's request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    /// The command's name.
    pub execute: String,
    /// Its arguments; empty when the client gave none.
    pub arguments: Map<String, Value>,
    /// Goes back unchanged with the reply.
    pub id: Option<Value>,
}

/// A request that cannot be read; the `id` is echoed if it could be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BadRequest {
    /// The request's `id`.
    pub id: Option<Value>,
    /// What is wrong with it.
    pub error: CommandError,
}

impl Request {
    /// Reads one JSON text, with QEMU's error texts (`qobject/json-parser.c`,
    /// `qapi/qmp-dispatch.c`).
    pub(crate) fn parse(text: &[u8]) -> Result<Self, BadRequest> {
        let bad = |id: Option<Value>, desc: String| BadRequest { id, error: CommandError::generic(desc) };
        let value = super::json::read(text).map_err(|e| bad(None, format!("JSON parse error, {e}")))?;
        let Value::Object(mut members) = value else {
            return Err(bad(None, "QMP input must be a JSON object".into()));
        };
        let id = members.remove("id");
        let execute = match members.remove("execute") {
            Some(Value::String(name)) => name,
            Some(_) => return Err(bad(id, "QMP input member 'execute' must be a string".into())),
            None => return Err(bad(id, "QMP input lacks member 'execute'".into())),
        };
        let arguments = match members.remove("arguments") {
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return Err(bad(id, "QMP input member 'arguments' must be an object".into())),
            None => Map::new(),
        };
        match members.keys().next() {
            Some(member) => Err(bad(id, format!("QMP input member '{member}' is unexpected"))),
            None => Ok(Request { execute, arguments, id }),
        }
    }
}

/// `query-version`, and part of the greeting: QEMU's shape, Ferry's numbers.
#[must_use]
pub(crate) fn version() -> Value {
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    json!({
        "qemu": {
            "major": number(env!("CARGO_PKG_VERSION_MAJOR")),
            "minor": number(env!("CARGO_PKG_VERSION_MINOR")),
            "micro": number(env!("CARGO_PKG_VERSION_PATCH")),
        },
        "package": concat!("ferry-", env!("CARGO_PKG_VERSION")),
    })
}

/// The first line of every connection.
#[must_use]
pub(crate) fn greeting() -> Vec<u8> {
    line(&json!({ "QMP": { "version": version(), "capabilities": [] } }))
}

/// The answer to a request.
#[must_use]
pub(crate) fn reply(id: Option<Value>, result: Result<Value, CommandError>) -> Vec<u8> {
    let mut members = Map::new();
    match result {
        Ok(value) => members.insert("return".into(), value),
        Err(error) => members.insert("error".into(), json!({ "class": error.class, "desc": error.desc })),
    };
    members.extend(id.map(|id| ("id".to_owned(), id)));
    line(&Value::Object(members))
}

/// An event, with QEMU's data (`qapi/run-state.json`, `qapi/migration.json`).
#[must_use]
pub(crate) fn event(stamped: &Stamped) -> Vec<u8> {
    let (name, data) = match &stamped.event {
        Event::Stop => ("STOP", None),
        Event::Resume => ("RESUME", None),
        Event::Shutdown { guest, reason } => ("SHUTDOWN", Some(json!({ "guest": guest, "reason": reason }))),
        Event::Reset { guest, reason } => ("RESET", Some(json!({ "guest": guest, "reason": reason }))),
        Event::Migration(status) => ("MIGRATION", Some(json!({ "status": status }))),
        Event::MigrationPass(pass) => ("MIGRATION_PASS", Some(json!({ "pass": pass }))),
    };
    let at = stamped.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut members = Map::new();
    members.insert("timestamp".into(), json!({ "seconds": at.as_secs(), "microseconds": at.subsec_micros() }));
    members.insert("event".into(), name.into());
    members.extend(data.map(|data| ("data".to_owned(), data)));
    line(&Value::Object(members))
}

fn line(value: &Value) -> Vec<u8> {
    format!("{value}\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ferry_migration::Status;

    use super::*;

    fn refused(text: &str) -> BadRequest {
        Request::parse(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_request_is_read_with_and_without_its_optional_members() {
        let request = Request::parse(br#"{"execute": "stop"}"#).unwrap();
        assert_eq!(request, Request { execute: "stop".into(), arguments: Map::new(), id: None });
        let request = Request::parse(br#"{"id": [1], "arguments": {"a": 1}, "execute": "x"}"#).unwrap();
        assert_eq!((request.id, request.arguments["a"].clone()), (Some(json!([1])), json!(1)));
    }

    #[test]
    fn a_bad_request_is_named_and_keeps_its_id() {
        for (text, desc, id) in [
            ("[]", "QMP input must be a JSON object", None),
            ("{\"id\": 4}", "QMP input lacks member 'execute'", Some(json!(4))),
            ("{\"execute\": 4, \"id\": \"x\"}", "QMP input member 'execute' must be a string", Some(json!("x"))),
            ("{\"execute\": \"a\", \"arguments\": []}", "QMP input member 'arguments' must be an object", None),
            ("{\"execute\": \"a\", \"exec-oob\": 1}", "QMP input member 'exec-oob' is unexpected", None),
        ] {
            assert_eq!(refused(text), BadRequest { id, error: CommandError::generic(desc) }, "{text}");
        }
        assert!(refused("{\"execute\": }").error.desc.starts_with("JSON parse error, "));
        let twice = refused(r#"{"execute": "query-status", "execute": "quit"}"#).error.desc;
        assert!(twice.starts_with("JSON parse error, duplicate key 'execute'"), "{twice}");
        let invalid = Request::parse(b"{\"execute\": \"\xff\"}").unwrap_err();
        assert!(invalid.error.desc.starts_with("JSON parse error, "), "{invalid:?}");
    }

    #[test]
    fn events_carry_qemus_data_and_the_time() {
        let at = UNIX_EPOCH + Duration::from_micros(3_000_004);
        let text = |event| String::from_utf8(super::event(&Stamped { event, at })).unwrap();
        let value = |event| serde_json::from_str::<Value>(&text(event)).unwrap();
        let timestamp = json!({ "seconds": 3, "microseconds": 4 });
        assert_eq!(value(Event::Stop), json!({ "event": "STOP", "timestamp": timestamp }));
        assert_eq!(
            value(Event::Migration(Status::Active)),
            json!({ "event": "MIGRATION", "data": { "status": "active" }, "timestamp": timestamp })
        );
        assert_eq!(
            value(Event::Shutdown { guest: true, reason: "guest-shutdown" })["data"],
            json!({ "guest": true, "reason": "guest-shutdown" })
        );
        assert_eq!(value(Event::MigrationPass(2))["data"], json!({ "pass": 2 }));
        assert!(text(Event::Resume).ends_with("}\r\n"));
    }
}
