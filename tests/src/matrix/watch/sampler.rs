//! Reads, every few milliseconds, how much CPU time each vCPU's thread has used.
//!
//! KVM runs a vCPU on the thread that asked for it, so a guest that runs makes its thread's
//! account grow, and a guest that is stopped does not: its thread sleeps. The kernel brings the
//! account of a thread that is on a CPU up to date at every tick of its scheduler (1 to 10 ms) and
//! whenever it leaves the CPU.
//!
//! The last thread of a process to go takes its memory apart, which may be a vCPU's and takes
//! milliseconds. That is no guest's time, so a thread that is on its way out is not looked at any
//! more. Before the kernel knows that it is, the thread takes its own vCPU apart, which on a busy
//! host has taken 2 ms of CPU time: a thread that had stood still, wakes, uses at most 5 ms and is
//! gone within 100 ms has run no guest.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crate::matrix::evidence::Sample;

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(5);
/// How long a vCPU has stood still whose thread wakes only to end.
const STOOD: Duration = Duration::from_millis(100);
/// Longest that such an end takes, on a host whose CPUs are busy with other things.
const FAREWELL: Duration = Duration::from_millis(100);
/// Most CPU time that such an end uses: a thread that has used more has run its guest.
const FAREWELL_CPU: Duration = Duration::from_millis(5);
/// Looks between two searches for threads: opening their files takes longer than reading them.
const SEARCH_EVERY: u32 = 20;

/// A thread that takes samples until it is asked for them.
#[derive(Debug)]
pub struct Sampler {
    orders: Sender<(usize, u32)>,
    taking: JoinHandle<Vec<Sample>>,
}

impl Sampler {
    /// Begins, with no process to look at yet.
    #[must_use]
    pub fn start() -> Self {
        let (orders, taken) = mpsc::channel();
        Sampler { orders, taking: std::thread::spawn(move || take(&taken)) }
    }

    /// Looks also at the vCPUs of this process, whose place in the evidence is `process`. Best
    /// once it answers: what its threads did before is of no interest.
    pub fn watch(&self, process: usize, pid: u32) {
        // It takes orders as long as this end is there.
        let _ = self.orders.send((process, pid));
    }

    /// Ends, and returns what it saw, in the order of time. Where an account stands still there is
    /// a sample at the beginning and one at the end: those between would say nothing more.
    ///
    /// # Panics
    /// When the thread has panicked.
    #[must_use]
    pub fn finish(self) -> Vec<Sample> {
        drop(self.orders);
        let mut samples = self.taking.join().expect("the sampler only reads");
        samples.sort_by_key(|sample| sample.at);
        samples
    }
}

/// A vCPU's thread.
#[derive(Debug)]
struct Thread {
    process: usize,
    vcpu: u32,
    account: File,
    /// Its `stat` (proc(5)).
    stat: PathBuf,
    samples: Vec<Sample>,
    gone: bool,
}

fn take(orders: &Receiver<(usize, u32)>) -> Vec<Sample> {
    let mut processes = Vec::new();
    let mut threads: BTreeMap<u32, Thread> = BTreeMap::new();
    for look in 0_u32.. {
        let ordered = match orders.recv_timeout(PERIOD) {
            Ok(order) => Some(order),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        processes.extend(ordered);
        if ordered.is_some() || look % SEARCH_EVERY == 0 {
            processes.iter().for_each(|(process, pid)| search(*process, *pid, &mut threads));
        }
        threads.values_mut().filter(|thread| !thread.gone).for_each(Thread::look);
    }
    threads.into_values().flat_map(|thread| thread.samples).collect()
}

/// Adds the vCPUs of a process that are not there yet.
fn search(process: usize, pid: u32, threads: &mut BTreeMap<u32, Thread>) {
    // A process that has ended has none.
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let Some(tid) = task.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if threads.contains_key(&tid) {
            continue;
        }
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let vcpu = name.trim_end().strip_prefix("vcpu-").and_then(|number| number.parse().ok());
        if let (Some(vcpu), Ok(account)) = (vcpu, File::open(task.path().join("schedstat"))) {
            let stat = task.path().join("stat");
            threads.insert(tid, Thread { process, vcpu, account, stat, samples: vec![], gone: false });
        }
    }
}

impl Thread {
    fn look(&mut self) {
        let mut text = [0; 64];
        let read = self.account.read_at(&mut text, 0).ok();
        let text = read.and_then(|len| std::str::from_utf8(&text[..len]).ok());
        let Some(on_cpu_ns) = text.and_then(|text| text.split_whitespace().next()?.parse().ok()) else {
            return self.ends(SystemTime::now());
        };
        // This is asked after the account was read: whoever has not begun to go now had not begun
        // to go then.
        let grew = self.samples.last().is_some_and(|last| last.on_cpu_ns != on_cpu_ns);
        if grew && fs::read_to_string(&self.stat).map_or(true, |stat| is_going(&stat)) {
            return self.ends(SystemTime::now());
        }
        let sample = Sample { at: SystemTime::now(), process: self.process, vcpu: self.vcpu, on_cpu_ns };
        match &mut *self.samples {
            [.., before, last] if before.on_cpu_ns == on_cpu_ns && last.on_cpu_ns == on_cpu_ns => *last = sample,
            _ => self.samples.push(sample),
        }
    }

