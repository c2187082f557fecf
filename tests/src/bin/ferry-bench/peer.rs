//! What is measured: Ferry, and QEMU where it is installed. They differ in their command lines;
//! everything else is QMP.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Serialize, Serializer};

use crate::machine::Guest;

/// QEMU's `microvm` with what the embedded guest uses and nothing else.
const QEMU_MACHINE: &str = "microvm,x-option-roms=off,pit=on,pic=off,rtc=off";
const QEMU: &str = "qemu-system-x86_64";

/// A VMM that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// This project's.
    Ferry,
    /// The one that everybody knows.
    Qemu,
}

/// Who has values in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    /// This project.
    Ferry,
    /// QEMU.
    Qemu,
    /// QEMU's postcopy with a channel of its own for pages that are asked for.
    Preempt,
    /// What this host could do at best, with no VMM in the way.
    Limit,
}

impl Contender {
    /// Its name in tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Contender::Ferry => "ferry",
            Contender::Qemu => "QEMU",
            Contender::Preempt => "preempt",
            Contender::Limit => "limit",
        }
    }
}

impl Serialize for Contender {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A VMM on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Which one.
    pub kind: Kind,
    /// What it says of its version.
    pub version: String,
    program: PathBuf,
}

/// What a process is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Boots the guest.
    Source,
    /// Waits for it, and listens when it is told to.
    Destination,
}

/// Where a process's guest writes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Console<'a> {
    /// To a file.
    File(&'a Path),
    /// To the process's standard output.
    Stdout,
}

impl Peer {
    /// Ferry, which must have been built, and QEMU if it is installed and wanted.
    pub(crate) fn available(no_qemu: bool) -> Vec<Peer> {
        let program = ferry_tests::lab::binary();
        let mut peers = vec![Peer { kind: Kind::Ferry, version: version(&program).unwrap_or_default(), program }];
        if let Some(version) = version(Path::new(QEMU)).filter(|_| !no_qemu) {
            peers.push(Peer { kind: Kind::Qemu, version, program: QEMU.into() });
        }
        peers
    }

    /// Its name in tables.
    pub(crate) fn name(&self) -> &'static str {
        self.contender().name()
    }

    /// Whose values its are.
    pub(crate) fn contender(&self) -> Contender {
        match self.kind {
            Kind::Ferry => Contender::Ferry,
            Kind::Qemu => Contender::Qemu,
        }
    }

    /// The command that starts it. Guest kernels for QEMU come from `kernel`; Ferry has the same
    /// one built in.
    pub(crate) fn command(
        &self,
        guest: &Guest,
        role: Role,
        console: Console<'_>,
        qmp: &Path,
        kernel: &Path,
    ) -> Command {
        let mut command = Command::new(&self.program);
        match self.kind {
            Kind::Ferry => ferry(&mut command, guest, role, console, qmp),
            Kind::Qemu => qemu(&mut command, guest, role, console, qmp, kernel),
        }
        command
    }
}

fn ferry(command: &mut Command, guest: &Guest, role: Role, console: Console<'_>, qmp: &Path) {
    command.args(["run", "--name", "bench", "--cmdline", &guest.cmdline()]);
    let prealloc = if guest.prealloc { "on" } else { "off" };
    let memory = format!("{}M,backing={},prealloc={prealloc}", guest.memory >> 20, guest.backing);
    command.args(["--memory", &memory, "--cpus", &guest.cpus.to_string()]);
    command.args(guest.ownership.iter().flat_map(|ownership| ["--ownership", ownership]));
    command.args(["--qmp", &format!("unix:{}", qmp.display())]);
    match console {
        Console::File(path) => command.args(["--serial", &format!("file:{}", path.display())]),
        Console::Stdout => command.args(["--serial", "stdio"]),
    };
    if role == Role::Destination {
        command.args(["--incoming", "defer"]);
    }
}

fn qemu(command: &mut Command, guest: &Guest, role: Role, console: Console<'_>, qmp: &Path, kernel: &Path) {
    let memory = guest.memory >> 20;
    let machine = match guest.prealloc {
        true => format!("{QEMU_MACHINE},memory-backend=ram"),
        false => QEMU_MACHINE.to_owned(),
    };
    if guest.prealloc {
        command.args(["-object", &format!("memory-backend-ram,id=ram,size={memory}M,prealloc=on")]);
    }
    command.args(["-M", &machine, "-accel", "kvm", "-cpu", "host", "-nodefaults", "-no-user-config", "-no-reboot"]);
    command.args(["-display", "none", "-device", "isa-debug-exit,iobase=0x501,iosize=2"]);
    command.args(["-m", &memory.to_string(), "-smp", &guest.cpus.to_string()]);
    command.args(["-append", &guest.cmdline(), "-kernel"]).arg(kernel);
    command.args(["-qmp", &format!("unix:{},server=on,wait=off", qmp.display())]);
    match console {
        Console::File(path) => command.args(["-serial", &format!("file:{}", path.display())]),
        Console::Stdout => command.args(["-serial", "stdio"]),
    };
    if role == Role::Destination {
        command.args(["-incoming", "defer"]);
    }
}

/// The first line of `--version`; nothing when the program is not there.
fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}
