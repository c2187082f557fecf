//! One VMM process: started, spoken to over QMP, killed and reaped when it is dropped or when the
//! bench itself dies.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ferry_qmp::client::{Client, ClientError};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::error::BenchError;
use crate::machine::Guest;
use crate::peer::{Console, Peer, Role};

/// How long a process may take to answer.
const ANSWER: Duration = Duration::from_secs(20);
/// How long a process that has closed its socket may take to end.
const REAP: Duration = Duration::from_secs(2);
/// Between two looks at a process that tells nobody when it is done.
const POLL: Duration = Duration::from_millis(5);
/// How much of a process's standard error an error shows.
const SHOWN_BYTES: usize = 400;

/// A child that does not outlive its handle, nor the thread that started it.
#[derive(Debug)]
pub(crate) struct Reaped(pub Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // Gone already is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a command whose process dies with this thread.
pub(crate) fn spawn(mut command: Command) -> Result<Reaped, BenchError> {
    // SAFETY: between fork and exec only this one system call is made, which touches no memory of
    // this process.
    unsafe {
        command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let what = format!("start {}", command.get_program().display());
    command.spawn().map(Reaped).map_err(BenchError::system(what))
}

/// A process that answers on its QMP socket.
#[derive(Debug)]
pub(crate) struct Process {
    child: Reaped,
    label: String,
    serial: PathBuf,
    stderr: PathBuf,
    client: Client,
}

impl Process {
    /// Starts one, with its files in `directory`, and waits until it answers.
    pub(crate) fn start(peer: &Peer, guest: &Guest, role: Role, directory: &Path) -> Result<Self, BenchError> {
        let label = match role {
            Role::Source => format!("{} (source)", peer.name()),
            Role::Destination => format!("{} (destination)", peer.name()),
        };
        let file = |kind: &str| directory.join(format!("{role:?}.{kind}"));
        let (qmp, serial, stderr, kernel) = (file("qmp"), file("serial"), file("stderr"), directory.join("kernel"));
        // What an earlier process of this role has left would be taken for this one's.
        let _ = (std::fs::remove_file(&qmp), std::fs::remove_file(&serial));
        std::fs::write(&kernel, ferry_guest::ELF).map_err(BenchError::system("write the guest's kernel"))?;
        let errors = File::create(&stderr).map_err(BenchError::system("make a file"))?;
        let mut command = peer.command(guest, role, Console::File(&serial), &qmp, &kernel);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        let mut child = spawn(command)?;
        let client = Client::connect_when_up(&qmp, ANSWER, || matches!(child.0.try_wait(), Ok(None)))
            .map_err(|_| silent(&mut child, &label, &stderr))?;
        let mut process = Process { child, label, serial, stderr, client };
        process.switch_on(&["events"])?;
        Ok(process)
    }

    /// Switches migration capabilities on.
    pub(crate) fn switch_on(&mut self, capabilities: &[&str]) -> Result<(), BenchError> {
        let on = |name: &&str| json!({ "capability": name, "state": true });
        let on: Vec<_> = capabilities.iter().map(on).collect();
        self.execute("migrate-set-capabilities", json!({ "capabilities": on })).map(drop)
    }

    /// Executes a QMP command.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, BenchError> {
        self.client.execute(command, arguments).map_err(|source| self.spoken(source))
    }

    /// Lets a destination listen on a free port of loopback. Capabilities must be set before.
    /// Returns a URI for `migrate`.
    pub(crate) fn listen(&mut self) -> Result<String, BenchError> {
        self.execute("migrate-incoming", json!({ "uri": "tcp:127.0.0.1:0" }))?;
        let deadline = Instant::now() + ANSWER;
        loop {
            let reply = self.execute("query-migrate", json!({}))?;
            if let Some(port) = reply["socket-address"][0]["port"].as_str() {
                return Ok(format!("tcp:127.0.0.1:{port}"));
            }
            if Instant::now() >= deadline {
                return Err(self.lacks("socket-address", &reply));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Lets a destination listen at this URI, and returns it.
    pub(crate) fn listen_at(&mut self, uri: &str) -> Result<String, BenchError> {
        self.execute("migrate-incoming", json!({ "uri": uri }))?;
        Ok(uri.to_owned())
    }

    /// Waits until this round begins.
    pub(crate) fn wait_round(&mut self, round: u64, within: Duration) -> Result<(), BenchError> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.client.wait_event("MIGRATION_PASS", left).map_err(|source| self.spoken(source))?;
            if event["data"]["pass"].as_u64().is_some_and(|pass| pass >= round) {
                return Ok(());
            }
        }
    }

    /// Waits for the end of the migration that goes on here, and returns `query-migrate`.
    pub(crate) fn wait_completed(&mut self, within: Duration) -> Result<Value, BenchError> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.client.wait_event("MIGRATION", left).map_err(|source| self.spoken(source))?;
            let status = event["data"]["status"].as_str().unwrap_or_default();
            if matches!(status, "completed" | "failed" | "cancelled" | "uncertain" | "postcopy-paused") {
                break;
            }
        }
        let mut info = self.execute("query-migrate", json!({}))?;
        // QEMU shows the end before it has added up the time that it took.
        while info["total-time"] == 0 && Instant::now() < deadline {
            std::thread::sleep(POLL);
            info = self.execute("query-migrate", json!({}))?;
        }
        match info["status"].as_str() {
            Some("completed") => Ok(info),
            status => Err(BenchError::Migration {
                process: self.label.clone(),
                status: status.unwrap_or("nothing").to_owned(),
                reason: info["error-desc"].as_str().unwrap_or("no reason given").to_owned(),
            }),
        }
    }

    /// A number of a reply, by its path of names.
    pub(crate) fn number(&self, reply: &Value, path: &[&str]) -> Result<u64, BenchError> {
        let found = path.iter().try_fold(reply, |value, name| value.get(name)).and_then(Value::as_u64);
        found.ok_or_else(|| self.lacks(&path.join("."), reply))
    }

    /// Why a conversation failed: a process that crashed is told from one that answers with an
    /// error.
    fn spoken(&mut self, source: ClientError) -> BenchError {
        let deadline = Instant::now() + REAP;
        let broken = matches!(source, ClientError::Closed { .. } | ClientError::Io { .. });
        while broken && Instant::now() < deadline {
            if !matches!(self.child.0.try_wait(), Ok(None)) {
                return silent(&mut self.child, &self.label, &self.stderr);
            }
            std::thread::sleep(POLL);
        }
        BenchError::Qmp { process: self.label.clone(), source }
    }

    fn lacks(&self, field: &str, reply: &Value) -> BenchError {
        BenchError::Reply { process: self.label.clone(), field: field.to_owned(), reply: reply.to_string() }
    }

    /// How it is called in errors.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// The file with its guest's serial output.
    pub(crate) fn serial(&self) -> &Path {
        &self.serial
    }

    /// That something did not happen in time, or that the process has ended meanwhile.
    pub(crate) fn late(&mut self, what: &str, within: Duration) -> BenchError {
        match self.child.0.try_wait() {
            Ok(None) => BenchError::Late { what: format!("{what} under {}", self.label), seconds: within.as_secs() },
            _ => silent(&mut self.child, &self.label, &self.stderr),
        }
    }
}

fn silent(child: &mut Reaped, label: &str, stderr: &Path) -> BenchError {
    let status = match child.0.try_wait() {
        Ok(Some(status)) => status.to_string(),
        _ => "it runs".to_owned(),
    };
    let said = std::fs::read(stderr).unwrap_or_default();
    let end = &said[said.len().saturating_sub(SHOWN_BYTES)..];
    BenchError::Process { process: label.to_owned(), status, stderr: String::from_utf8_lossy(end).trim().to_owned() }
}
