//! The edges of the process: files that are another's, limits, output that goes nowhere, signals,
//! a terminal, long paths.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use ferry_guest::Line;
use ferry_migration::Status;
use ferry_qmp::client::Client;
use ferry_tests::lab::binary;
use ferry_tests::wait::{wait_for, wait_until};
use ferry_tests::{Ferry, GuestLog, LONG, Lab, SOON, Spec, disk};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::json;

/// A process that is started by hand: killed and reaped when it is dropped.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        Process(command.spawn().expect("the process can be started"))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("a process that is not reaped takes signals");
    }

    fn wait(&mut self) -> ExitStatus {
        wait_until("the process to end", SOON, || self.0.try_wait().expect("a child can be waited for"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ferry(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).env_remove("FERRY_LOG").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn run(lab: &Lab, qmp: &str, more: &[&str]) -> Command {
    let qmp = format!("unix:{}", lab.path(qmp).display());
    let mut command = ferry(&["run", "--memory", "64M", "--qmp", &qmp]);
    command.args(more);
    command
}

/// Runs a command to its end, and returns its status and what it has told.
fn finish(lab: &Lab, command: &mut Command) -> (Option<i32>, String) {
    let log = lab.path("told");
    let mut process = Process::start(command.stderr(File::create(&log).unwrap()));
    let code = process.wait().code();
    (code, fs::read_to_string(&log).unwrap())
}

fn connect(path: &Path) -> Client {
    wait_until("an answer on the QMP socket", SOON, || Client::connect(path, SOON).ok())
}

fn is_running(client: &mut Client) -> bool {
    client.execute("query-status", json!({})).expect("QMP answers")["status"] == "running"
}

#[test]
fn the_image_of_a_running_guest_is_no_log() {
    let Some(lab) = Lab::new() else { return };
    let image = disk::image(&lab, "disk.img", 8 << 20);
    let guest = lab.start(&Spec::new().disk(&image));
    GuestLog::new(&guest, 1).wait_ready();
    let at = image.display().to_string();
    for (option, value) in [("--serial", format!("file:{at}")), ("--trace", at.clone())] {
        let serial: &[&str] = if option == "--trace" { &["--serial", "null"] } else { &[] };
        let (code, told) = finish(&lab, run(&lab, "other.qmp", serial).args([option, &value]));
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains("another process has locked it") && told.contains(&at), "{told}");
        assert_eq!(fs::metadata(&image).unwrap().len(), 8 << 20, "{option} left the image as it was");
    }
}

#[test]
fn a_serial_log_is_appended_to() {
    let Some(lab) = Lab::new() else { return };
    let log = lab.path("both.serial");
    fs::write(&log, "what was there before\n").unwrap();
    let mut first = Ferry::start_as(&lab, &Spec::new(), "both".into());
    wait_for("the guest's own lines", SOON, || fs::read_to_string(&log).unwrap().contains("ferry ready"));
    first.quit();
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.starts_with("what was there before\nferry boot"), "{text}");
}

fn limit_files(ferry: &Ferry, bytes: u64) {
    let pid = Pid::from_raw(ferry.pid() as i32);
    let limit = Rlimit { current: Some(bytes), maximum: None };
    prlimit(pid, Resource::Fsize, limit).expect("a child's limit can be lowered");
}

#[test]
fn a_serial_log_that_may_not_grow_ends_no_guest() {
    let Some(lab) = Lab::new() else { return };
    let mut ferry = lab.start(&Spec::new());
    // Standard error is a file as well, and stays below this.
    limit_files(&ferry, 8 << 10);
    wait_for("the word that the log fails", LONG, || ferry.stderr().contains("serial output failed"));
    assert_eq!(ferry.run_state(), "running");
    assert!(ferry.stderr().contains("File too large"), "{}", ferry.stderr());
    ferry.quit();
}

#[test]
fn a_disk_that_may_not_be_written_gives_the_guest_an_error() {
    let Some(lab) = Lab::new() else { return };
    let image = disk::image(&lab, "disk.img", 8 << 20);
    let mut ferry = lab.start(&Spec::new().disk(&image).paused());
    let mut guest = GuestLog::new(&ferry, 1);
    guest.accept_faults();
    limit_files(&ferry, 64 << 10);
    ferry.qmp("cont", json!({}));
    let failed = |line: &Line| match line {
        Line::Error(_) => true,
        Line::Report(report) => report.errors > 0,
        _ => false,
    };
    guest.wait("a failed disk request", LONG, |log| log.lines().iter().any(failed).then_some(()));
    assert_eq!(ferry.run_state(), "running");
    ferry.quit();
}

#[test]
fn standard_error_that_takes_nothing_ends_nothing() {
    let Some(lab) = Lab::new() else { return };
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let more = ["--serial", "null", "--incoming", "tcp:127.0.0.1:0", "--log", "trace"];
    let mut process = Process::start(run(&lab, "a.qmp", &more).stderr(full()));
    let mut client = connect(&lab.path("a.qmp"));
    let listening = || client.execute("query-migrate", json!({})).unwrap()["socket-address"].is_array().then_some(());
    wait_until("the process to listen", SOON, listening);
    client.execute("quit", json!({})).unwrap();
    assert_eq!(process.wait().code(), Some(0));
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let Some(lab) = Lab::new() else { return };
    let guest = lab.start(&Spec::new());
    let qmp = format!("unix:{}", guest.qmp_path().display());
    for arguments in [&["status", "--qmp", &qmp][..], &["status", "--json", "--qmp", &qmp], &["--help"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (code, told) = finish(&lab, ferry(arguments).stdout(full));
        assert_eq!(code, Some(1), "{arguments:?}: {told}");
        assert!(told.contains("the result cannot be written to standard output: No space left"), "{told}");
    }
}

/// A pipe that takes no byte more.
fn full_pipe() -> (io::PipeReader, io::PipeWriter) {
    let (reader, mut writer) = io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'.'; 512]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    (reader, writer)
}

#[test]
fn a_reader_of_the_log_that_stops_stops_no_migration() {
    let Some(lab) = Lab::new() else { return };
    let (mut reader, writer) = full_pipe();
    let more = ["--serial", "null", "--log", "trace"];
    let mut process = Process::start(run(&lab, "a.qmp", &more).stderr(writer));
    let mut client = connect(&lab.path("a.qmp"));
    let destination = lab.start_destination(&Spec::new());
    client.execute("migrate", json!({ "uri": destination.wait_listening() })).unwrap();
    wait_until("the end of the migration", LONG, || {
        let status = client.query_migrate().expect("QMP answers").status?;
        assert_ne!(status, Status::Failed);
        (status == Status::Completed).then_some(())
    });
    client.execute("quit", json!({})).unwrap();
    // The end of the process waits for the reader, but not for long.
    assert_eq!(process.wait().code(), Some(0));
    drop(process);
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert!(rest.starts_with(b"...."), "the pipe was full all the time");
}

/// By `SigIgn` of this process (proc(5)), which its children inherit.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("a process can read its own status");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("proc(5) has it");
    u64::from_str_radix(ignored.trim(), 16).expect("it is a mask") & 1 << (signal.as_raw() - 1) != 0
}

