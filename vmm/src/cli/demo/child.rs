//! One `ferry run` of the demo: started from this very binary, controlled by QMP, killed when
//! dropped.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use ferry_migration::{MigrationInfo, Status};
use ferry_qmp::client::Client;
use ferry_record::OwnershipInfo;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::{Value, json};

use super::stage::Stage;
use crate::cli::{CliError, QMP_TIMEOUT};
use crate::signals;

/// A running `ferry run`.
#[derive(Debug)]
pub(super) struct FerryRun {
    name: &'static str,
    child: Child,
    log: PathBuf,
    /// Its QMP connection.
    pub client: Client,
    /// What its guest prints.
    pub serial: PathBuf,
}

impl FerryRun {
    /// Starts a process with its files in `dir`, and waits until it answers.
    pub(super) fn start(dir: &Path, name: &'static str, arguments: &[String]) -> Result<Self, CliError> {
        let file = |kind: &str| dir.join(format!("{name}.{kind}"));
        let (qmp, serial, log) = (file("qmp"), file("serial"), file("log"));
        let mut child = spawn(&qmp, &serial, &log, arguments)
            .map_err(|error| CliError::failed("cannot start a process of this binary", error))?;
        match Client::connect_when_up(&qmp, QMP_TIMEOUT, || matches!(child.try_wait(), Ok(None))) {
            Ok(client) => {
                let mut run = FerryRun { name, child, log, client, serial };
                let events = json!([{ "capability": "events", "state": true }]);
                run.client.execute("migrate-set-capabilities", json!({ "capabilities": events }))?;
                Ok(run)
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(CliError::Failed(last_line(&log).unwrap_or_else(|| error.to_string())))
            }
        }
    }

    /// Where it listens for an incoming migration, as a URI.
    pub(super) fn listens_at(&mut self) -> Result<String, CliError> {
        let info = self.client.execute("query-migrate", json!({}))?;
        let address = &info["socket-address"][0];
        match (address["host"].as_str(), address["port"].as_str()) {
            (Some(host), Some(port)) => Ok(format!("tcp:{host}:{port}")),
            _ => Err(CliError::Failed(format!("{} does not say where it listens: {info}", self.name))),
        }
    }

    /// Its name: the first process, the second.
    #[must_use]
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// The statuses that its migration has passed through since events were last taken, as one
    /// line.
    pub(super) fn statuses(&mut self) -> Result<String, CliError> {
        // A reply comes after the events that happened before it.
        self.client.query_migrate()?;
        let events = self.client.take_events();
        let of_event = |event: &Value| event["data"]["status"].as_str().map(str::to_owned);
        let migration = events.iter().filter(|event| event["event"] == "MIGRATION");
        Ok(migration.filter_map(of_event).collect::<Vec<_>>().join(" → "))
    }

    /// The ownership record, as this process sees it.
    pub(super) fn ownership(&mut self) -> Result<OwnershipInfo, CliError> {
        Ok(self.client.query("x-ferry-query-ownership")?)
    }

    /// Waits until this destination has every page, and returns its account of the migration.
    pub(super) fn ended_well(&mut self, stage: &mut Stage) -> Result<MigrationInfo, CliError> {
        stage.wait_until("the destination's last page", |_| {
            Ok(Some(self.client.query_migrate()?).filter(|info| info.status == Some(Status::Completed)))
        })
    }

    /// How the process ended, once it did.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>, CliError> {
        self.child.try_wait().map_err(|error| CliError::failed("cannot ask for a process's end", error))
    }

    /// The last line that the process printed, without the program's name.
    #[must_use]
    pub(super) fn last_words(&self) -> String {
        let line = last_line(&self.log).unwrap_or_else(|| "nothing".into());
        line.strip_prefix("ferry: ").map(str::to_owned).unwrap_or(line)
    }
}

impl Drop for FerryRun {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(qmp: &Path, serial: &Path, log: &Path, arguments: &[String]) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("run");
    command.arg("--qmp").arg(format!("unix:{}", qmp.display()));
    command.arg("--serial").arg(format!("file:{}", serial.display()));
    command.args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(log)?);
    // Ctrl-C is for the demo, which then ends its processes in its own order.
    command.process_group(0);
    // SAFETY: the closure runs between fork and exec and makes system calls only, which are
    // async-signal-safe.
    unsafe {
        // Even a demo that is killed outright leaves no process behind.
        command.pre_exec(|| {
            signals::reset_in_child()?;
            Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
        });
    }
    command.spawn()
}

fn last_line(log: &Path) -> Option<String> {
    fs::read_to_string(log).ok()?.lines().rfind(|line| !line.trim().is_empty()).map(str::to_owned)
}
