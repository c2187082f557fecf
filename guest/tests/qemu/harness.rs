//! Runs the guest under QEMU and reads its lines. Only the tests beside it call this.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ferry_guest::{Line, ParseError, Workload, parse_line};

/// For everything that is waited for: generous, because the machine may be busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running guest. Dropping it ends QEMU and removes its files.
pub(crate) struct Guest {
    qemu: Child,
    stdin: ChildStdin,
    lines: Receiver<Result<Line, ParseError>>,
    seen: Vec<Line>,
    directory: PathBuf,
}

/// What a guest is started with.
#[derive(Default)]
pub(crate) struct Setup {
    pub name: &'static str,
    pub memory_mib: u32,
    pub workload: Workload,
    /// Goes behind the workload's command line.
    pub more_cmdline: &'static str,
    pub disk: Option<Disk>,
}

/// A disk of zeros.
#[derive(Clone, Copy)]
pub(crate) struct Disk {
    pub read_only: bool,
}

impl Guest {
    /// Starts a guest. `None`, and a line that says why, where QEMU or KVM is missing.
    pub(crate) fn start(setup: &Setup) -> Option<Guest> {
        if let Err(error) = Command::new("qemu-system-x86_64").arg("--version").stdout(Stdio::null()).status() {
            eprintln!("skipped: qemu-system-x86_64 does not start: {error}");
            return None;
        }
        if let Err(error) = fs::File::options().read(true).write(true).open("/dev/kvm") {
            eprintln!("skipped: /dev/kvm cannot be opened: {error}");
            return None;
        }
        let directory = std::env::temp_dir().join(format!("ferry-guest-{}-{}", std::process::id(), setup.name));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("guest.elf"), ferry_guest::ELF).unwrap();
        let mut qemu = command(setup, &directory).spawn().unwrap();
        let stdin = qemu.stdin.take().unwrap();
        let output = BufReader::new(qemu.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                eprintln!("{line}");
                if parse_line(&line).transpose().is_some_and(|parsed| sender.send(parsed).is_err()) {
                    return;
                }
            }
        });
        Some(Guest { qemu, stdin, lines, seen: Vec::new(), directory })
    }

    /// Waits for a line that `wanted` makes something of.
    pub(crate) fn wait_for<T>(&mut self, what: &str, wanted: impl Fn(&Line) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|error| panic!("no {what}: {error}")).unwrap();
            let found = wanted(&line);
            self.seen.push(line);
            if let Some(found) = found {
                return found;
            }
        }
    }

    /// Types a command into the guest's serial port.
    pub(crate) fn type_in(&mut self, command: &str) {
        self.stdin.write_all(command.as_bytes()).unwrap();
        self.stdin.flush().unwrap();
    }

    /// Waits until QEMU ends. Returns its exit status and all lines.
    pub(crate) fn end(mut self) -> (i32, Vec<Line>) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.qemu.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "QEMU does not end");
            std::thread::yield_now();
            self.drain(Duration::from_millis(10));
        };
        // The reader ends with the output, so this does not wait long.
        self.drain(PATIENCE);
        (status.code().unwrap(), std::mem::take(&mut self.seen))
    }

    /// Where the disk's content is.
    pub(crate) fn disk_path(&self) -> PathBuf {
        self.directory.join("disk")
    }

    /// Overwrites guest memory behind the guest's back, through QEMU's debug port.
    pub(crate) fn overwrite(&self, address: u64, bytes: &[u8]) {
        let mut port = UnixStream::connect(self.directory.join("gdb")).unwrap();
        port.set_read_timeout(Some(PATIENCE)).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(exchange(&mut port, &format!("M{address:x},{:x}:{hex}", bytes.len())), "OK");
        assert_eq!(exchange(&mut port, "D"), "OK");
    }

    fn drain(&mut self, patience: Duration) {
        while let Ok(line) = self.lines.recv_timeout(patience) {
            self.seen.push(line.unwrap());
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn command(setup: &Setup, directory: &Path) -> Command {
    let path = |name: &str| directory.join(name).display().to_string();
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-M", "microvm,x-option-roms=off,pit=on,pic=off,rtc=off,acpi=off", "-accel", "kvm", "-cpu", "host"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .args(["-device", "isa-debug-exit,iobase=0x501,iosize=2", "-global", "virtio-mmio.force-legacy=false"])
        .args(["-m", &setup.memory_mib.to_string(), "-smp", &setup.workload.cpus.to_string()])
        .args(["-gdb", &format!("unix:{},server=on,wait=off", path("gdb")), "-kernel", &path("guest.elf")])
        .args(["-append", &format!("{} {}", setup.workload.to_cmdline(), setup.more_cmdline)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    if let Some(disk) = setup.disk {
        fs::write(path("disk"), vec![0; 4 << 20]).unwrap();
        let read_only = if disk.read_only { "on" } else { "off" };
        let drive = format!("id=d,file={},format=raw,if=none,readonly={read_only}", path("disk"));
        command.args(["-drive", &drive, "-device", "virtio-blk-device,drive=d"]);
    }
    command
}

/// Sends a packet of the debugger's remote protocol and returns the answer.
fn exchange(port: &mut UnixStream, packet: &str) -> String {
    let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
    port.write_all(format!("+${packet}#{sum:02x}").as_bytes()).unwrap();
    loop {
        let answer = receive(port);
        // That the guest stopped is said unasked.
        if !answer.starts_with('T') {
            return answer;
        }
    }
}

fn receive(port: &mut UnixStream) -> String {
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"#") {
        port.read_exact(&mut byte).unwrap();
        match byte[0] {
            b'+' => {}
            b'$' => answer.clear(),
            other => answer.push(other),
        }
    }
    answer.pop();
    // The checksum is not needed on a local socket.
    port.read_exact(&mut [0; 2]).unwrap();
    String::from_utf8(answer).unwrap()
}
