//! `ferry migrate`: moves a guest through its process's QMP socket, shows the progress, and reports
//! the result.
//!
//! Everything it does is plain QMP that any client could send; the migrating process does not
//! depend on it.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use ferry_link::endpoint::Endpoint;
use ferry_migration::parameters::BULK_LINKS_MAX;
use ferry_migration::parameters::Capability;
use ferry_migration::{Handshake, MigrationInfo, Status};
use ferry_qmp::client::{Client, ClientError};
use serde_json::{Map, Value, json};

use super::progress::Progress;
use super::style::Style;
use super::{CliError, QMP_TIMEOUT, qmp_path, say, summary, units};
use crate::signals::{Signal, Signals};

/// Between two queries of the migration.
const POLL: Duration = Duration::from_millis(50);
/// How long an accepted cancel may take to complete.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(30);

/// The options of `ferry migrate`.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// QMP socket of the process that runs the guest
    #[arg(long, value_name = "unix:PATH", value_parser = qmp_path)]
    qmp: PathBuf,
    /// Where the destination listens
    #[arg(long, value_name = "tcp:HOST:PORT|unix:PATH")]
    to: Endpoint,
    /// Send all memory before the guest moves, or let it run at the destination while the rest
    /// follows
    #[arg(long, value_name = "precopy|postcopy", value_enum)]
    mode: Option<Mode>,
    /// When postcopy begins: after the first round, when rounds no longer pay, or at once
    #[arg(long, value_name = "first-round|no-progress|at-once", value_enum, requires = "mode")]
    postcopy_when: Option<When>,
    /// Slow a guest down that writes faster than the link carries, more and more, until the rounds
    /// converge
    #[arg(long)]
    auto_converge: bool,
    /// Hand the memory over as a whole to a process on this host, without copying a page: for a
    /// newer ferry under a running guest
    #[arg(long)]
    local: bool,
    /// The destination's disk image is not this one but a copy, which you have made equal and keep
    /// for this guest alone
    #[arg(long)]
    disk_copied: bool,
    /// Reconnect a paused postcopy of this process
    #[arg(
        long,
        conflicts_with_all = [
            "mode", "local", "auto_converge", "downtime_limit", "max_rounds", "on_limit", "no_rehearsal", "handshake",
            "channels", "compression", "disk_copied"
        ]
    )]
    resume: bool,
    /// What ends the switchover; auto is owned where there is an ownership record, else setup
    #[arg(long, value_name = "auto|none|pong|setup|owned", value_parser = ["auto", "none", "pong", "setup", "owned"])]
    handshake: Option<String>,
    /// Longest downtime to aim for, in milliseconds
    #[arg(long, value_name = "MS")]
    downtime_limit: Option<u64>,
    /// Limit for page data, in bytes a second, from 64K; K, M and G are understood, and 0 is no
    /// limit
    #[arg(long, value_name = "BYTES", value_parser = units::parse_bandwidth)]
    max_bandwidth: Option<u64>,
    /// Connections that share the pages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=BULK_LINKS_MAX.into()))]
    channels: Option<u8>,
    /// Compress pages, for a link that is slower than a core
    #[arg(long, value_name = "none|lz4", value_parser = ["none", "lz4"])]
    compression: Option<String>,
    /// Rounds after which precopy stops waiting to converge
    #[arg(long, value_name = "N")]
    max_rounds: Option<u64>,
    /// What happens then: fail, or switch over however long the downtime
    #[arg(long, value_name = "fail|switch", value_parser = ["fail", "switch"])]
    on_limit: Option<String>,
    /// Do not try the device state on the destination while the guest still runs
    #[arg(long)]
    no_rehearsal: bool,
    /// Cancel when the migration takes longer, in seconds
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: Option<u64>,
    /// Leave the source process there when the guest has moved
    #[arg(long)]
    keep_source: bool,
}

/// How the memory is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Precopy,
    Postcopy,
}

/// When postcopy begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum When {
    FirstRound,
    NoProgress,
    AtOnce,
}

