//! Ends a test run in which a test hangs, and says which and where: every wait has a deadline, but
//! a defect may wait elsewhere, be it in the kernel, and a run that never ends tells nobody
//! anything.
//!
//! Every [`Lab`](crate::Lab) is watched, in tests only: programs that use one may take as long as
//! they like.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::procfs;

/// Longest that a test may take, many times what any takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(600);
/// Overrides [`LIMIT`], in milliseconds.
const LIMIT_VARIABLE: &str = "FERRY_TEST_LIMIT_MS";
/// Between two looks.
const PERIOD: Duration = Duration::from_millis(500);

/// A test that has begun.
struct Watched {
    since: Instant,
    /// libtest names the thread of a test after it.
    test: String,
    directory: Weak<TempDir>,
}

static WATCHED: Mutex<Vec<Watched>> = Mutex::new(Vec::new());

/// Watches the test of this thread until its directory is gone.
pub(crate) fn watch(directory: &Arc<TempDir>) {
    static STARTED: Once = Once::new();
    // cargo puts tests, and only tests, there.
    if !std::env::current_exe().is_ok_and(|exe| exe.ancestors().nth(1).is_some_and(|parent| parent.ends_with("deps"))) {
        return;
    }
    let test = thread::current().name().unwrap_or("a test").to_owned();
    let watched = Watched { since: Instant::now(), test, directory: Arc::downgrade(directory) };
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner).push(watched);
    let limit =
        std::env::var(LIMIT_VARIABLE).ok().and_then(|text| text.parse().ok()).map_or(LIMIT, Duration::from_millis);
    STARTED.call_once(|| drop(thread::spawn(move || run(limit))));
}

fn run(limit: Duration) {
    loop {
        thread::sleep(PERIOD.min(limit));
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|watched| watched.directory.strong_count() > 0);
        let late: Vec<_> =
            watched.iter().filter(|watched| watched.since.elapsed() > limit).map(|watched| &watched.test).collect();
        if !late.is_empty() {
            eprintln!("these tests hang, and the run ends here: {late:?} (longer than {} s)", limit.as_secs_f32());
            show_threads(std::process::id());
            for child in children() {
                show_threads(child);
                // It is our child and not reaped, so the number is still its own.
                if let Some(pid) = Pid::from_raw(child.cast_signed()) {
                    let _gone_already = kill_process(pid, Signal::KILL);
                }
            }
            std::process::abort();
        }
    }
}

/// The processes that this one started and has not reaped.
fn children() -> Vec<u32> {
    let own = std::process::id();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_ours = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        procfs::parent(&stat) == Some(own)
    };
    pids.filter(is_ours).collect()
}

/// What each thread of a process waits for in the kernel.
fn show_threads(pid: u32) {
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let path: PathBuf = task.path();
        let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default().trim_end().to_owned();
        eprintln!("process {pid} thread {}: {}", read("comm"), read("wchan"));
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::wait::{SOON, poll};

    /// Not a test of its own: what the next one runs.
    #[test]
    #[ignore = "it hangs, which is what another test needs"]
    fn hangs() {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        watch(&directory);
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(std::env::var("FERRY_TEST_CHILD").unwrap(), child.id().to_string()).unwrap();
        child.wait().unwrap();
        // The child is killed, and yet it does not end.
        thread::park_timeout(SOON);
    }

    #[test]
    fn a_test_that_hangs_ends_the_run_and_its_processes() {
        let directory = tempfile::tempdir().unwrap();
        let child = directory.path().join("child");
        let mut hanging = Command::new(std::env::current_exe().unwrap());
        hanging.args(["--ignored", "--exact", "watchdog::tests::hangs", "--nocapture"]);
        let output = hanging.env(LIMIT_VARIABLE, "200").env("FERRY_TEST_CHILD", &child).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && text.contains("these tests hang") && text.contains("watchdog::tests::hangs"),
            "{text}"
        );
        let child = fs::read_to_string(child).unwrap();
        let gone = || {
            fs::read_to_string(format!("/proc/{child}/comm"))
                .is_ok_and(|name| name == "sleep\n")
                .then_some(())
                .is_none()
                .then_some(())
        };
        poll(SOON, gone).expect("its child has ended");
    }
}
