//! `ferry migrate` against a server of the test's own.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use clap::Parser;
use ferry_migration::Parameters;
use ferry_migration::parameters::{Compression, DiskSharing};
use ferry_qmp::Server;
use ferry_qmp::mock::Mock;
use tempfile::TempDir;

use super::*;

const SOON: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    options: Options,
}

/// A mock process, and the command that migrates it.
struct Fixture {
    mock: Arc<Mock>,
    signals: Sender<Signal>,
    command: thread::JoinHandle<Result<(), CliError>>,
    _server: Server,
    _dir: TempDir,
}

/// Begins `ferry migrate`, and returns when the migration has begun.
fn begin(arguments: &[&str], no_cancel: Option<&'static str>) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp");
    let mock = Mock::new();
    mock.state().no_cancel = no_cancel;
    let server = Server::start(&path, mock.clone(), &mock.events).unwrap();
    let (signals, received) = channel();
    let qmp = format!("unix:{}", path.display());
    let all = ["migrate", "--qmp", &qmp, "--to", "unix:nowhere"].into_iter().chain(arguments.iter().copied());
    let options = Command::try_parse_from(all).unwrap().options;
    let command = thread::spawn(move || migrate(&options, || received));
    let deadline = Instant::now() + SOON;
    while mock.state().migrations.is_empty() {
        assert!(Instant::now() < deadline && !command.is_finished(), "the migration never began");
        thread::yield_now();
    }
    Fixture { mock, signals, command, _server: server, _dir: dir }
}

/// The parameters that the first migration was given, over the defaults.
fn own_parameters(mock: &Mock) -> Parameters {
    mock.state().own[0].parameters.over(&Parameters::default())
}

impl Fixture {
    fn end(self, status: Status, reason: Option<&str>) -> (Result<(), String>, Arc<Mock>) {
        let mut state = self.mock.state();
        state.info.status = Some(status);
        state.info.error_desc = reason.map(str::to_owned);
        drop(state);
        (self.command.join().unwrap().map_err(|error| error.to_string()), self.mock)
    }
}

#[test]
fn parameters_are_set_and_the_source_goes_when_the_guest_has_moved() {
    let fixture = begin(&["--downtime-limit=20", "--max-bandwidth=1M", "--no-rehearsal"], None);
    let parameters = own_parameters(&fixture.mock);
    assert_eq!((parameters.downtime_limit, parameters.max_bandwidth, parameters.rehearsal), (20, 1 << 20, false));
    assert_eq!(fixture.mock.state().own[0].capabilities, []);
    assert_eq!(fixture.mock.state().parameters, Parameters::default(), "the process's own are as they were");
    let to = std::env::current_dir().unwrap().join("nowhere");
    assert_eq!(fixture.mock.state().migrations, [Endpoint::Unix(to)]);
    let (outcome, mock) = fixture.end(Status::Completed, None);
    assert_eq!((outcome, mock.state().quits), (Ok(()), 1));
    let (outcome, mock) = begin(&["--keep-source"], None).end(Status::Completed, None);
    assert_eq!((outcome, mock.state().quits), (Ok(()), 0));
}

#[test]
fn capabilities_go_with_the_migration() {
    let mock = begin(&["--auto-converge", "--mode=postcopy"], None).end(Status::Completed, None).1;
    let on = [(Capability::PostcopyRam, true), (Capability::AutoConverge, true)];
    assert_eq!(mock.state().own[0].capabilities, on);
    assert_eq!(mock.state().capabilities, []);
}

#[test]
fn a_migration_that_is_refused_has_set_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp");
    let mock = Mock::new();
    mock.state().no_migration = Some("a migration is going on already");
    let _server = Server::start(&path, mock.clone(), &mock.events).unwrap();
    let qmp = format!("unix:{}", path.display());
    let asked = ["--max-rounds=1", "--channels=4", "--mode=postcopy", "--local", "--handshake=pong"];
    let all = ["migrate", "--qmp", &qmp, "--to", "tcp:h:1"].into_iter().chain(asked);
    let options = Command::try_parse_from(all).unwrap().options;
    let refused = migrate(&options, || channel().1).unwrap_err().to_string();
    assert_eq!(refused, "migrate: a migration is going on already");
    assert_eq!(mock.state().parameters, Parameters::default());
    assert_eq!(mock.state().capabilities, []);
}

#[test]
fn pages_are_compressed_when_asked_for() {
    for (asked, compression) in [("none", Compression::None), ("lz4", Compression::Lz4)] {
        let fixture = begin(&[&format!("--compression={asked}")], None);
        assert_eq!(own_parameters(&fixture.mock).compression, compression);
        fixture.end(Status::Completed, None).0.unwrap();
    }
}

#[test]
fn local_is_for_one_migration_only() {
    let fixture = begin(&["--local"], None);
    assert!(own_parameters(&fixture.mock).local);
    assert!(!fixture.mock.state().parameters.local, "the next may go to another host");
    assert!(fixture.end(Status::Failed, Some("the destination refused")).0.is_err());
}

#[test]
fn a_copied_disk_is_for_one_migration_only() {
    let fixture = begin(&["--disk-copied"], None);
    assert_eq!(own_parameters(&fixture.mock).disk, DiskSharing::Copied);
    assert_eq!(fixture.mock.state().parameters.disk, DiskSharing::Shared, "the next may be another disk");
    assert!(fixture.end(Status::Failed, Some("the destination refused")).0.is_err());
}

#[test]
fn a_failure_is_told_with_its_reason_and_the_source_stays() {
    let (outcome, mock) = begin(&[], None).end(Status::Failed, Some("fault/0: told to fail in load"));
    assert_eq!(outcome.unwrap_err(), "the migration failed: fault/0: told to fail in load");
    assert_eq!(mock.state().quits, 0);
}

#[test]
fn a_signal_cancels_and_so_does_a_timeout() {
    let fixture = begin(&[], None);
    fixture.signals.send(Signal(libc::SIGINT)).unwrap();
    let cancelled = "the migration was cancelled; the guest is still here";
    assert_eq!(fixture.command.join().unwrap().unwrap_err().to_string(), cancelled);
    let timed_out = begin(&["--timeout=1"], None).command.join().unwrap();
    assert_eq!(timed_out.unwrap_err().to_string(), cancelled);
}

#[test]
fn when_a_cancel_is_refused_a_second_signal_leaves_and_a_timeout_says_why() {
    let fixture = begin(&[], Some("the permit is out"));
    for _ in 0..2 {
        fixture.signals.send(Signal(libc::SIGTERM)).unwrap();
    }
    let left = fixture.command.join().unwrap().unwrap_err().to_string();
    assert_eq!(left, "left on a second SIGTERM; the migration goes on");
    let timed_out = begin(&["--timeout=1"], Some("the permit is out")).command.join().unwrap();
    assert!(timed_out.unwrap_err().to_string().ends_with("cannot be cancelled: the permit is out"));
}
