//! Measures what the machine denied a cell: threads that were ready to run and got no processor, and threads that the kernel
//! kept in the middle of a call which waits for a worker of its own.
//!
//! A cell has deadlines, and a machine with more work than processors may let one pass in which a process could do nothing. What then
//! goes wrong says nothing about Ferry. It is told from a fault by two accounts that neither Ferry nor the harness can influence:
//!
//! 1. **waits for a processor**: proc(5) `schedstat` says for how long a thread has been ready and was not run. vCPUs are left out: a guest
//!    that computes is always ready. The harness is in, whose relay is a part of every link;
//! 2. **waits in the kernel**: a process that was killed, or is taking its machine apart, executes no instruction of its own while it waits
//!    for a grace period or for a kernel worker. The names of these waits are in `wchan`. A wait for a page (userfaultfd) is none of
//!    them: that may be Ferry's fault.
//!
//! A process that hangs in its own code sleeps, or has the processor: neither account grows, and no excuse is found for it.

use std::collections::BTreeMap;
use std::fs;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(100);
/// Looks between two at what threads wait for in the kernel.
const KERNEL_EVERY: u32 = 5;
/// How the kernel's functions begin in which a thread waits for a grace period, a worker or another thread of the kernel.
const KERNEL_WAITS: [&str; 8] = [
    "__synchronize_srcu",
    "synchronize_",
    "rcu_barrier",
    "__wait_rcu_gp",
    "__flush_work",
    "flush_",
    "kthread_stop",
    "kthread_flush",
];

/// Longest that the machine kept something waiting, and what that was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Worst {
    /// How long in one go.
    pub time: Duration,
    /// Which thread of which process, and where.
    pub what: String,
}

/// What vCPUs had of the time in which they were ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// On a processor.
    pub ran: Duration,
    /// Without one.
    pub waited: Duration,
}

impl Share {
    /// In words, that a guest did too little because it got less than half of what it wanted; `None`: it got more.
    #[must_use]
    pub fn excuse(self) -> Option<String> {
        let Share { ran, waited } = self;
        (waited > ran).then(|| {
            let wanted = ran + waited;
            format!(
                "the guest had a processor for {} ms of the {} ms in which it was ready",
                ran.as_millis(),
                wanted.as_millis()
            )
        })
    }
}

/// What was denied so far.
#[derive(Clone, Debug, Default)]
pub struct Denied {
    /// A thread that was ready got no processor.
    pub processor: Worst,
    /// A thread waited for the kernel.
    pub kernel: Worst,
    /// What the guests' vCPUs had.
    pub guest: Share,
}

impl Denied {
    /// What excuses a deadline of this length that has passed, in words; `None`: nothing does.
    #[must_use]
    pub fn excuse(&self, deadline: Duration) -> Option<String> {
        // Several threads one after the other are on the way of every answer.
        let limit = deadline / 3;
        let worst = [(&self.processor, "got no processor"), (&self.kernel, "waited for the kernel")];
        let (worst, how) = worst.into_iter().max_by_key(|(worst, _)| worst.time)?;
        (worst.time >= limit).then(|| format!("{} {how} for {} ms in one go", worst.what, worst.time.as_millis()))
    }
}

/// A thread that looks until it is dropped.
#[derive(Debug)]
pub struct Strain {
    orders: Option<Sender<(String, u32)>>,
    denied: Arc<Mutex<Denied>>,
    looking: Option<JoinHandle<()>>,
}

impl Strain {
    /// Begins, with the harness itself to look at.
    #[must_use]
    pub fn start() -> Self {
        let (orders, taken) = mpsc::channel();
        let denied = Arc::<Mutex<Denied>>::default();
        let told = denied.clone();
        let looking = std::thread::spawn(move || look(&taken, &told));
        let strain = Strain { orders: Some(orders), denied, looking: Some(looking) };
        strain.watch("the harness", std::process::id());
        strain
    }

    /// Looks also at this process.
    pub fn watch(&self, label: &str, pid: u32) {
        // It takes orders as long as this end is there.
        let _ = self.orders.as_ref().map(|orders| orders.send((label.to_owned(), pid)));
    }

