//! Postcopy on this host's real userfaultfd, without a guest: plain threads and system calls touch
//! the pages.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use ferry_migration::pages::{PAGE_SIZE, PageBitmap};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::harness::*;
use super::{Faults, Handler, Next, UserfaultError, discard_outdated, kernel};
use crate::{Backing, Memory};

const SIZE: u64 = 16 << 20;
const PAGES: u64 = SIZE / PAGE_SIZE;
const RUNS: usize = 20;

fn no_cancel() -> EventFd {
    EventFd::new(libc::EFD_CLOEXEC).unwrap()
}

fn next_page(handler: &mut Handler) -> u64 {
    match handler.next(PATIENCE, &no_cancel()).unwrap() {
        Next::Page(page) => page,
        other => panic!("{other:?}"),
    }
}

fn place(faults: &Arc<Faults>, page: u64, version: u8) -> bool {
    let mut landing = faults.landing();
    fill(landing.buffer(1), stamp(page, version));
    landing.place(page & !63, 1 << (page % 64)).unwrap() != 0
}

#[test]
fn whoever_touches_a_missing_page_finds_what_the_source_sent() {
    let _limit = limit();
    for run in 0..RUNS {
        for backing in BACKINGS {
            let memory = memory(SIZE, backing);
            (0..PAGES).filter(|page| page % 4 != 3).for_each(|page| write_page(&memory, page, 0));
            // A quarter is outdated, a quarter up to date, a quarter was never sent, a quarter is
            // zero everywhere.
            let missing = pages(PAGES, |page| matches!(page % 4, 0 | 2));
            let faults = Faults::arm(&memory, &missing).unwrap();
            let source = Source::serve(&faults);
            let never = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| send_all(&faults, &missing, run * 3 % 64, &never));
                for start in [0, PAGES / 2] {
                    let memory = &memory;
                    scope.spawn(move || {
                        for page in (start..PAGES).chain(0..start) {
                            let expected = match page % 4 {
                                0 | 2 => stamp(page, 1),
                                1 => stamp(page, 0),
                                _ => 0,
                            };
                            assert_eq!(read_page(memory, page), expected, "{backing} page {page}");
                        }
                    });
                }
            });
            // Waits for a landing that has woken its reader and counts the page only now.
            faults.disarm().unwrap();
            assert_eq!((faults.remaining(), faults.awaited()), (0, vec![]));
            let asked = source.end();
            assert!(asked.iter().all(|page| missing.contains(*page)), "{backing}: {asked:?}");
            let blocktime = faults.blocktime();
            assert_eq!(blocktime.requests, asked.len() as u64);
            assert!(blocktime.waits >= blocktime.requests, "{blocktime:?}");
            write_page(&memory, 0, 2);
            let late = faults.landing().place(0, 1).unwrap();
            assert_eq!((late, read_page(&memory, 0)), (0, stamp(0, 2)), "an answer that comes last changes nothing");
        }
    }
}

#[test]
fn system_calls_wait_for_missing_pages() {
    let _limit = limit();
    for _ in 0..RUNS {
        for backing in BACKINGS {
            let memory = memory(SIZE, backing);
            let missing = pages(PAGES, |page| page < 64);
            let faults = Faults::arm(&memory, &missing).unwrap();
            let source = Source::serve(&faults);
            let (mut reader, mut writer) = std::io::pipe().unwrap();
            // SAFETY: page 5 is mapped for as long as the memory lives, and no thread writes the
            // mapped page meanwhile.
            let page = unsafe { std::slice::from_raw_parts(memory.host_pages(5).0, PAGE_SIZE as usize) };
            writer.write_all(page).unwrap();
            let mut bytes = [0; PAGE_SIZE as usize];
            reader.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes[..8], stamp(5, 1).to_le_bytes());

            writer.write_all(b"ferry").unwrap();
            // SAFETY: page 6 is mapped for as long as the memory lives, and no other thread uses
            // it.
            let part = unsafe { std::slice::from_raw_parts_mut(memory.host_pages(6).0, 5) };
            reader.read_exact(part).unwrap();
            let mut found = [0; 16];
            memory.guest().read_slice(&mut found, GuestAddress(6 * PAGE_SIZE)).unwrap();
            assert_eq!(&found[..5], b"ferry");
            assert_eq!(found[8..], stamp(6, 1).to_le_bytes(), "the rest of the page came from the source");
            assert_eq!(source.end(), [5, 6]);
        }
    }
}

