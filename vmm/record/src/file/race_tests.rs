//! Many openers of one record at once, each with an open file of its own as separate processes
//! have: every generation has exactly one winner. And what a swap costs, as a measurement to run
//! by hand.

use std::collections::BTreeMap;
use std::sync::{Barrier, Mutex};

use super::tests::{Folder, ask, handover, owner};
use super::*;
use crate::faulty::{Fault, Faulty, Plan, Strikes};

const OPENERS: u128 = 6;
const LAST_GENERATION: u64 = 40;

/// Swaps towards `me` until the last generation, and notes each that was won.
fn race(file: &dyn Ownership, me: u128, won: &Mutex<BTreeMap<u64, Vec<u128>>>) {
    loop {
        let before = file.read().unwrap().expect("the record was created");
        if before.generation >= LAST_GENERATION {
            return;
        }
        let expected = Expected::reign(before.generation, before.owner.clone());
        let generation = before.generation + 1;
        // As many migrations as racers: else a rival's change would look like a repeat of one's
        // own.
        let mine = Record { generation, owner: owner(me), migration_id: me, ..before };
        let swap = loop {
            match file.swap(&expected, &mine) {
                Ok(swap) => break swap,
                Err(error) => assert!(error.is_unreachable(), "{error}"),
            }
        };
        match swap {
            Swap::Won => won.lock().unwrap().entry(generation).or_default().push(me),
            Swap::Lost(now) => assert!(now.generation >= generation, "lost to an older record: {now:?}"),
        }
    }
}

fn winners_of(opener: impl Fn(u128) -> Box<dyn Ownership>) -> BTreeMap<u64, Vec<u128>> {
    let won = Mutex::new(BTreeMap::new());
    let start = Barrier::new(OPENERS as usize);
    std::thread::scope(|scope| {
        for me in 1..=OPENERS {
            let file = opener(me);
            let (won, start) = (&won, &start);
            scope.spawn(move || {
                start.wait();
                race(&*file, me, won);
            });
        }
    });
    won.into_inner().unwrap()
}

fn assert_no_two_winners(winners: &BTreeMap<u64, Vec<u128>>) {
    for (generation, owners) in winners {
        assert_eq!(owners.len(), 1, "generation {generation} was won by {owners:?}");
    }
}

#[test]
fn every_generation_has_one_winner() {
    let folder = Folder::new();
    assert_eq!(folder.opener().create(&handover().announce(0).record).unwrap(), Swap::Won);
    let winners = winners_of(|_| Box::new(folder.opener()));
    assert_no_two_winners(&winners);
    assert_eq!(winners.keys().copied().collect::<Vec<_>>(), (2..=LAST_GENERATION).collect::<Vec<_>>());
    let last = folder.opener().read().unwrap().unwrap();
    assert_eq!(Some(&vec![last.owner.id]), winners.get(&last.generation));
}

/// While requests and replies get lost and writes are torn, a winner may be overtaken before it
/// hears that it won; but two are never told so.
#[test]
fn no_generation_has_two_winners_when_calls_fail() {
    let folder = Folder::new();
    assert_eq!(folder.opener().create(&handover().announce(0).record).unwrap(), Swap::Won);
    let winners = winners_of(|me| {
        let faulty = Faulty::new(folder.opener());
        let fault = [Fault::ReplyLost, Fault::RequestLost, Fault::Torn(300), Fault::Unreachable][me as usize % 4];
        faulty.set(Some(Plan { strikes: Strikes::Writes, fault, times: Some(5) }));
        Box::new(faulty)
    });
    assert_no_two_winners(&winners);
    assert!(winners.len() >= LAST_GENERATION as usize / 2, "most calls are answered: {winners:?}");
    assert_eq!(folder.opener().read().unwrap().unwrap().generation, LAST_GENERATION);
}

#[test]
fn one_creator_wins() {
    let folder = Folder::new();
    let won = Mutex::new(Vec::new());
    let start = Barrier::new(OPENERS as usize);
    std::thread::scope(|scope| {
        for me in 1..=OPENERS {
            let (won, start, file) = (&won, &start, folder.opener());
            scope.spawn(move || {
                start.wait();
                let record = Record { owner: owner(me), ..handover().announce(0).record };
                if file.create(&record).unwrap() == Swap::Won {
                    won.lock().unwrap().push(me);
                }
            });
        }
    });
    let won = won.into_inner().unwrap();
    assert_eq!(won.len(), 1, "created by {won:?}");
    assert_eq!(folder.opener().read().unwrap().unwrap().owner, owner(won[0]));
}

/// `cargo test -p ferry-record --release --lib -- --ignored --nocapture swap_latency`
#[test]
#[ignore = "a measurement: it prints, and asserts nothing about time"]
fn swap_latency() {
    const SWAPS: usize = 1000;
    let folder = Folder::new();
    let file = folder.opener();
    assert_eq!(file.create(&handover().announce(0).record).unwrap(), Swap::Won);
    let mut swaps_us = Vec::with_capacity(SWAPS);
    let mut reads_us = Vec::with_capacity(SWAPS);
    for turn in 0..SWAPS {
        let announced = handover().announce(turn as u64);
        let change = if turn % 2 == 0 { announced } else { announced.record.settle() };
        let began = Instant::now();
        assert_eq!(ask(&file, &change).unwrap(), Swap::Won);
        swaps_us.push(began.elapsed().as_micros());
        let began = Instant::now();
        file.read().unwrap();
        reads_us.push(began.elapsed().as_micros());
    }
    for (what, mut times) in [("swap", swaps_us), ("read", reads_us)] {
        times.sort_unstable();
        let at = |percent: usize| times[SWAPS * percent / 100];
        println!("{what}: p50 {} us, p99 {} us, longest {} us", at(50), at(99), times[SWAPS - 1]);
    }
}