/// Runs `ferry migrate`.
pub(super) fn run(options: &Options) -> Result<(), CliError> {
    let signals = Signals::take().map_err(|error| CliError::failed("cannot watch for signals", error))?;
    migrate(options, || signals.messages())
}

/// `signals` is called when there is a migration that they may cancel; before that they end the
/// command.
fn migrate(options: &Options, signals: impl FnOnce() -> Receiver<Signal>) -> Result<(), CliError> {
    let mut client = Client::connect(&options.qmp, QMP_TIMEOUT)?;
    let to = for_anyone(&options.to)?.to_string();
    let info = begin_and_watch(options, &to, &mut client, &signals())?;
    match info.status.unwrap_or_default() {
        Status::Completed => {
            say(&summary::completed(&info, &options.to, Style::stdout()));
            if !options.keep_source {
                client.execute("quit", json!({}))?;
            }
            Ok(())
        }
        Status::PostcopyPaused => Err(CliError::Failed(format!(
            "the postcopy is paused: {}; unless it is lost, the guest runs on at the destination until it needs a page from here. Reconnect with: \
             ferry migrate --resume --qmp unix:{} --to {}",
            reason(&info).split(';').next().unwrap_or_default(),
            options.qmp.display(),
            options.to
        ))),
        Status::Uncertain => Err(CliError::Failed(format!(
            "it is uncertain who owns the guest: {}. See ferry status on both sides, then: ferry resolve --help",
            reason(&info)
        ))),
        Status::Cancelled => Err(CliError::Failed("the migration was cancelled; the guest is still here".into())),
        status => Err(CliError::Failed(format!("the migration {}: {}", outcome(status), reason(&info)))),
    }
}

fn begin_and_watch(
    options: &Options,
    to: &str,
    client: &mut Client,
    signals: &Receiver<Signal>,
) -> Result<MigrationInfo, CliError> {
    client.execute("migrate", options.arguments(to))?;
    if options.postcopy_when == Some(When::AtOnce) {
        client.execute("migrate-start-postcopy", json!({}))?;
    }
    let patience = options.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let watch = Watch { client, signals, interrupted: false, patience, cancelled_by: None };
    watch.until_end()
}

impl Options {
    /// The arguments of QMP `migrate`: the settings from the command line go with it, so that a
    /// refused command changes nothing and the next migration begins with the process's own values.
    fn arguments(&self, to: &str) -> Value {
        let mut all = Map::from_iter([("uri".to_owned(), to.into()), ("resume".to_owned(), self.resume.into())]);
        let (parameters, capabilities) = (self.parameters(), self.capabilities());
        if !parameters.is_empty() {
            all.insert("x-ferry-parameters".to_owned(), parameters.into());
        }
        if !capabilities.is_empty() {
            all.insert("x-ferry-capabilities".to_owned(), capabilities.into());
        }
        all.into()
    }

    /// Capabilities from the command line, on or off.
    fn capabilities(&self) -> Vec<Value> {
        let postcopy = self.mode.map(|mode| (Capability::PostcopyRam, mode == Mode::Postcopy));
        let multifd = self.channels.map(|channels| (Capability::Multifd, channels > 1));
        let auto_converge = self.auto_converge.then_some((Capability::AutoConverge, true));
        let asked = [postcopy, multifd, auto_converge].into_iter().flatten();
        asked.map(|(capability, state)| json!({ "capability": capability, "state": state })).collect()
    }

