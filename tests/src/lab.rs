//! Where a test works: a directory of its own that goes with it, the `ferry` binary, and a usable
//! `/dev/kvm`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tempfile::TempDir;

use crate::{Ferry, Spec, watchdog};

/// One test's surroundings.
#[derive(Debug)]
pub struct Lab {
    directory: Arc<TempDir>,
    observer: OnceLock<Observer>,
}

type Observe = dyn Fn(&str, u32) + Send + Sync;

/// Hears of each process that is started, by its label and number.
struct Observer(Box<Observe>);

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

impl Lab {
    /// Makes the surroundings. `None`: there is no KVM here and `FERRY_NO_KVM=1` says that this is
    /// known, so the test is skipped, with a line that says so.
    ///
    /// # Panics
    /// When `/dev/kvm` cannot be used, or the binary has not been built; the text says what to do.
    #[must_use]
    pub fn new() -> Option<Lab> {
        if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
            if std::env::var_os("FERRY_NO_KVM").is_some_and(|value| value == "1") {
                eprintln!("skipped: FERRY_NO_KVM=1 and /dev/kvm cannot be opened ({error})");
                return None;
            }
            panic!(
                "/dev/kvm cannot be opened: {error}; load the module (modprobe kvm_intel or kvm_amd), switch on virtualisation \
                 in the firmware, join the group kvm, or set FERRY_NO_KVM=1 to skip the tests that need it"
            );
        }
        let _checked = binary();
        // Short names: the path of a Unix socket may have 107 bytes.
        let directory =
            tempfile::Builder::new().prefix("ferry-t").tempdir().expect("a temporary directory can be made");
        let directory = Arc::new(directory);
        watchdog::watch(&directory);
        Some(Lab { directory, observer: OnceLock::new() })
    }

    /// Tells of each process from its very start on: before it answers, and if it never does. The
    /// first observer stays.
    pub fn observe(&self, observer: impl Fn(&str, u32) + Send + Sync + 'static) {
        self.observer.get_or_init(|| Observer(Box::new(observer)));
    }

    pub(crate) fn has_started(&self, label: &str, pid: u32) {
        if let Some(Observer(observer)) = self.observer.get() {
            observer(label, pid);
        }
    }

    /// Keeps the directory for a process that works in it, which must end before its files go.
    pub(crate) fn keep(&self) -> Arc<TempDir> {
        self.directory.clone()
    }

    /// A path in the test's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The test's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts a process and waits until it answers.
    ///
    /// # Panics
    /// When it ends or does not answer in time.
    #[must_use]
    pub fn start(&self, spec: &Spec) -> Ferry {
        Ferry::start(self, spec)
    }

    /// Starts a process that must refuse to boot, and returns what it says.
    ///
    /// # Panics
    /// When it ends otherwise.
    #[must_use]
    pub fn refuses(&self, spec: &Spec) -> String {
        // One that is not refused would run for ever.
        let output = std::process::Command::new("timeout")
            .arg("20")
            .arg(binary())
            .args(spec.arguments(&self.path("refused.qmp"), &self.path("refused.serial")))
            .output()
            .expect("the binary can be started");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).expect("messages are text")
    }

    /// Starts a destination for `spec`'s machine, on a free port of loopback, and waits until it
    /// listens.
    ///
    /// # Panics
    /// As [`Lab::start`].
    #[must_use]
    pub fn start_destination(&self, spec: &Spec) -> Ferry {
        let ferry = Ferry::start(self, &spec.clone().incoming("tcp:127.0.0.1:0"));
        let _address = ferry.wait_listening();
        ferry
    }
}

/// The `ferry` binary that was built with these tests: beside them in the target directory.
///
/// # Panics
/// When it is not there; the text says how to build it.
#[must_use]
pub fn binary() -> PathBuf {
    let this = std::env::current_exe().expect("a process knows its own program");
    // A test is TARGET/PROFILE/deps/NAME, a program of this package TARGET/PROFILE/NAME.
    let found = this.ancestors().skip(1).take(2).map(|directory| directory.join("ferry")).find(|path| path.is_file());
    let profile = if cfg!(debug_assertions) { "" } else { " --release" };
    found.unwrap_or_else(|| {
        panic!(
            "the ferry binary is not beside {}: build it first, with cargo build{profile} -p ferry-vmm",
            this.display()
        )
    })
}
