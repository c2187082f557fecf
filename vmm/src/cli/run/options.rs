//! The options of `ferry run`, and the parsers of their values.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use ferry_devices::fault::{FaultSpec, FaultSpecError};
use ferry_link::endpoint::Endpoint;
use ferry_machine::{CPUS_MAX, DiskConfig, MachineConfig, SerialSink, call_of};
use ferry_memory::MemoryConfig;
use ferry_migration::ownership::Name;
use ferry_observe::trace::{self, TraceError};

use super::ownership::OwnershipOption;
use crate::cli::qmp_path;

/// Of `--device`. A doc comment would make links of its brackets.
const DEVICE_HELP: &str = "Add a rule to the fault device: \
     fault,at=POINT,do=fail|errno:NAME|hang|delay:MS|kill|freeze|skew:MS[,of=PART][,times=N] \
     [,in=incoming|outgoing]. A point is save, load or post_load of a device, KVM_…, step:OUTPUT, send:, sent: or \
     received:MESSAGE, or a place such as record:sync, disk:flush or host:connect; docs/faults.md has them all";

/// The options of `ferry run`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Kernel: a PVH ELF, a Linux bzImage or a vmlinux; the built-in tiny guest when left out
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
    /// Kernel command line
    #[arg(long, value_name = "STR", default_value = "")]
    pub cmdline: String,
    /// Initial RAM disk
    #[arg(long, value_name = "PATH", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// Guest memory: 16M to 16G, what backs it, and whether the host allocates all of it before
    /// anything else happens
    #[arg(long, value_name = "SIZE[,backing=memfd|anon][,prealloc=on|off]", default_value = "256M")]
    pub memory: MemoryConfig,
    /// vCPUs, from 1 to 16
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(CPUS_MAX)))]
    pub cpus: u32,
    /// Disk image, raw; format=raw takes one whose content looks like another format. A comma in
    /// the path is written twice
    #[arg(long, value_name = "PATH[,readonly][,format=raw]", value_parser = disk)]
    pub disk: Option<DiskConfig>,
    /// Where the guest's serial port goes; a file is appended to
    #[arg(long, value_name = "stdio|file:PATH|null", default_value = "stdio", value_parser = serial)]
    pub serial: SerialSink,
    /// Listen for QMP on this socket
    #[arg(long, value_name = "unix:PATH", value_parser = qmp_path)]
    pub qmp: Option<PathBuf>,
    /// Take a guest from another process instead of booting one; `defer` waits for
    /// migrate-incoming
    #[arg(long, value_name = "defer|tcp:HOST:PORT|unix:PATH")]
    pub incoming: Option<Incoming>,
    /// Do not start the guest, whether booted here or arrived: wait for cont
    #[arg(long)]
    pub paused: bool,
    /// The guest's name, the same on both sides of a migration: 1 to 64 bytes
    #[arg(long, value_name = "NAME", default_value = "guest", value_parser = name)]
    pub name: String,
    /// Where the ownership record is: auto is IMAGE.owner beside a writable disk, else none; with
    /// `,take`, the guest is booted even though the record says that a hand-over is under way
    #[arg(long, value_name = "auto|file:PATH|none[,take]", default_value = "auto")]
    pub ownership: OwnershipOption,
    /// Append what happens in migrations to this file, for ferry report
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Rules of the fault device.
    #[arg(long = "device", value_name = "fault,at=…,do=…", value_parser = fault, help = DEVICE_HELP)]
    pub faults: Vec<FaultSpec>,
}

impl Options {
    /// Begins the trace, if one is requested.
    ///
    /// # Errors
    /// When its file cannot be opened.
    pub(crate) fn start_trace(&self) -> Result<(), TraceError> {
        let Some(path) = &self.trace else { return Ok(()) };
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let start = trace::Start {
            format: trace::FORMAT.to_owned(),
            ferry: env!("CARGO_PKG_VERSION").to_owned(),
            vm: self.name.clone(),
            incoming: self.incoming.is_some(),
            host,
            pid: std::process::id(),
            memory: self.memory.size,
            backing: self.memory.backing.to_string(),
            cpus: self.cpus,
        };
        trace::start(path, start)
    }

    /// The machine that these options describe. It does not start by itself.
    #[must_use]
    pub(crate) fn machine(&self) -> MachineConfig {
        MachineConfig {
            name: self.name.clone(),
            memory: self.memory,
            cpus: self.cpus,
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            command_line: self.cmdline.clone(),
            disk: self.disk.clone(),
            serial: self.serial.clone(),
            paused: true,
            incoming: self.incoming.is_some(),
            faults: self.faults.clone(),
        }
    }
}

/// How a guest comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// When QMP `migrate-incoming` gives the address.
    Defer,
    /// At this address, at once.
    At(Endpoint),
}

impl FromStr for Incoming {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "defer" => Ok(Incoming::Defer),
            _ => text.parse().map(Incoming::At).map_err(|error| format!("{error}, or defer")),
        }
    }
}

/// A name that is valid in an ownership record, which any guest may need later.
fn name(text: &str) -> Result<String, String> {
    Name::try_from(text).map(String::from).map_err(|error| error.to_string())
}

