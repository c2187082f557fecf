//! A `ferry run` process under test: its QMP socket, its serial output, its end.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ferry_observe::causes;
use ferry_qmp::client::{Client, ClientError};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::lab::{Lab, binary};
use crate::wait::{SOON, poll, wait_for, wait_until};
use crate::{Spec, migration, procfs};

/// Lines of each file that a failed test shows.
const SHOWN_LINES: usize = 25;

/// How a destination says where it listens.
const LISTENING: &str = "listening on ";

/// Tells the files of processes apart.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// A running process. Killed, reaped, and shown if the test has failed, when it is dropped.
#[derive(Debug)]
pub struct Ferry {
    child: Child,
    stdin: Option<ChildStdin>,
    label: String,
    qmp: PathBuf,
    serial: PathBuf,
    stderr: PathBuf,
    client: Client,
    events: Vec<Value>,
    status: Option<ExitStatus>,
    /// The directory of its files, the last to go.
    _directory: Arc<TempDir>,
}

impl Ferry {
    /// Starts a process and waits until it answers on its QMP socket. Migration events are
    /// switched on.
    ///
    /// # Panics
    /// When it ends or does not answer in time.
    #[must_use]
    pub fn start(lab: &Lab, spec: &Spec) -> Self {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        Self::start_as(lab, spec, format!("{}-{number}", spec.name))
    }

    /// As [`Ferry::start`], with the label, and so the files, of a process that has ended.
    ///
    /// # Panics
    /// As [`Ferry::start`].
    #[must_use]
    pub fn start_as(lab: &Lab, spec: &Spec, label: String) -> Self {
        let file = |kind: &str| lab.path(&format!("{label}.{kind}"));
        let (qmp, serial, stderr) = (file("qmp"), file("serial"), file("stderr"));
        let create = |path: &Path| File::create(path).expect("a file of the test can be made");
        let stdout = if spec.console { Stdio::from(create(&serial)) } else { Stdio::null() };
        let mut child = Command::new(binary())
            .args(spec.arguments(&qmp, &serial))
            .env("FERRY_LOG", std::env::var("FERRY_TEST_LOG").unwrap_or_else(|_| "warn".into()))
            .stdin(if spec.console { Stdio::piped() } else { Stdio::null() })
            .stdout(stdout)
            .stderr(create(&stderr))
            .spawn()
            .expect("the ferry binary can be started");
        lab.has_started(&label, child.id());
        let client = connect(&mut child, &qmp, &stderr);
        let stdin = child.stdin.take();
        let mut ferry = Ferry {
            child,
            stdin,
            label,
            qmp,
            serial,
            stderr,
            client,
            events: vec![],
            status: None,
            _directory: lab.keep(),
        };
        let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
        ferry.qmp("migrate-set-capabilities", events);
        ferry
    }

    /// Executes a command that must succeed.
    ///
    /// # Panics
    /// When it is refused or not answered.
    pub fn qmp(&mut self, command: &str, arguments: Value) -> Value {
        self.try_qmp(command, arguments).unwrap_or_else(|error| panic!("{}: {}", self.label, causes(&error)))
    }

    /// Executes a command.
    ///
    /// # Errors
    /// What the process, or the socket, answered.
    pub fn try_qmp(&mut self, command: &str, arguments: Value) -> Result<Value, ClientError> {
        let result = self.client.execute(command, arguments);
        self.events.extend(self.client.take_events());
        result
    }

    /// Executes a command that must be refused, and returns the error's text.
    ///
    /// # Panics
    /// When it is accepted or not answered.
    pub fn refused(&mut self, command: &str, arguments: Value) -> String {
        match self.try_qmp(command, arguments) {
            Err(ClientError::Refused { desc, .. }) => desc,
            other => panic!("{}: {command} was to be refused, and got {other:?}", self.label),
        }
    }

    /// The run state, as `query-status` shows it.
    pub fn run_state(&mut self) -> String {
        self.qmp("query-status", json!({}))["status"].as_str().expect("a run state is a string").to_owned()
    }

    /// Waits for a run state.
    ///
    /// # Panics
    /// When it does not come in time.
    pub fn wait_run_state(&mut self, wanted: &str) {
        let what = format!("{} to be {wanted}", self.label);
        wait_until(&what, SOON, || (self.run_state() == wanted).then_some(()));
    }

    /// Events so far, oldest first.
    pub fn events(&mut self) -> &[Value] {
        // Any reply brings the events that were sent before it.
        self.qmp("query-status", json!({}));
        &self.events
    }

    /// Events that have been read so far, or of a process that has ended all that it sent. Asks
    /// the process nothing.
    pub fn known_events(&mut self) -> &[Value] {
        if self.exit_status().is_some() {
            self.events.extend(self.client.last_events(SOON));
        }
        &self.events
    }

    /// Waits until an event of this name has come, and returns the first.
    ///
    /// # Panics
    /// When it does not come in time.
    pub fn wait_event(&mut self, name: &str) -> Value {
        let what = format!("event {name} of {}", self.label);
        wait_until(&what, SOON, || self.events().iter().find(|event| event["event"] == name).cloned())
    }

    /// Waits for an event that a process sends as it ends, when it answers no more.
    ///
    /// # Panics
    /// When it does not come.
    pub fn wait_last_event(&mut self, name: &str) -> Value {
        if let Some(event) = self.events.iter().find(|event| event["event"] == name) {
            return event.clone();
        }
        self.client.wait_event(name, SOON).unwrap_or_else(|error| panic!("{}: {error}", self.label))
    }

    /// Forgets the events so far.
    pub fn forget_events(&mut self) {
        self.events();
        self.events.clear();
    }