    /// What was denied until now.
    #[must_use]
    pub fn denied(&self) -> Denied {
        lock(&self.denied).clone()
    }
}

impl Drop for Strain {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(looking) = self.looking.take() {
            // It only reads; a panic has said so.
            let _ = looking.join();
        }
    }
}

fn lock(denied: &Mutex<Denied>) -> MutexGuard<'_, Denied> {
    denied.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread of a process that is looked at.
#[derive(Clone, Debug, Default)]
struct Seen {
    name: String,
    on_cpu_ns: u64,
    waited_ns: u64,
    /// Since when it has been ready without getting a processor.
    ready: Option<Instant>,
    /// Since when it has waited in this function of the kernel.
    kernel: Option<(Instant, String)>,
}

fn look(orders: &Receiver<(String, u32)>, denied: &Mutex<Denied>) {
    let mut processes: Vec<(String, u32)> = Vec::new();
    let mut threads: BTreeMap<u32, Seen> = BTreeMap::new();
    let mut before = Instant::now();
    for number in 0_u32.. {
        match orders.recv_timeout(PERIOD) {
            Ok(order) => processes.push(order),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let (now, since) = (Instant::now(), before.elapsed());
        before = now;
        for (label, pid) in &processes {
            for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let Some(tid) = task.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
                let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
                let seen = threads.entry(tid).or_insert_with(|| Seen::new(&read));
                let held = held(seen, &read, since, now);
                let kept = if number % KERNEL_EVERY == 0 { kept(seen, &read, now) } else { None };
                note(&mut lock(denied), seen, label, held, kept);
            }
        }
        let mut guest = Share::default();
        for vcpu in threads.values().filter(|seen| seen.is_vcpu()) {
            guest.ran += Duration::from_nanos(vcpu.on_cpu_ns);
            guest.waited += Duration::from_nanos(vcpu.waited_ns);
        }
        lock(denied).guest = guest;
    }
}

fn note(denied: &mut Denied, seen: &Seen, label: &str, held: Option<Duration>, kept: Option<(Duration, String)>) {
    let name = &seen.name;
    if let Some(time) = held.filter(|time| *time > denied.processor.time && !seen.is_vcpu()) {
        denied.processor = Worst { time, what: format!("thread {name} of {label}") };
    }
    if let Some((time, function)) = kept.filter(|(time, _)| *time > denied.kernel.time) {
        denied.kernel = Worst { time, what: format!("thread {name} of {label}, in {function},") };
    }
}

impl Seen {
    fn new(read: &impl Fn(&str) -> String) -> Self {
        Seen { name: read("comm").trim_end().to_owned(), ..Seen::default() }
    }

    fn is_vcpu(&self) -> bool {
        self.name.starts_with("vcpu-")
    }
}

/// How long the thread has been ready in one go without a processor, at least.
fn held(seen: &mut Seen, read: &impl Fn(&str) -> String, since: Duration, now: Instant) -> Option<Duration> {
    let text = read("schedstat");
    let mut fields = text.split_whitespace().map_while(|field| field.parse::<u64>().ok());
    let (on_cpu_ns, waited_ns) = (fields.next()?, fields.next()?);
    let grew = Duration::from_nanos(waited_ns.saturating_sub(seen.waited_ns));
    let is_new = seen.on_cpu_ns == 0;
    let stands = !is_new && (on_cpu_ns, waited_ns) == (seen.on_cpu_ns, seen.waited_ns);
    (seen.on_cpu_ns, seen.waited_ns) = (on_cpu_ns, waited_ns);
    if stands {
        // The account of a wait is written at its end: until then the thread is ready, and nothing else changes.
        let ready = state(&read("stat")) == Some('R');
        seen.ready = ready.then(|| seen.ready.unwrap_or(now));
        return seen.ready.map(|ready| now - ready);
    }
    seen.ready = None;
    // More than the time since the last look cannot be several short waits.
    (!is_new).then(|| grew.saturating_sub(since)).filter(|time| !time.is_zero())
}