    /// Forgets what it has used since it woke to end, if it did.
    fn ends(&mut self, now: SystemTime) {
        self.gone = true;
        let long = |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default();
        let stood = self
            .samples
            .windows(2)
            .rposition(|two| two[0].on_cpu_ns == two[1].on_cpu_ns && long(two[0].at, two[1].at) >= STOOD);
        let Some(woke) = stood.map(|at| at + 1) else { return };
        let used = self.samples.last().map_or(0, |last| last.on_cpu_ns.saturating_sub(self.samples[woke].on_cpu_ns));
        if long(self.samples[woke].at, now) <= FAREWELL && Duration::from_nanos(used) <= FAREWELL_CPU {
            self.samples.truncate(woke + 1);
        }
    }
}

/// Whether the thread of this `stat` is on its way out: PF_EXITING in its flags, the seventh field
/// after its name, which may hold anything (proc(5), `include/linux/sched.h`).
fn is_going(stat: &str) -> bool {
    const PF_EXITING: u64 = 0x4;
    let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse::<u64>().ok());
    flags.is_none_or(|flags| flags & PF_EXITING != 0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use rustix::time::{ClockId, clock_gettime};

    use super::*;
    use crate::wait::{SOON, wait_for};

    fn own_account(name: &str, body: impl FnOnce() + Send + 'static) -> Vec<Sample> {
        let (begin, begun) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            let _ = begun.recv();
            body();
        });
        let sampler = Sampler::start();
        sampler.watch(7, std::process::id());
        drop(begin);
        thread.unwrap().join().unwrap();
        sampler.finish()
    }

    #[test]
    fn a_thread_that_works_has_a_growing_account_and_one_that_sleeps_has_two_samples() {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let sleeper = std::thread::Builder::new().name("vcpu-3".into()).spawn(move || {
            wait_for("the end", SOON * 2, || told.load(Relaxed));
        });
        // By its own time: on a busy machine a thread hardly runs in any given time.
        let samples = own_account("vcpu-12", || {
            let used = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("a clock that counts up");
            wait_for("the thread to have worked", SOON, || {
                let until = used() + Duration::from_millis(1);
                while used() < until {
                    std::hint::spin_loop();
                }
                used() > Duration::from_millis(60)
            });
        });
        stop.store(true, Relaxed);
        sleeper.unwrap().join().unwrap();
        let of = |vcpu| samples.iter().filter(move |sample| sample.vcpu == vcpu).collect::<Vec<_>>();
        let worked = of(12);
        let used = worked.last().unwrap().on_cpu_ns - worked[0].on_cpu_ns;
        assert!(used > 20_000_000, "{used} ns in {} samples", worked.len());
        assert!(samples.iter().all(|sample| sample.process == 7) && samples.is_sorted_by_key(|sample| sample.at));
        assert!(!of(3).is_empty());
    }

    #[test]
    fn where_an_account_stands_still_only_its_ends_are_kept() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let account = file.reopen().unwrap();
        let stat = "/proc/thread-self/stat".into();
        let mut thread = Thread { process: 0, vcpu: 0, account, stat, samples: vec![], gone: false };
        for account in [5, 5, 5, 5, 9, 9] {
            fs::write(file.path(), format!("{account} 0 1\n")).unwrap();
            thread.look();
        }
        let kept: Vec<_> = thread.samples.iter().map(|sample| sample.on_cpu_ns).collect();
        assert_eq!(kept, [5, 5, 9, 9]);
        fs::write(file.path(), "").unwrap();
        thread.look();
        assert!(thread.gone, "a thread that has ended has no account");
    }

    #[test]
    fn a_thread_that_wakes_only_to_end_has_run_no_guest() {
        let account = tempfile::tempfile().unwrap();
        let mut thread =
            Thread { process: 0, vcpu: 0, account, stat: "/proc/self/stat".into(), samples: vec![], gone: false };
        let mut left_of = |times: &[(u64, u64)], gone: u64| {
            let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
            let sample =
                |(ms, on_cpu_ns): &(u64, u64)| Sample { at: at(*ms), process: 0, vcpu: 0, on_cpu_ns: *on_cpu_ns };
            thread.samples = times.iter().map(sample).collect();
            thread.ends(at(gone));
            thread.samples.last().unwrap().on_cpu_ns
        };
        assert_eq!(left_of(&[(0, 4), (10, 9), (900, 9), (909, 11), (914, 12)], 919), 9);
        assert_eq!(left_of(&[(0, 4), (10, 9), (900, 9), (909, 11), (1000, 20)], 1009), 20, "it runs on");
        assert_eq!(left_of(&[(0, 4), (5, 9), (10, 9), (15, 11)], 20), 11, "it has not stood still");
        let mut woke = |used: u64| left_of(&[(0, 4), (10, 9), (900, 9), (905, 9 + used / 2), (910, 9 + used)], 915);
        assert_eq!(woke(5_000_000), 9);
        assert_eq!(woke(5_000_001), 5_000_010, "it has run its guest before it ended");
    }

    #[test]
    fn a_thread_on_its_way_out_is_told_by_its_flags() {
        let stat = |flags: u64| format!("7 (odd) name) R 1 7 7 0 -1 {flags} 100 0 0 0 5 5");
        assert!(!is_going(&stat(0x40_0040)) && is_going(&stat(0x40_0044)));
        assert!(!is_going(&fs::read_to_string("/proc/thread-self/stat").unwrap()));
    }

    #[test]
    fn what_a_thread_uses_on_its_way_out_does_not_count() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let account = file.reopen().unwrap();
        let mut thread =
            Thread { process: 0, vcpu: 0, account, stat: "/nonexistent".into(), samples: vec![], gone: false };
        for account in [5, 9] {
            fs::write(file.path(), format!("{account} 0 1\n")).unwrap();
            thread.look();
        }
        assert_eq!((thread.samples.len(), thread.gone), (1, true));
    }
}
