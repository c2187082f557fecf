//! A small synchronous QMP client: for `ferry migrate`, `ferry status`, `ferry demo`, and for
//! tests.
//!
//! Every wait has a deadline. Events that arrive while a reply is awaited are kept until the
//! caller asks for them.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ferry_link::unix_socket;
use ferry_migration::MigrationInfo;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::framing::Framer;

/// Bytes in one value from a server at most.
const MAX_VALUE: usize = 4 << 20;
/// Events kept at most; older ones are dropped.
const MAX_EVENTS: usize = 4096;
/// Between two attempts to reach a server that does not listen yet.
const RETRY: Duration = Duration::from_millis(5);

/// How long a client reads the data that a process has sent before it closed the connection.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why a conversation with a server failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No server answers at the path.
    #[error("QMP socket {}: cannot connect; is the process running, with --qmp unix:{}?", path.display(), path.display())]
    Connect {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Something awaited from the server did not arrive in time.
    #[error("QMP socket {}: {awaited} did not come within {} ms", path.display(), timeout.as_millis())]
    Timeout {
        /// The path.
        path: PathBuf,
        /// What was awaited.
        awaited: String,
        /// For how long.
        timeout: Duration,
    },
    /// The server closed the connection: its process ended.
    #[error("QMP socket {}: {why} before {awaited} came", path.display())]
    Closed {
        /// The path.
        path: PathBuf,
        /// What was awaited.
        awaited: String,
        /// What ended, as far as the process has reported.
        why: &'static str,
    },
    /// The connection broke.
    #[error("QMP socket {}: cannot {what}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The data received is not QMP.
    #[error("QMP socket {}: {why}; is this a QMP server?", path.display())]
    Protocol {
        /// The path.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The server refused the command.
    #[error("{command}: {desc}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's error class.
        class: String,
        /// The server's text.
        desc: String,
    },
}

/// The other end has closed the connection.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// A connection that has negotiated.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
    framer: Framer,
    events: VecDeque<Value>,
    timeout: Duration,
    last_id: u64,
}

