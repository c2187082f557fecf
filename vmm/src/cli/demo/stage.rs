//! The demo's environment: a temporary directory, the clock, Ctrl-C, and the output on the
//! terminal.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use ferry_migration::{MigrationInfo, Status};
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;

use super::child::FerryRun;
use super::guest_log::{Account, GuestLog};
use crate::cli::progress::Progress;
use crate::cli::style::Style;
use crate::cli::{CliError, say, units};
use crate::signals::{Signal, Signals};

/// How long any step may take before the demo gives up.
const STEP_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two checks of an awaited condition.
const POLL: Duration = Duration::from_millis(20);

/// Everything that the acts share.
pub(super) struct Stage {
    dir: TempDir,
    signals: Receiver<Signal>,
    style: Style,
    acts: u32,
    /// The guest's output, from the process that runs it.
    pub log: GuestLog,
}

impl Stage {
    /// An empty stage with a directory of its own, which is removed with it.
    pub(super) fn new() -> Result<Self, CliError> {
        let signals = Signals::take().map_err(|error| CliError::failed("cannot watch for signals", error))?.messages();
        let dir = tempfile::Builder::new().prefix("ferry-demo-").tempdir();
        let dir = dir.map_err(|error| CliError::failed("cannot make a temporary directory", error))?;
        Ok(Stage { dir, signals, style: Style::stdout(), acts: 0, log: GuestLog::default() })
    }

    /// The demo's directory.
    #[must_use]
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A file in the demo's directory.
    #[must_use]
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Begins the next act.
    pub(super) fn act(&mut self, title: &str, story: &str) {
        self.acts += 1;
        self.log.begin_act();
        say(&format!("\n{} {}", self.style.accent(&self.acts.to_string()), self.style.bold(title)));
        for line in story.lines() {
            say(&format!("  {}", self.style.dim(line.trim())));
        }
    }

    /// Prints a success.
    pub(super) fn good(&self, text: &str) {
        say(&format!("  {} {text}", self.style.good("✓")));
    }

    /// Prints an expected failure.
    pub(super) fn bad(&self, text: &str) {
        say(&format!("  {} {text}", self.style.bad("✗")));
    }

    /// Prints a value under its name.
    pub(super) fn line(&self, name: &str, value: &str) {
        say(&format!("  {} {value}", self.style.dim(name)));
    }

    /// Prints several lines unchanged.
    pub(super) fn text(&self, text: &str) {
        say(text);
    }

    /// How this stage's text is painted.
    #[must_use]
    pub(super) fn style(&self) -> Style {
        self.style
    }

    /// Prints the guest's own account.
    pub(super) fn guest_says(&self, account: &Account) {
        self.line("the guest:", &told(account));
    }

    /// Lets the guest work for a while, and on a terminal shows its account.
    pub(super) fn watch_guest(&mut self, time: Duration) -> Result<(), CliError> {
        let until = Instant::now() + time;
        let live = ProgressBar::new_spinner().with_style(live_line());
        live.enable_steady_tick(Duration::from_millis(100));
        self.wait_until("the guest's work", |stage| {
            live.set_message(told(&stage.log.account()));
            Ok((Instant::now() >= until).then(|| live.finish_and_clear()))
        })
    }

    /// Waits until the guest has done more than `before` on all of its vCPUs, and returns its
    /// account.
    pub(super) fn guest_goes_on(&mut self, cpus: usize, before: &Account) -> Result<Account, CliError> {
        let (pages, uptime) = (before.pages, before.uptime_ms);
        self.wait_until("the guest's next report", |stage| {
            let now = stage.log.account();
            Ok((now.cpus == cpus && now.pages > pages && now.uptime_ms > uptime).then_some(now))
        })
    }

    /// Follows the migration that `source` has begun to its end.
    pub(super) fn follow_migration(&mut self, source: &mut FerryRun) -> Result<MigrationInfo, CliError> {
        let mut progress = Progress::new();
        self.wait_until("the end of the migration", |_| {
            let info = source.client.query_migrate()?;
            if !info.status.unwrap_or_default().is_active() {
                return Ok(Some(info));
            }
            progress.show(&info);
            Ok(None)
        })
    }

    /// Follows the migration that `source` has begun until it has this status.
    pub(super) fn follow_until(&mut self, source: &mut FerryRun, wanted: Status) -> Result<(), CliError> {
        let mut progress = Progress::new();
        self.wait_until(&format!("a migration in {}", wanted.as_str()), |_| {
            let info = source.client.query_migrate()?;
            let status = info.status.unwrap_or_default();
            if status == wanted {
                return Ok(Some(()));
            }
            if !status.is_active() {
                let why = info.error_desc.unwrap_or_else(|| "no reason was given".into());
                return Err(CliError::Failed(format!("the migration {} too soon: {why}", status.as_str())));
            }
            progress.show(&info);
            Ok(None)
        })
    }

    /// Continues reading the guest's output in the file of `process`.
    pub(super) fn follow_guest(&mut self, process: &FerryRun) -> Result<(), CliError> {
        self.log.follow(&process.serial).map_err(|error| CliError::failed("cannot read what the guest prints", error))
    }

    /// Waits until `check` returns a value, and reads the guest's output meanwhile. Fails on
    /// Ctrl-C, and when the guest reports an error.
    pub(super) fn wait_until<T>(
        &mut self,
        awaited: &str,
        mut check: impl FnMut(&mut Self) -> Result<Option<T>, CliError>,
    ) -> Result<T, CliError> {
        let deadline = Instant::now() + STEP_TIMEOUT;
        loop {
            self.log.read().map_err(|error| CliError::failed("cannot read what the guest prints", error))?;
            if let Some(complaint) = self.log.complaint() {
                return Err(CliError::Failed(format!("the guest found something wrong: {complaint}")));
            }
            if let Some(found) = check(self)? {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                let seconds = STEP_TIMEOUT.as_secs();
                return Err(CliError::Failed(format!("no sign of {awaited} within {seconds} s")));
            }
            match self.signals.recv_timeout(POLL) {
                Ok(signal) => return Err(CliError::Failed(format!("the demo was ended by {}", signal.name()))),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }
}

fn told(account: &Account) -> String {
    let Account { pages, disk_requests, errors, gap_us, .. } = *account;
    let (pages, disk, gap) = (units::count(pages), units::count(disk_requests), units::micros(gap_us));
    format!("{pages} pages touched, {disk} disk requests, {errors} errors, longest gap {gap}")
}

fn live_line() -> ProgressStyle {
    ProgressStyle::with_template("  {spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}