#[test]
fn a_signal_ends_a_process_whose_storage_hangs() {
    let Some(lab) = Lab::new() else { return };
    let image = disk::image(&lab, "disk.img", 1 << 20);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        // nohup(1) hands on that it ignores SIGHUP, and a shell's background that it ignores
        // SIGINT; Ferry leaves it so.
        if is_ignored(signal) {
            continue;
        }
        let more =
            ["--serial", "null", "--disk", &image.display().to_string(), "--device", "fault,at=disk:open,do=hang"];
        let mut process = Process::start(&mut run(&lab, "a.qmp", &more));
        let tasks = format!("/proc/{}/task", process.0.id());
        // The serial port is made before the disk.
        wait_for("the machine to be under way", SOON, || {
            let names = fs::read_dir(&tasks).into_iter().flatten().flatten();
            names
                .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
                .any(|name| name.starts_with("serial"))
        });
        process.signal(signal);
        assert_eq!(process.wait().signal(), Some(signal.as_raw()));
    }
}

#[test]
fn a_fifo_in_the_place_of_a_file_is_refused_by_name() {
    let Some(lab) = Lab::new() else { return };
    let fifo = lab.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let at = fifo.display().to_string();
    let serial = format!("file:{at}");
    let read_only = format!("{at},readonly");
    for more in [
        &["--serial", &serial][..],
        &["--serial", "null", "--trace", &at],
        &["--serial", "null", "--disk", &at, "--ownership", "none"],
        &["--serial", "null", "--disk", &read_only],
        &["--serial", "null", "--kernel", &at],
    ] {
        let (code, told) = finish(&lab, &mut run(&lab, "a.qmp", more));
        assert_eq!(code, Some(1), "{more:?}: {told}");
        assert!(told.contains(&at), "{told}");
    }
}

/// A new terminal: the side of its user, and the side of programs.
fn terminal() -> (File, OwnedFd) {
    let (mut user, mut program) = (-1, -1);
    let (name, modes, size) = (std::ptr::null_mut(), std::ptr::null(), std::ptr::null());
    // SAFETY: the descriptors are written, and null pointers stand for what is not wanted.
    let made = unsafe { libc::openpty(&raw mut user, &raw mut program, name, modes, size) };
    assert_eq!(made, 0, "{}", io::Error::last_os_error());
    // SAFETY: both descriptors are new and belong to no other value.
    unsafe { (File::from_raw_fd(user), OwnedFd::from_raw_fd(program)) }
}

