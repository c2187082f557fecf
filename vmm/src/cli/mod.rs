//! The `ferry` command: its arguments, its output, and its exit status.
//!
//! Exit status 0: the guest shut down or was handed over, the command succeeded. 1: an error,
//! printed in one line with its causes. 2: bad usage, with what would be right.

mod demo;
mod migrate;
mod progress;
mod report;
mod resolve;
mod run;
mod status;
mod style;
mod summary;
mod units;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use ferry_link::endpoint::Endpoint;
use ferry_observe::causes;
use ferry_qmp::client::ClientError;
use tracing_subscriber::EnvFilter;

use crate::{panics, signals, stderr};

/// How long a QMP server may take to answer: it answers at all times, so this is generous.
const QMP_TIMEOUT: Duration = Duration::from_secs(10);

/// A small KVM VMM that moves a running guest to another process, without losing it and without
/// running it twice.
#[derive(Parser, Debug)]
#[command(name = "ferry", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    /// What to log on standard error, for example `info` or `ferry=debug`; default is
    /// $FERRY_LOG, or `warn`
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a guest, or wait for one to arrive
    Run(Box<run::Options>),
    /// Move a guest to another process and show how it goes
    Migrate(migrate::Options),
    /// Show a process's guest and its migration
    Status(status::Options),
    /// Say who owns a guest of which that is uncertain
    Resolve(resolve::Options),
    /// Make a page of a run of the fault matrix, or of a traced migration
    Report(report::Options),
    /// The whole story on one machine, with nothing to prepare
    Demo(demo::Options),
}

/// Entry of the `ferry` command.
pub(crate) fn main() -> ExitCode {
    let _flush = stderr::FlushAtExit;
    panics::tell();
    signals::ignore_file_size();
    match Cli::try_parse() {
        Ok(cli) => run_command(&cli),
        // Help and the version are results; wrong usage is reported on standard error.
        Err(told) => match told.print() {
            Err(error) if !told.use_stderr() && error.kind() != io::ErrorKind::BrokenPipe => failed(&unprinted(error)),
            _ => ExitCode::from(told.exit_code() as u8),
        },
    }
}

fn run_command(cli: &Cli) -> ExitCode {
    let outcome = start_log(cli.log.as_deref()).and_then(|()| match &cli.command {
        Command::Run(options) => run::run(options),
        Command::Migrate(options) => migrate::run(options),
        Command::Status(options) => status::run(options),
        Command::Resolve(options) => resolve::run(options),
        Command::Report(options) => report::run(options),
        Command::Demo(options) => demo::run(options),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &CliError) -> ExitCode {
    stderr::say(format_args!("ferry: {error}"));
    error.exit_code()
}

/// Why a command failed: one line, with the causes.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// Something failed.
    #[error("{0}")]
    Failed(String),
    /// The command line is invalid.
    #[error("{0}")]
    Usage(String),
}

impl CliError {
    /// `what`, because of `why`.
    fn failed(what: &str, why: impl std::error::Error) -> Self {
        CliError::Failed(format!("{what}: {}", causes(&why)))
    }

    /// What `error` and its causes say.
    fn because(error: impl std::error::Error) -> Self {
        CliError::Failed(causes(&error))
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            CliError::Failed(_) => ExitCode::from(1),
            CliError::Usage(_) => ExitCode::from(2),
        }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        CliError::Failed(causes(&error))
    }
}

/// Prints the result of a command, without which it has failed. A pipe closed by its reader is not
/// a failure.
fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    let printed = writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush());
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(unprinted(error)),
        _ => Ok(()),
    }
}

fn unprinted(error: io::Error) -> CliError {
    CliError::failed("the result cannot be written to standard output", error)
}

/// Prints a text beside the result. The command succeeds even if this text is lost.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{}", text.trim_end_matches('\n'));
}

fn start_log(filter: Option<&str>) -> Result<(), CliError> {
    let from_environment = std::env::var("FERRY_LOG").ok();
    let text = filter.or(from_environment.as_deref()).unwrap_or("warn");
    let filter = EnvFilter::try_new(text).map_err(|error| {
        CliError::Usage(format!(
            "log filter '{text}': {error}; write a level (error, warn, info, debug, trace) or TARGET=LEVEL"
        ))
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr::Log::default).with_ansi(false);
    // A line that cannot be formatted must not end the thread that logs.
    log.log_internal_errors(false).init();
    Ok(())
}

/// `unix:PATH` of a QMP socket.
fn qmp_path(text: &str) -> Result<PathBuf, String> {
    match text.parse::<Endpoint>() {
        Ok(Endpoint::Unix(path)) => Ok(path),
        Ok(Endpoint::Tcp { .. }) => Err("QMP is spoken on Unix sockets only; write unix:PATH".into()),
        Err(error) if text.starts_with("unix:") => Err(error.to_string()),
        Err(_) => Err(format!("'{text}' is no Unix socket; write unix:PATH")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_qmp_path_says_what_would_be_right() {
        assert_eq!(qmp_path("unix:/tmp/q").unwrap(), PathBuf::from("/tmp/q"));
        for text in ["/tmp/q", "tcp:h:1"] {
            assert!(qmp_path(text).unwrap_err().ends_with("write unix:PATH"), "{text}");
        }
        assert!(qmp_path("unix:").unwrap_err().contains("path is empty"));
    }
}