impl Client {
    /// Connects to the server at `path` and negotiates. Every reply, here and later, may take
    /// `timeout`.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let stream = unix_socket::connect(path).map(UnixStream::from);
        let stream = stream.map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        let framer = Framer::new(MAX_VALUE);
        let mut client = Client { stream, path: path.to_owned(), framer, events: VecDeque::new(), timeout, last_id: 0 };
        let greeting = client.receive(Instant::now() + timeout, "the greeting")?;
        if greeting.get("QMP").is_none() {
            return Err(client.protocol(format!("'{greeting}' in place of a greeting")));
        }
        client.execute("qmp_capabilities", json!({}))?;
        Ok(client)
    }

    /// As [`Client::connect`], to a process that may still be starting: tries again until `timeout`
    /// has passed, or `lives` reports that the process has ended.
    pub fn connect_when_up(
        path: &Path,
        timeout: Duration,
        mut lives: impl FnMut() -> bool,
    ) -> Result<Self, ClientError> {
        let deadline = Instant::now() + timeout;
        loop {
            match Self::connect(path, timeout) {
                Err(ClientError::Connect { .. }) if Instant::now() < deadline && lives() => thread::sleep(RETRY),
                outcome => return outcome,
            }
        }
    }

    /// Sends a command and waits for its return value.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, ClientError> {
        self.last_id += 1;
        let id = Value::from(self.last_id);
        let request = json!({ "execute": command, "arguments": arguments, "id": id });
        let timeout = self.timeout;
        self.stream.set_write_timeout(Some(timeout)).map_err(|e| self.io("set a timeout", e))?;
        let awaited = format!("the reply to '{command}'");
        match self.stream.write_all(format!("{request}\n").as_bytes()) {
            Err(error) if is_gone(&error) => return Err(self.closed(&awaited)),
            sent => sent.map_err(|error| self.io("send a command", error))?,
        }
        let deadline = Instant::now() + timeout;
        loop {
            let mut value = self.receive(deadline, &awaited)?;
            if value.get("event").is_some() {
                self.keep(value);
            } else if value.get("id").and_then(Value::as_u64).is_some_and(|of| of < self.last_id) {
                tracing::debug!(%value, "a late reply to a command that was given up");
            } else if value.get("id") != Some(&id) {
                return Err(self.protocol(format!("'{value}' in place of {awaited}")));
            } else if let Some(error) = value.get("error") {
                let text = |name: &str| error[name].as_str().unwrap_or("unnamed").to_owned();
                return Err(ClientError::Refused { command: command.into(), class: text("class"), desc: text("desc") });
            } else {
                return Ok(value["return"].take());
            }
        }
    }

    /// As [`Client::execute`], without arguments, with the reply as a `T`.
    pub fn query<T: DeserializeOwned>(&mut self, command: &str) -> Result<T, ClientError> {
        let value = self.execute(command, json!({}))?;
        serde_json::from_value(value).map_err(|error| self.protocol(format!("the reply to '{command}': {error}")))
    }

    /// `query-migrate`.
    pub fn query_migrate(&mut self) -> Result<MigrationInfo, ClientError> {
        self.query("query-migrate")
    }

    /// The next event of this name, among those kept and those to come; events before it are
    /// dropped.
    pub fn wait_event(&mut self, name: &str, timeout: Duration) -> Result<Value, ClientError> {
        let deadline = Instant::now() + timeout;
        loop {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.receive(deadline, &format!("the event {name}")).map_err(|error| match error {
                    ClientError::Timeout { path, awaited, .. } => ClientError::Timeout { path, awaited, timeout },
                    other => other,
                })?,
            };
            if event["event"] == name {
                return Ok(event);
            }
        }
    }

    /// All events that were kept, and all that a process has still sent before it ended, oldest
    /// first. Ends with the connection, or after `timeout`.
    pub fn last_events(&mut self, timeout: Duration) -> Vec<Value> {
        let deadline = Instant::now() + timeout;
        while let Ok(value) = self.receive(deadline, "the end of the connection") {
            if value.get("event").is_some() {
                self.keep(value);
            }
        }
        self.take_events()
    }

    /// All events that were kept, oldest first. Does not wait.
    pub fn take_events(&mut self) -> Vec<Value> {
        self.events.drain(..).collect()
    }

    fn keep(&mut self, event: Value) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn receive(&mut self, deadline: Instant, awaited: &str) -> Result<Value, ClientError> {
        let mut buffer = [0; 16 << 10];
        loop {
            if let Some(text) = self.framer.next_value() {
                let text = text.map_err(|error| self.protocol(error.to_string()))?;
                return serde_json::from_slice(&text).map_err(|error| self.protocol(error.to_string()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (path, timeout) = (self.path.clone(), self.timeout);
                return Err(ClientError::Timeout { path, awaited: awaited.to_owned(), timeout });
            }
            self.stream.set_read_timeout(Some(left)).map_err(|error| self.io("set a timeout", error))?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(self.ended(awaited)),
                Ok(count) => self.framer.push(&buffer[..count]),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_gone(&e) => return Err(self.ended(awaited)),
                Err(error) => return Err(self.io("receive", error)),
            }
        }
    }

    /// The process does not read any more: the events that it has sent give the reason.
    fn closed(&mut self, awaited: &str) -> ClientError {
        let deadline = Instant::now() + LAST_WORDS;
        loop {
            match self.receive(deadline, awaited) {
                Ok(value) if value.get("event").is_some() => self.keep(value),
                Ok(_) => {}
                Err(_) => return self.ended(awaited),
            }
        }
    }

    /// The connection has ended.
    fn ended(&self, awaited: &str) -> ClientError {
        let why = match self.events.iter().rev().find(|event| event["event"] == "SHUTDOWN") {
            Some(event) if event["data"]["guest"] == true => "the guest has shut down, and its process ended",
            Some(_) => "the process was told to quit, and ended",
            None => "the process ended",
        };
        ClientError::Closed { path: self.path.clone(), awaited: awaited.to_owned(), why }
    }

    fn io(&self, what: &'static str, source: io::Error) -> ClientError {
        ClientError::Io { path: self.path.clone(), what, source }
    }

    fn protocol(&self, why: String) -> ClientError {
        ClientError::Protocol { path: self.path.clone(), why }
    }
}