    /// Where a destination listens, as `tcp:HOST:PORT` or `unix:PATH`.
    ///
    /// # Panics
    /// When it says nothing in time.
    #[must_use]
    pub fn wait_listening(&self) -> String {
        let what = format!("{} to say where it listens", self.label);
        wait_until(&what, SOON, || {
            // A line without its end is still being written.
            let text = self.stderr();
            let line = text.split_inclusive('\n').find(|line| line.starts_with(LISTENING) && line.ends_with('\n'))?;
            Some(line[LISTENING.len()..].trim().to_owned())
        })
    }

    /// Where a destination listens now, as `query-migrate` shows it.
    ///
    /// # Panics
    /// When it listens nowhere.
    pub fn listening_at(&mut self) -> String {
        let info = self.qmp("query-migrate", json!({}));
        let address = &info["socket-address"][0];
        let text = |member: &str| address[member].as_str().map(str::to_owned);
        match (text("path"), text("host"), text("port")) {
            (Some(path), ..) => format!("unix:{path}"),
            (_, Some(host), Some(port)) => format!("tcp:{host}:{port}"),
            _ => panic!("{} listens nowhere: {info}", self.label),
        }
    }

    /// Types into the guest's serial port; the machine was started with [`Spec::console`].
    ///
    /// # Panics
    /// When the process takes no input.
    pub fn type_in(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("the machine has its serial port on standard input");
        stdin.write_all(text.as_bytes()).expect("the process takes input");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a process that is not reaped takes signals");
    }

    /// Sends every vCPU's thread the signal that gets it out of KVM, without a reason for it.
    ///
    /// # Panics
    /// When the process has no such thread.
    pub fn signal_vcpus(&self) {
        let threads = procfs::threads(self.pid(), "vcpu-");
        assert!(!threads.is_empty(), "{} has no vCPU", self.label);
        for thread in threads {
            // SAFETY: the call takes plain numbers; a thread that has ended is an error without
            // effect.
            unsafe { libc::syscall(libc::SYS_tgkill, self.pid(), thread, libc::SIGRTMIN()) };
        }
    }

    /// Stops the process, as a hung host does; returns when none of its threads runs any more.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let what = format!("all threads of {} to stand still", self.label);
        wait_until(&what, SOON, || procfs::is_stopped(self.pid()).then_some(()));
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it, and waits for its end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_exit(SOON);
    }

    /// Waits for the process's end and returns its exit status; -N when signal N killed it.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn wait_exit(&mut self, within: Duration) -> i32 {
        let what = format!("{} to end", self.label);
        let status = wait_until(&what, within, || self.exit_status());
        status.code().unwrap_or_else(|| -status.signal().unwrap_or(0))
    }

    /// The exit status, if the process has ended.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("a child can be waited for");
        }
        self.status
    }

    /// Sends `quit` and expects a clean end.
    ///
    /// # Panics
    /// When the process does not end in time with status 0.
    pub fn quit(&mut self) {
        // The process may end before it answers.
        let _ = self.try_qmp("quit", json!({}));
        assert_eq!(self.wait_exit(SOON), 0, "{} ends cleanly after quit", self.label);
    }

    /// What the process has written to its standard error.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// The file with the serial output.
    #[must_use]
    pub fn serial(&self) -> &Path {
        &self.serial
    }

    /// The path of the QMP socket.
    #[must_use]
    pub fn qmp_path(&self) -> &Path {
        &self.qmp
    }

    /// The process's id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How the process is called in messages.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What the ownership record says, as this process shows it.
    ///
    /// # Panics
    /// When the process does not answer.
    pub fn ownership(&mut self) -> Value {
        self.qmp("x-ferry-query-ownership", json!({}))
    }

    /// Waits until the record names this process in this generation, with no migration under way.
    ///
    /// # Panics
    /// When it does not come to say so in time.
    pub fn wait_settled(&mut self, generation: u64) {
        let what = format!("the record to name {} in generation {generation}", self.label);
        wait_for(&what, SOON, || {
            let now = self.ownership();
            now["owned-here"] == true && now["settled"] == true && now["generation"] == generation
        });
    }

    /// Statuses of the migration, from its events, up to the status that it has now.
    ///
    /// # Panics
    /// When the event of the present status does not come in time.
    pub fn migration_statuses(&mut self) -> Vec<String> {
        let what = format!("the event of {}'s present migration status", self.label);
        wait_until(&what, SOON, || {
            let present = self.migration().status.map(|status| status.as_str());
            let statuses = migration::statuses(self.events());
            (statuses.last().map(String::as_str) == present).then_some(statuses)
        })
    }

    fn show(&self) {
        let tail = |path: &Path| {
            let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
            let lines: Vec<_> = text.lines().collect();
            lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
        };
        eprintln!("--- {}: exit {:?}; standard error ends:\n{}", self.label, self.status, tail(&self.stderr));
        eprintln!("--- {}: serial output ends:\n{}\n---", self.label, tail(&self.serial));
    }
}

impl Drop for Ferry {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Its state before it is killed says more.
            let _ = self.exit_status();
            self.show();
        }
        if self.status.is_none() {
            // Gone already is what is wanted.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn connect(child: &mut Child, qmp: &Path, stderr: &Path) -> Client {
    let text = || std::fs::read_to_string(stderr).unwrap_or_default();
    let answered = poll(SOON, || {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            panic!("ferry ended before it answered on QMP ({status}): {}", text());
        }
        Client::connect(qmp, SOON).ok()
    });
    answered.unwrap_or_else(|| {
        let stands = procfs::where_it_stands(child.id());
        // Gone already is what is wanted.
        let _ = child.kill();
        let _ = child.wait();
        let within = SOON.as_millis();
        panic!("waited {within} ms in vain for an answer on {} ({stands}): {}", qmp.display(), text())
    })
}
