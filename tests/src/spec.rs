//! What a machine is made of, and how to say it to `ferry run`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ferry_guest::Workload;

/// A machine to start. Cloned and changed to get the other side of a migration.
#[derive(Clone, Debug)]
pub struct Spec {
    /// For messages, for file names and for `--name`.
    pub name: String,
    /// vCPUs.
    pub cpus: u32,
    /// The value of `--memory`.
    pub memory: String,
    /// What the embedded guest does.
    pub workload: Workload,
    /// The disk image and whether it is read-only.
    pub disk: Option<(PathBuf, bool)>,
    /// A kernel in place of the embedded one.
    pub kernel: Option<PathBuf>,
    /// Where the guest is awaited.
    pub incoming: Option<String>,
    /// The guest is not to run yet.
    pub paused: bool,
    /// Serial input and output are the process's standard input and output, not a file.
    pub console: bool,
    /// Values of `--device`.
    pub devices: Vec<String>,
    /// Anything else.
    pub more: Vec<String>,
}

impl Spec {
    /// One vCPU, 64 MiB, and a light load that reports ten times a second.
    #[must_use]
    pub fn new() -> Self {
        Spec {
            name: "guest".into(),
            cpus: 1,
            memory: "64M".into(),
            workload: Workload {
                report_ms: 100,
                rate: ferry_guest::workload::Rate::BytesPerSecond(8 << 20),
                ..Workload::default()
            },
            disk: None,
            kernel: None,
            incoming: None,
            paused: false,
            console: false,
            devices: Vec::new(),
            more: Vec::new(),
        }
    }

    /// With this many vCPUs.
    #[must_use]
    pub fn cpus(self, cpus: u32) -> Self {
        Spec { cpus, ..self }
    }

    /// With this `--memory`.
    #[must_use]
    pub fn memory(self, memory: &str) -> Self {
        Spec { memory: memory.into(), ..self }
    }

    /// With this disk, writable.
    #[must_use]
    pub fn disk(self, image: &Path) -> Self {
        Spec { disk: Some((image.to_owned(), false)), ..self }
    }

    /// With this kernel.
    #[must_use]
    pub fn kernel(self, kernel: &Path) -> Self {
        Spec { kernel: Some(kernel.to_owned()), ..self }
    }

    /// Waiting for a guest at this address.
    #[must_use]
    pub fn incoming(self, at: &str) -> Self {
        Spec { incoming: Some(at.into()), ..self }
    }

    /// Not running until told.
    #[must_use]
    pub fn paused(self) -> Self {
        Spec { paused: true, ..self }
    }

    /// With the serial port on standard input and output.
    #[must_use]
    pub fn console(self) -> Self {
        Spec { console: true, ..self }
    }

    /// With a `--device`.
    #[must_use]
    pub fn device(mut self, device: &str) -> Self {
        self.devices.push(device.into());
        self
    }

    /// With this name.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        Spec { name: name.into(), ..self }
    }

    /// With another load.
    #[must_use]
    pub fn workload(mut self, change: impl FnOnce(&mut Workload)) -> Self {
        change(&mut self.workload);
        self
    }

    /// The arguments of `ferry run`.
    #[must_use]
    pub fn arguments(&self, qmp: &Path, serial: &Path) -> Vec<OsString> {
        let mut out: Vec<OsString> = vec!["run".into()];
        let mut option = |name: &str, value: String| out.extend([name.into(), value.into()]);
        option("--name", self.name.clone());
        option("--cpus", self.cpus.to_string());
        option("--memory", self.memory.clone());
        option("--qmp", format!("unix:{}", qmp.display()));
        option("--serial", if self.console { "stdio".into() } else { format!("file:{}", serial.display()) });
        let cmdline = self.workload.to_cmdline();
        if !cmdline.is_empty() {
            option("--cmdline", cmdline);
        }
        if let Some((image, read_only)) = &self.disk {
            option("--disk", format!("{}{}", image.display(), if *read_only { ",readonly" } else { "" }));
        }
        if let Some(kernel) = &self.kernel {
            option("--kernel", kernel.display().to_string());
        }
        if let Some(at) = &self.incoming {
            option("--incoming", at.clone());
        }
        for device in &self.devices {
            option("--device", device.clone());
        }
        if self.paused {
            out.push("--paused".into());
        }
        out.extend(self.more.iter().map(OsString::from));
        out
    }
}

impl Default for Spec {
    fn default() -> Self {
        Self::new()
    }
}