fn disk(text: &str) -> Result<DiskConfig, String> {
    let (path, options) = path_and_options(text);
    let mut disk = DiskConfig { path: path.into(), read_only: false, raw: false };
    for option in options {
        match option {
            "readonly" => disk.read_only = true,
            "format=raw" => disk.raw = true,
            other => {
                return Err(format!(
                    "disk option '{other}' is not known: only readonly and format=raw may follow the path; a comma in the path is \
                     written twice"
                ));
            }
        }
    }
    if disk.path.as_os_str().is_empty() {
        return Err("the path is empty; write PATH, or PATH,readonly".into());
    }
    Ok(disk)
}

/// A path and the options behind it. Two commas stand for one in the path, as in QEMU.
fn path_and_options(text: &str) -> (String, Vec<&str>) {
    let mut path = String::new();
    let mut rest = text;
    while let Some((part, behind)) = rest.split_once(',') {
        path.push_str(part);
        let Some(goes_on) = behind.strip_prefix(',') else { return (path, behind.split(',').collect()) };
        path.push(',');
        rest = goes_on;
    }
    path.push_str(rest);
    (path, Vec::new())
}

fn serial(text: &str) -> Result<SerialSink, String> {
    match (text, text.strip_prefix("file:")) {
        ("stdio", _) => Ok(SerialSink::Stdio),
        ("null", _) => Ok(SerialSink::Null),
        (_, Some(path)) if !path.is_empty() => Ok(SerialSink::File(path.into())),
        _ => Err("write stdio, file:PATH or null".into()),
    }
}

fn fault(text: &str) -> Result<FaultSpec, String> {
    let Some(("fault", rule)) = text.split_once(',') else {
        return Err("only the fault device can be told something: write fault,at=…,do=…".into());
    };
    let rule: FaultSpec = rule.parse().map_err(|error: FaultSpecError| error.to_string())?;
    call_of(&rule).map_err(|error| error.to_string())?;
    Ok(rule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        let all = ["run"].iter().chain(arguments);
        Command::try_parse_from(all).map(|command| command.options).map_err(|error| error.to_string())
    }

    #[test]
    fn without_options_the_defaults_make_a_machine() {
        let options = parse(&[]).unwrap();
        assert_eq!((options.cpus, options.memory.size, options.serial), (1, 256 << 20, SerialSink::Stdio));
        assert!(options.incoming.is_none() && options.faults.is_empty() && !options.paused);
    }

    #[test]
    fn values_are_read() {
        let options = parse(&[
            "--disk=/a,readonly",
            "--serial=file:/s",
            "--incoming=tcp:[::1]:0",
            "--device=fault,at=load,do=hang",
            "--device=fault,at=save,do=fail,times=1",
        ]);
        let options = options.unwrap();
        assert_eq!(options.disk, Some(DiskConfig { path: "/a".into(), read_only: true, raw: false }));
        assert_eq!(options.serial, SerialSink::File("/s".into()));
        assert_eq!(options.incoming, Some(Incoming::At("tcp:[::1]:0".parse().unwrap())));
        assert_eq!(options.faults[1].to_string(), "at=save,do=fail,times=1");
    }

    #[test]
    fn a_comma_in_a_path_is_written_twice() {
        for (text, path, read_only, raw) in [
            ("a,,b.img", "a,b.img", false, false),
            ("a,,readonly", "a,readonly", false, false),
            ("a,,,readonly", "a,", true, false),
            (",,a,format=raw,readonly", ",a", true, true),
        ] {
            assert_eq!(disk(text), Ok(DiskConfig { path: path.into(), read_only, raw }), "{text}");
        }
        // No option follows these paths.
        assert_eq!(serial("file:a,b"), Ok(SerialSink::File("a,b".into())));
    }

    #[test]
    fn every_error_says_what_would_be_right() {
        for (argument, hint) in [
            ("--disk=/a,ro", "only readonly and format=raw may follow the path"),
            ("--disk=/a,b.img", "a comma in the path is written twice"),
            ("--disk=", "the path is empty"),
            ("--name=", "use 1 to 64 bytes"),
            ("--name=a\nb", "holds control characters"),
            ("--serial=tty", "write stdio, file:PATH or null"),
            ("--incoming=1234", "write tcp:HOST:PORT or unix:PATH, or defer"),
            ("--device=virtio-net", "write fault,at=…,do=…"),
            ("--device=fault,at=x,do=fail", "write at=save|load|post_load"),
            ("--device=fault,at=KVM_SET_NOTHING,do=fail", "KVM_SET_REGS"),
            ("--memory=7", "give 16M to 16G, a multiple of 2M"),
            ("--cpus=17", "1..=16"),
            ("--qmp=/tmp/x", "write unix:PATH"),
            ("--ownership=/a", "write auto, file:PATH or none"),
        ] {
            let error = parse(&[argument]).unwrap_err();
            assert!(error.contains(hint), "{argument}: {error}");
        }
        assert!(parse(&["--incoming=defer", "--paused"]).unwrap().paused);
    }
}