#[test]
fn a_page_that_two_links_bring_is_placed_once() {
    let _limit = limit();
    for _ in 0..RUNS {
        for backing in BACKINGS {
            let memory = memory(SIZE, backing);
            let faults = Faults::arm(&memory, &PageBitmap::full(PAGES)).unwrap();
            let placed: Vec<Vec<u64>> = thread::scope(|scope| {
                let links = [1, 2].map(|version| {
                    let mut landing = faults.landing();
                    scope.spawn(move || {
                        let place = |at: u64| {
                            for (bit, page) in landing.buffer(64).chunks_exact_mut(PAGE_SIZE as usize).enumerate() {
                                fill(page, stamp(at * 64 + bit as u64, version));
                            }
                            landing.place(at * 64, u64::MAX).unwrap()
                        };
                        (0..PAGES / 64).map(place).collect()
                    })
                });
                links.map(|link| link.join().unwrap()).into()
            });
            assert!(placed[0].iter().zip(&placed[1]).all(|(a, b)| a & b == 0 && a | b == u64::MAX), "{backing}");
            for page in 0..PAGES {
                let version = if placed[0][(page / 64) as usize] >> (page % 64) & 1 == 1 { 1 } else { 2 };
                assert_eq!(read_page(&memory, page), stamp(page, version), "{backing} page {page}");
            }
            assert_eq!((faults.remaining(), faults.received().count()), (0, PAGES));
        }
    }
}

#[test]
fn what_the_guest_wrote_is_never_overwritten() {
    let _limit = limit();
    for backing in BACKINGS {
        let memory = memory(SIZE, backing);
        write_page(&memory, 9, 0);
        let faults = Faults::arm(&memory, &pages(PAGES, |page| page == 8)).unwrap();
        assert!(place(&faults, 8, 1));
        for page in [8, 9] {
            write_page(&memory, page, 7);
            assert!(!place(&faults, page, 3), "{backing}");
            assert_eq!(faults.landing().place_zero(0, 0b11 << 8).unwrap(), 0, "{backing}");
            assert_eq!(read_page(&memory, page), stamp(page, 7), "{backing}");
        }
        // A page that the machine has not cannot be placed either.
        assert_eq!(faults.landing().place_zero(PAGES * 64, u64::MAX).unwrap(), 0);
    }
}

#[test]
fn outdated_pages_are_missing_even_within_huge_ones() {
    let _limit = limit();
    let switch = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    for run in 0..RUNS as u64 {
        for backing in BACKINGS {
            let memory = memory(SIZE, backing);
            (0..PAGES).for_each(|page| write_page(&memory, page, 0));
            if backing == Backing::Anon && run == 0 && !switch.contains("[never]") && !switch.is_empty() {
                assert!(huge_pages(&memory) > 0, "this test is about huge pages");
            }
            let missing = pages(PAGES, |page| page % (run + 2) == 1);
            if run % 2 == 1 {
                // What was discarded before may be touched again by a rehearsal.
                discard_outdated(&memory, &missing).unwrap();
                read_page(&memory, run + 3);
            }
            let faults = Faults::arm(&memory, &missing).unwrap();
            let source = Source::serve(&faults);
            for page in 0..PAGES {
                let version = u8::from(missing.contains(page));
                assert_eq!(read_page(&memory, page), stamp(page, version), "{backing} page {page}");
            }
            assert_eq!(source.end().len() as u64, missing.count(), "{backing}");
            faults.disarm().unwrap();
        }
    }
}