fn is_raw(terminal: &impl AsFd) -> bool {
    let modes = rustix::termios::tcgetattr(terminal).expect("a terminal has modes").local_modes;
    !modes.contains(rustix::termios::LocalModes::ICANON)
}

#[test]
fn a_process_in_the_background_leaves_the_terminal_alone() {
    let Some(lab) = Lab::new() else { return };
    let (mut user, program) = terminal();
    let script = r#"set -m; "$@" & read -r line; echo "the shell has read $line"; fg >/dev/null; echo "status $?""#;
    let mut shell = Command::new("bash");
    let qmp = format!("unix:{}", lab.path("a.qmp").display());
    shell.args(["--norc", "-c", script, "bash"]).arg(binary()).args(["run", "--memory", "64M", "--qmp", &qmp]);
    let copy = || Stdio::from(program.try_clone().unwrap());
    shell.env_remove("FERRY_LOG").stdin(copy()).stdout(copy()).stderr(copy());
    // SAFETY: the closure makes system calls only, which are async-signal-safe.
    unsafe {
        // A session of its own, whose terminal this is.
        shell.pre_exec(|| {
            let led = libc::setsid() != -1 && libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) == 0;
            if led { Ok(()) } else { Err(io::Error::last_os_error()) }
        });
    }
    let mut shell = Process::start(&mut shell);
    let output = lab.path("terminal");
    let (mut screen, mut copy) = (user.try_clone().unwrap(), File::create(&output).unwrap());
    // Ends with the terminal.
    std::thread::spawn(move || io::copy(&mut screen, &mut copy));
    let shows = |text: &str| fs::read_to_string(&output).is_ok_and(|shown| shown.contains(text));

    let mut client = connect(&lab.path("a.qmp"));
    assert!(is_running(&mut client), "the process runs in the background");
    wait_for("the guest's output", SOON, || shows("ferry ready"));
    assert!(!is_raw(&user), "the terminal's settings are the shell's");
    user.write_all(b"word\n").unwrap();
    wait_for("the shell's answer", SOON, || shows("the shell has read word"));

    wait_for("raw mode in the foreground", SOON, || is_raw(&user));
    assert!(is_running(&mut client));
    // The key by which the user leaves.
    user.write_all(b"\x01x").unwrap();
    wait_for("the end of the process", SOON, || shows("status 0"));
    assert_eq!(shell.wait().code(), Some(0));
    assert!(!is_raw(&program), "the terminal is as it was");
}

#[test]
fn a_raw_disk_that_looks_like_another_format_boots_when_that_is_said() {
    let Some(lab) = Lab::new() else { return };
    let image = disk::image(&lab, "disk,1.img", 1 << 20);
    File::options().write(true).open(&image).unwrap().write_all(b"QFI\xfb\0\0\0\x03").unwrap();
    let path = image.display().to_string().replace(',', ",,");
    let (code, told) = finish(&lab, &mut run(&lab, "a.qmp", &["--serial", "null", "--disk", &path]));
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("holds a qcow2 image") && told.contains("format=raw"), "{told}");

    let spec = Spec { more: vec!["--disk".into(), format!("{path},format=raw")], ..Spec::new() };
    let mut ferry = lab.start(&spec);
    GuestLog::new(&ferry, 1).wait_ready();
    ferry.quit();
    // A guest that arrives brings a disk that was looked at where it was booted.
    let spec = Spec { more: vec!["--disk".into(), path], ..Spec::new() };
    lab.start_destination(&spec).quit();
}

#[test]
fn sockets_are_their_owners_alone_and_may_lie_deep() {
    let Some(lab) = Lab::new() else { return };
    let deep = lab.path(&"a-folder-with-a-long-name".repeat(4)).join("and-another-one".repeat(4));
    fs::create_dir_all(&deep).unwrap();
    let source = lab.start(&Spec::new());
    // A umask takes nothing away from the mode of the sockets.
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"umask 0; exec "$0" "$@""#]).arg(binary());
    shell.args(["run", "--memory", "64M", "--serial", "null", "--qmp", "unix:b.qmp", "--incoming", "unix:m.sock"]);
    shell.env_remove("FERRY_LOG").current_dir(&deep).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut destination = Process::start(&mut shell);
    wait_for("the migration socket", SOON, || deep.join("m.sock").exists());
    for socket in ["b.qmp", "m.sock"] {
        let mode = fs::symlink_metadata(deep.join(socket)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{socket}");
    }
    let qmp = format!("unix:{}", source.qmp_path().display());
    let (code, told) = finish(&lab, ferry(&["migrate", "--qmp", &qmp, "--to", "unix:m.sock"]).current_dir(&deep));
    assert_eq!(code, Some(0), "{told}");
    let mut client = connect(&deep.join("b.qmp"));
    wait_for("the guest to run here", SOON, || is_running(&mut client));
    client.execute("quit", json!({})).unwrap();
    assert_eq!(destination.wait().code(), Some(0));
}
