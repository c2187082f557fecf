//! What postcopy costs on this host, without a guest: `cargo test -p ferry-memory --lib figures --
//! --ignored --nocapture --test-threads 1`.

use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use ferry_migration::pages::{PAGE_SIZE, PageBitmap};
use vm_memory::{Bytes, GuestAddress};

use super::harness::*;
use super::{Faults, discard_outdated};
use crate::{Backing, Memory};

const SIZE: u64 = 512 << 20;
const PAGES: u64 = SIZE / PAGE_SIZE;

pub(super) fn report(what: &str, backing: Backing, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_nanos() as f64 / 1000.0;
    println!("{what:44} {backing:6} p50 {:6.1} µs  p90 {:6.1}  p99 {:6.1}", at(50), at(90), at(99));
}

/// CPU time of this thread: what others do on the machine hardly shows in it.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn touch(memory: &Memory, page: u64) -> Duration {
    let start = Instant::now();
    memory.guest().read_obj::<u64>(GuestAddress(page * PAGE_SIZE)).unwrap();
    start.elapsed()
}

/// Pages in an order that no prefetch knows.
fn scattered(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |at| at * 48_271 % PAGES)
}

#[test]
#[ignore = "prints figures"]
fn latency_of_one_fault() {
    for backing in BACKINGS {
        for outdated in [false, true] {
            let memory = memory(SIZE, backing);
            if outdated {
                (0..PAGES).for_each(|page| write_page(&memory, page, 0));
            }
            let faults = Faults::arm(&memory, &PageBitmap::full(PAGES)).unwrap();
            let source = Source::serve(&faults);
            let times = scattered(20_000).map(|page| touch(&memory, page)).collect();
            report(if outdated { "one fault, page outdated" } else { "one fault, page new" }, backing, times);
            source.end();
        }
        let memory = memory(SIZE, backing);
        if let Some(memfd) = memory.memfd() {
            (0..PAGES).for_each(|page| {
                std::os::unix::fs::FileExt::write_all_at(&*memfd, &[7; 4096], page * PAGE_SIZE).unwrap();
            });
        }
        let faults = Faults::arm(&memory, &pages(PAGES, |page| page % 512 == 0)).unwrap();
        let source = Source::serve(&faults);
        let times = scattered(20_000).filter(|page| page % 512 != 0).map(|page| touch(&memory, page)).collect();
        report("page is here or zero, not mapped", backing, times);
        source.end();
    }
}

#[test]
#[ignore = "prints figures"]
fn throughput_in_the_background() {
    for backing in BACKINGS {
        for (outdated, what) in [(false, "new"), (true, "outdated")] {
            let memory = memory(SIZE, backing);
            if outdated {
                (0..PAGES).for_each(|page| write_page(&memory, page, 0));
            }
            for (stride, name) in [(1, "runs of 64"), (4, "single pages")] {
                let missing = pages(PAGES, |page| page % stride == 0);
                discard_outdated(&memory, &missing).unwrap();
                let faults = Faults::arm(&memory, &missing).unwrap();
                let mut landing = faults.landing();
                landing.buffer(64).fill(7);
                let (start, start_cpu) = (Instant::now(), cpu_time());
                for (at, word) in missing.words().iter().enumerate() {
                    landing.place(at as u64 * 64, *word).unwrap();
                }
                let each = |time: Duration| time.as_secs_f64() * 1e6 / missing.count() as f64;
                println!(
                    "background, {what:8} {name:12} {backing:6} {:5.2} µs a page ({:5.2} µs of CPU time)",
                    each(start.elapsed()),
                    each(cpu_time() - start_cpu)
                );
                assert_eq!(faults.remaining(), 0);
                let start = Instant::now();
                faults.disarm().unwrap();
                println!("  disarm {:?}", start.elapsed());
            }
        }
    }
}

#[test]
#[ignore = "prints figures"]
fn arming() {
    for backing in BACKINGS {
        for (stride, name) in [(1, "all"), (4, "every 4th"), (64, "every 64th"), (1024, "every 1024th")] {
            let memory = memory(SIZE, backing);
            (0..PAGES).for_each(|page| write_page(&memory, page, 0));
            let missing = pages(PAGES, |page| page % stride == 0);
            let start = cpu_time();
            discard_outdated(&memory, &missing).unwrap();
            let early = cpu_time() - start;
            let start = cpu_time();
            let faults = Faults::arm(&memory, &missing).unwrap();
            let armed = cpu_time() - start;
            let start = cpu_time();
            drop(faults);
            println!(
                "{name:12} of {PAGES} outdated, {backing:6} discarded in {early:10.1?} ({:5.2} µs each), then armed in {armed:8.1?}, released in {:8.1?}",
                early.as_secs_f64() * 1e6 / missing.count() as f64,
                cpu_time() - start
            );
        }
    }
}

#[test]
#[ignore = "prints figures"]
fn faults_while_pages_stream_in() {
    let never = AtomicBool::new(false);
    for backing in BACKINGS {
        let memory = memory(SIZE, backing);
        let missing = PageBitmap::full(PAGES);
        let faults = Faults::arm(&memory, &missing).unwrap();
        let source = Source::serve(&faults);
        thread::scope(|scope| {
            let background = scope.spawn(|| send_all(&faults, &missing, 0, &never));
            let mut times = Vec::new();
            for page in scattered(PAGES) {
                if background.is_finished() {
                    break;
                }
                times.push(touch(&memory, page));
            }
            report("touch while the background streams", backing, times);
        });
        println!("  {:?}", faults.blocktime());
        source.end();
    }
}