/// How long the thread has waited for the kernel in one go, and where.
fn kept(seen: &mut Seen, read: &impl Fn(&str) -> String, now: Instant) -> Option<(Duration, String)> {
    let function = read("wchan");
    let waits = KERNEL_WAITS.iter().any(|begin| function.starts_with(begin));
    seen.kernel = match seen.kernel.take() {
        Some(kernel) if waits && kernel.1 == function => Some(kernel),
        _ => waits.then_some((now, function)),
    };
    seen.kernel.as_ref().map(|(since, function)| (now - *since, function.clone()))
}

/// The state in this `stat`: the letter behind the name, which may hold anything (proc(5)).
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a thread's files say.
    fn files(schedstat: &str, state: char, wchan: &str) -> impl Fn(&str) -> String {
        let (schedstat, stat, wchan) =
            (format!("{schedstat} 7\n"), format!("7 (odd) name) {state} 1"), wchan.to_owned());
        move |name: &str| match name {
            "schedstat" => schedstat.clone(),
            "stat" => stat.clone(),
            _ => wchan.clone(),
        }
    }

    const LOOK: Duration = Duration::from_millis(100);
    const MS: u64 = 1_000_000;

    #[test]
    fn a_wait_for_a_processor_counts_when_it_is_longer_than_the_time_between_two_looks() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        let mut look = |ran: u64, waited: u64| {
            held(&mut seen, &files(&format!("{} {}", ran * MS, waited * MS), 'S', "0"), LOOK, now)
        };
        assert_eq!(look(5, 3), None, "what was before the first look is not known");
        assert_eq!(look(6, 90), None, "these may be many short ones");
        assert_eq!(look(7, 990), Some(Duration::from_millis(800)));
    }

    #[test]
    fn a_thread_that_is_still_ready_waits_and_one_that_sleeps_does_not() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        let mut look =
            |state, after: u64| held(&mut seen, &files("5 3", state, "0"), LOOK, now + Duration::from_millis(after));
        assert_eq!(look('S', 0), None);
        assert_eq!(look('S', 100), None);
        assert_eq!(look('R', 200), Some(Duration::ZERO));
        assert_eq!(look('R', 900), Some(Duration::from_millis(700)));
        assert_eq!(look('S', 1000), None);
    }

    #[test]
    fn a_wait_for_a_worker_of_the_kernel_counts_and_one_for_a_page_does_not() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        let mut look = |wchan, after: u64| {
            kept(&mut seen, &files("5 3", 'D', wchan), now + Duration::from_millis(after)).map(|(time, _)| time)
        };
        assert_eq!(look("__synchronize_srcu.part.0", 0), Some(Duration::ZERO));
        assert_eq!(look("__synchronize_srcu.part.0", 3000), Some(Duration::from_secs(3)));
        assert_eq!(look("__flush_work", 3500), Some(Duration::ZERO));
        assert_eq!(look("handle_userfault", 4000), None);
        assert_eq!(look("futex_wait_queue", 5000), None);
    }

    #[test]
    fn an_excuse_names_the_thread_and_needs_a_third_of_the_deadline() {
        let time = Duration::from_millis(600);
        let worst = Worst { time, what: "thread ferry-dest of the destination".into() };
        let denied = Denied { processor: worst, ..Denied::default() };
        assert_eq!(
            denied.excuse(Duration::from_millis(1500)).unwrap(),
            "thread ferry-dest of the destination got no processor for 600 ms in one go"
        );
        assert_eq!(denied.excuse(Duration::from_secs(20)), None);
        assert_eq!(Denied::default().excuse(Duration::from_millis(1500)), None);
    }

    #[test]
    fn a_process_that_sleeps_is_no_strain() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let strain = Strain::start();
        strain.watch("a sleeper", child.id());
        crate::wait::poll(PERIOD * 8, || None::<()>);
        let denied = strain.denied();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!denied.processor.what.contains("sleeper") && !denied.kernel.what.contains("sleeper"), "{denied:?}");
    }
}