/// Bytes of the memory's first mapping that huge pages back, by `/proc/self/smaps`.
fn huge_pages(memory: &Memory) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let start = format!("{:x}-", memory.host_pages(0).0 as u64);
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&start));
    let line = lines.find_map(|line| line.strip_prefix("AnonHugePages:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn pages_of_zeros_take_no_memory() {
    let _limit = limit();
    for _ in 0..RUNS {
        for backing in BACKINGS {
            let memory = memory(SIZE, backing);
            (0..128).for_each(|page| write_page(&memory, page, 0));
            let faults = Faults::arm(&memory, &pages(PAGES, |page| page < 256)).unwrap();
            let mut handler = faults.handler();
            thread::scope(|scope| {
                let waiter = scope.spawn(|| read_page(&memory, 70));
                assert_eq!(next_page(&mut handler), 70);
                let mut landing = faults.landing();
                for word in 0..4 {
                    assert_eq!(landing.place_zero(word * 64, u64::MAX).unwrap(), u64::MAX);
                }
                assert_eq!(waiter.join().unwrap(), 0, "{backing}");
            });
            let allocated = memory.populated().unwrap();
            assert!((0..256).all(|page| page == 70 || !allocated.contains(page)), "{backing}: {allocated:?}");
            drop(handler);
            let source = Source::serve(&faults);
            for page in 0..PAGES {
                assert_eq!(read_page(&memory, page), 0, "{backing} page {page}");
                write_page(&memory, page, 4);
            }
            assert_eq!(source.end(), [0; 0], "{backing}: nothing had to be asked for");
        }
    }
}

#[test]
fn a_released_attempt_leaves_nobody_waiting_and_memory_to_use_again() {
    let _limit = limit();
    for run in 0..RUNS {
        for backing in BACKINGS {
            let memory = memory(SIZE, backing);
            for by_drop in [run % 2 == 0, run % 2 == 1] {
                let faults = Faults::arm(&memory, &pages(PAGES, |page| page % 2 == 0)).unwrap();
                let mut handler = faults.handler();
                thread::scope(|scope| {
                    let memory = &memory;
                    let waiters = [10, 10, 600].map(|page| scope.spawn(move || read_page(memory, page)));
                    let mut asked = [next_page(&mut handler), next_page(&mut handler)];
                    asked.sort_unstable();
                    assert_eq!((asked, faults.awaited()), ([10, 600], vec![10, 600]));
                    if by_drop {
                        drop((handler, faults));
                    } else {
                        faults.release().unwrap();
                        let error = faults.landing().place(0, 1).unwrap_err();
                        assert!(matches!(error, UserfaultError::Ended), "{error}");
                        assert!(matches!(faults.guest_started(), Err(UserfaultError::Ended)));
                        assert!(matches!(faults.disarm(), Err(UserfaultError::Ended)));
                    }
                    waiters.into_iter().for_each(|waiter| assert_eq!(waiter.join().unwrap(), 0));
                });
                memory.discard().unwrap();
                assert!(memory.populated().unwrap().is_empty());
            }
        }
    }
}

#[test]
fn a_guest_that_runs_never_finds_zeros() {
    let _limit = limit();
    for backing in BACKINGS {
        let memory = Arc::new(memory(SIZE, backing));
        let faults = Faults::arm(&memory, &pages(PAGES, |page| page == 3)).unwrap();
        faults.guest_started().unwrap();
        faults.guest_not_started();
        faults.guest_started().unwrap();
        assert!(matches!(faults.release(), Err(UserfaultError::GuestRuns { remaining: 1 })));
        assert!(matches!(faults.disarm(), Err(UserfaultError::Incomplete { remaining: 1 })));
        let guest = memory.clone();
        // It waits until the process ends.
        let waiter = thread::spawn(move || read_page(&guest, 3));
        let mut handler = faults.handler();
        assert_eq!(next_page(&mut handler), 3);
        drop((handler, faults));
        let deadline = Instant::now() + Duration::from_millis(20);
        while Instant::now() < deadline {
            assert!(!waiter.is_finished(), "{backing}");
            thread::yield_now();
        }
    }
}

#[test]
fn waits_are_counted_and_cancelled_in_time() {
    let _limit = limit();
    for backing in BACKINGS {
        let memory = memory(SIZE, backing);
        let faults = Faults::arm(&memory, &pages(PAGES, |page| page < 8)).unwrap();
        let mut handler = faults.handler();
        let cancel = no_cancel();
        assert_eq!(handler.next(Duration::from_millis(1), &cancel).unwrap(), Next::TimedOut);
        cancel.write(1).unwrap();
        assert_eq!(handler.next(PATIENCE, &cancel).unwrap(), Next::Cancelled);
        let waited = thread::scope(|scope| {
            let waiters = [1, 1, 1].map(|page| {
                let memory = &memory;
                scope.spawn(move || read_page(memory, page))
            });
            assert_eq!(next_page(&mut handler), 1);
            let asked = Instant::now();
            while asked.elapsed() < Duration::from_millis(3) {
                assert_eq!(handler.next(Duration::from_millis(1), &no_cancel()).unwrap(), Next::TimedOut, "asked once");
            }
            assert!(place(&faults, 1, 1));
            let waited = asked.elapsed();
            waiters.into_iter().for_each(|waiter| assert_eq!(waiter.join().unwrap(), stamp(1, 1)));
            waited
        });
        let blocktime = faults.blocktime();
        assert_eq!((blocktime.requests, blocktime.waits), (1, 1), "{backing}");
        assert!(blocktime.longest_us >= 3000 && blocktime.total_us >= 3000, "{blocktime:?}");
        assert!(u128::from(blocktime.total_us) <= waited.as_micros() + 20_000, "{blocktime:?}");
        assert_eq!(blocktime.histogram[11..].iter().sum::<u64>(), 1);
    }
}

#[test]
fn a_page_that_cannot_be_placed_is_an_error_and_may_come_again() {
    let _limit = limit();
    for backing in BACKINGS {
        let memory = memory(SIZE, backing);
        let faults = Faults::arm(&memory, &pages(PAGES, |page| page < 8)).unwrap();
        let range = &faults.ranges[0];
        faults.uffd.unregister(range.start().cast(), range.len()).unwrap();
        let error = faults.landing().place(0, 0b11000).unwrap_err();
        assert!(matches!(error, UserfaultError::Place { page: 3, .. }), "{backing}: {error}");
        assert_eq!(faults.remaining(), 8);
        faults.register(range, backing).unwrap();
        assert!(place(&faults, 3, 1));
        assert_eq!((read_page(&memory, 3), faults.remaining()), (stamp(3, 1), 7));
    }
}

#[test]
fn a_missing_page_that_is_there_all_the_same_is_not_passed_over() {
    let _limit = limit();
    let memory = memory(SIZE, Backing::Anon);
    let faults = Faults::arm(&memory, &pages(PAGES, |page| page < 8)).unwrap();
    kernel::zero(&faults.uffd, faults.ranges[0].host(2), 1).unwrap();
    let error = faults.landing().place(0, 0b111).unwrap_err();
    assert!(matches!(error, UserfaultError::Place { page: 2, .. }), "{error}");
    assert_eq!(faults.remaining(), 6, "those before it are in place");
}

#[test]
fn a_list_of_another_machine_is_refused() {
    let _limit = limit();
    let memory = memory(SIZE, Backing::Anon);
    let error = Faults::arm(&memory, &PageBitmap::full(PAGES - 1)).unwrap_err();
    assert!(error.to_string().contains("--memory"), "{error}");
}

#[test]
fn a_source_that_stops_leaves_the_rest_to_be_sent_later() {
    let _limit = limit();
    let stop = AtomicBool::new(false);
    for backing in BACKINGS {
        let memory = memory(SIZE, backing);
        let missing = PageBitmap::full(PAGES);
        let faults = Faults::arm(&memory, &missing).unwrap();
        place(&faults, 100, 1);
        stop.store(true, SeqCst);
        send_all(&faults, &missing, 0, &stop);
        assert_eq!(faults.remaining(), PAGES - 1);
        // Recovery: the source learns what is here, and sends the rest.
        let received = faults.received();
        assert!(received.contains(100) && received.count() == 1);
        stop.store(false, SeqCst);
        send_all(&faults, &missing, 7, &stop);
        assert_eq!(faults.remaining(), 0);
        faults.disarm().unwrap();
        assert!((0..PAGES).all(|page| read_page(&memory, page) == stamp(page, 1)), "{backing}");
    }
}
