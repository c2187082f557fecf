//! The worker threads of a migration: their names, their start, and the wait for their end.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ferry_devices::fault::FaultControl;
use ferry_machine::Machine;

/// How often a device that may begin to hang is interrupted again.
pub(super) const INTERRUPT_AGAIN: Duration = Duration::from_millis(5);

/// Waits for threads of an attempt that is given up; interrupts a device that hangs in them,
/// however late the hang begins.
pub(super) fn join_interrupting(machine: &Machine, threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        while !thread.is_finished() {
            machine.interrupt_faults();
            std::thread::park_timeout(INTERRUPT_AGAIN);
        }
        if thread.join().is_err() {
            tracing::error!("a thread of the migration ended unexpectedly");
        }
    }
}

/// Starts a worker whose death would leave another thread waiting indefinitely: a panic is reported
/// to `died`.
pub(super) fn spawn_watched(
    faults: &FaultControl,
    name: &str,
    run: impl FnOnce() + Send + 'static,
    died: impl FnOnce(String) + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let reason = format!("the thread {name} ended unexpectedly; see the log");
    faults.spawn(name, move || {
        // The closure's state is not used any more after a panic.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
            died(reason);
        }
    })
}

/// Joins threads that have ended: a postcopy that breaks and recovers again and again starts many.
pub(super) fn join_finished(threads: &mut Vec<JoinHandle<()>>) {
    for thread in threads.extract_if(.., |thread| thread.is_finished()) {
        if thread.join().is_err() {
            tracing::error!("a thread of the migration ended unexpectedly");
        }
    }
}

/// The state that a thread leaves when it panics is usable.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many threads of this process have this name.
#[cfg(test)]
pub(crate) fn of_this_process(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)).count()
}