    /// Parameters from the command line; the others keep the process's values.
    fn parameters(&self) -> Map<String, Value> {
        let rehearsal = self.no_rehearsal.then_some(false);
        let when = match (self.mode, self.postcopy_when) {
            (None, _) => None,
            (Some(Mode::Precopy), _) | (_, Some(When::AtOnce)) => Some("manual"),
            (Some(Mode::Postcopy), None | Some(When::FirstRound)) => Some("first-round"),
            (Some(Mode::Postcopy), Some(When::NoProgress)) => Some("no-progress"),
        };
        let all: [(&str, Option<Value>); 11] = [
            ("x-ferry-postcopy-when", when.map(Value::from)),
            ("x-ferry-handshake", self.handshake.clone().map(Value::from)),
            ("downtime-limit", self.downtime_limit.map(Value::from)),
            ("max-bandwidth", self.max_bandwidth.map(Value::from)),
            ("multifd-channels", self.channels.map(Value::from)),
            ("x-ferry-compression", self.compression.clone().map(Value::from)),
            ("x-ferry-max-rounds", self.max_rounds.map(Value::from)),
            ("x-ferry-on-limit", self.on_limit.clone().map(Value::from)),
            ("x-ferry-rehearsal", rehearsal.map(Value::from)),
            ("x-ferry-local", self.local.then_some(Value::from(true))),
            ("x-ferry-disk", self.disk_copied.then_some(Value::from("copied"))),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

/// The address with an absolute path: the process may have another working directory.
fn for_anyone(to: &Endpoint) -> Result<Endpoint, CliError> {
    match to {
        Endpoint::Unix(path) => std::path::absolute(path)
            .map(Endpoint::Unix)
            .map_err(|error| CliError::failed(&format!("the path of {to} cannot be made absolute"), error)),
        Endpoint::Tcp { .. } => Ok(to.clone()),
    }
}

fn outcome(status: Status) -> &'static str {
    if status == Status::Failed { "failed" } else { "ended in a way that it should not" }
}

fn reason(info: &MigrationInfo) -> &str {
    info.error_desc.as_deref().unwrap_or("the process gave no reason")
}

/// Follows a migration to its end, cancelling it on request.
struct Watch<'a> {
    client: &'a mut Client,
    signals: &'a Receiver<Signal>,
    /// The operator has requested a cancel by a signal.
    interrupted: bool,
    /// When `--timeout` expires.
    patience: Option<Instant>,
    /// By when an accepted cancel must have completed.
    cancelled_by: Option<Instant>,
}

impl Watch<'_> {
    fn until_end(mut self) -> Result<MigrationInfo, CliError> {
        let mut progress = Progress::new();
        loop {
            let info = self.client.query_migrate()?;
            let status = info.status.unwrap_or_default();
            // Neither goes on by itself, except where the ownership record is asked again.
            let waits_for_operator = status == Status::PostcopyPaused
                || (status == Status::Uncertain && info.x_ferry_handshake != Some(Handshake::Owned));
            if !status.is_active() || waits_for_operator {
                return Ok(info);
            }
            progress.show(&info);
            self.check_deadlines(&progress)?;
            match self.signals.recv_timeout(POLL) {
                Ok(signal) if self.interrupted => {
                    return Err(CliError::Failed(format!("left on a second {}; the migration goes on", signal.name())));
                }
                Ok(signal) => {
                    self.interrupted = true;
                    if let Err(refused) = self.cancel(&progress, signal.name())? {
                        progress.note(&format!("not cancelled: {refused}"));
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    fn check_deadlines(&mut self, progress: &Progress) -> Result<(), CliError> {
        if self.cancelled_by.is_some_and(|by| Instant::now() >= by) {
            let seconds = CANCEL_TIMEOUT.as_secs();
            return Err(CliError::Failed(format!(
                "the cancel was accepted, but the migration goes on {seconds} s later"
            )));
        }
        if self.patience.take_if(|patience| Instant::now() >= *patience).is_some() {
            let why = "it takes longer than --timeout allows";
            if let Err(refused) = self.cancel(progress, why)? {
                return Err(CliError::Failed(format!("{why}, and it cannot be cancelled: {refused}")));
            }
        }
        Ok(())
    }

    /// Cancels; the inner error is the process's refusal.
    fn cancel(&mut self, progress: &Progress, why: &str) -> Result<Result<(), String>, CliError> {
        match self.client.execute("migrate_cancel", json!({})) {
            Ok(_) => {
                progress.note(&format!("cancelling: {why}"));
                self.cancelled_by = Some(Instant::now() + CANCEL_TIMEOUT);
                Ok(Ok(()))
            }
            Err(ClientError::Refused { desc, .. }) => Ok(Err(desc)),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
