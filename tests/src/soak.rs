//! Postcopies at random: machines, moments and breaks that a seed chooses, for `ferry-soak
//! --postcopy` and its short test.
//!
//! Every run ends well or panics: the guest checks its own memory all the way, and where the
//! destination holds it still, its memory is compared with the source's byte by byte.

use std::fmt;
use std::time::Duration;

use ferry_guest::workload::{Order, Rate};
use ferry_migration::info::Status;
use serde_json::json;

use crate::random::Random;
use crate::relay::{Fault, Link, Spot};
use crate::wait::{LONG, wait_until};
use crate::{Ferry, GuestLog, Lab, Relay, Spec, disk, memory};

/// Frames of a recovery that always pass.
const IN_A_RECOVERY: [Spot; 6] = [
    Spot::ControlPreamble,
    Spot::Message("Recover"),
    Spot::Message("RecoverAck"),
    Spot::BulkPreamble,
    Spot::UrgentPreamble,
    Spot::Pages(0),
];

/// Recoveries that may fail one after the other without having been told to.
const UNWANTED_BREAKS: u32 = 5;

/// Lets a random time pass: where in a migration something happens is what a seed is for.
fn dawdle(random: &mut Random, most_ms: u64) {
    std::thread::sleep(Duration::from_micros(random.below(most_ms * 1000)));
}

/// When the destination is told to run.
#[derive(Clone, Copy, Debug)]
enum Start {
    AtOnce,
    WithinTheFirstRound,
    AfterTheFirstRound,
    Later,
}

/// What a run was and came to.
#[derive(Debug)]
pub struct Summary {
    /// What the seed chose.
    pub chosen: String,
    /// Breaks that the guest lived through.
    pub breaks: u32,
    /// Whether it came to postcopy at all: rounds may have been enough.
    pub postcopy: bool,
    /// Whether the operator had to say that the destination needs nothing more.
    pub resolved: bool,
    /// Whether memory was compared byte by byte.
    pub compared: bool,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.postcopy { "postcopy" } else { "rounds were enough" };
        write!(f, "{}: {way}, {} breaks", self.chosen, self.breaks)?;
        if self.resolved {
            write!(f, ", ended by the operator's word")?;
        }
        if self.compared { write!(f, ", memory equal") } else { Ok(()) }
    }
}

/// One run.
#[derive(Debug)]
struct Run {
    random: Random,
    source: Ferry,
    destination: Ferry,
    relay: Relay,
    summary: Summary,
}

/// Moves one guest by postcopy, as `seed` wants it.
///
/// # Panics
/// When anything goes wrong.
#[must_use]
pub fn postcopy(lab: &Lab, seed: u64) -> Summary {
    let mut random = Random(seed);
    let spec = choose_machine(lab, seed, &mut random);
    let source = lab.start(&spec);
    let mut guest = GuestLog::new(&source, spec.cpus);
    guest.wait_ready();
    guest.wait_reports(1);
    let compared = spec.disk.is_none() && random.below(2) == 0;
    let backing = random.one_of(&["memfd", "anon"]);
    let mut there = spec.clone().memory(&format!("64M,backing={backing}"));
    there.paused = compared;
    let destination = lab.start_destination(&there);
    let relay = Relay::new(&destination.wait_listening(), None);
    let start = random.one_of(&[Start::AtOnce, Start::WithinTheFirstRound, Start::AfterTheFirstRound, Start::Later]);
    let chosen = format!(
        "{} vCPUs, {} to {backing}, {}, {start:?}",
        spec.cpus,
        spec.memory,
        if spec.disk.is_some() { "disk" } else { "no disk" }
    );
    let summary = Summary { chosen, breaks: 0, postcopy: false, resolved: false, compared };
    let mut run = Run { random, source, destination, relay, summary };
    run.begin(start);
    let breaks = run.random.below(5);
    while run.summary.breaks < u32::try_from(breaks).unwrap_or(0) && run.goes_on() {
        run.break_somehow();
        run.recover_somehow();
    }
    run.end(guest, spec.cpus)
}

fn choose_machine(lab: &Lab, seed: u64, random: &mut Random) -> Spec {
    let backing = random.one_of(&["memfd", "anon"]);
    let cpus = random.one_of(&[1, 2]);
    let spec = Spec::new().cpus(cpus).memory(&format!("64M,backing={backing}")).workload(|load| {
        load.working_set = random.one_of(&[4, 16, 40]) << 20;
        load.rate = Rate::BytesPerSecond(random.one_of(&[8, 32, 128]) << 20);
        load.order = random.one_of(&[Order::Seq, Order::Rand]);
    });
    match random.below(2) {
        0 => spec,
        _ => spec.disk(&disk::image(lab, &format!("disk-{seed}.img"), 4 << 20)),
    }
}

impl Run {
    fn begin(&mut self, start: Start) {
        let bandwidth = self.random.one_of(&[2, 8, 64, 0]) << 20;
        let when = if matches!(start, Start::AfterTheFirstRound) { "first-round" } else { "manual" };
        self.source.allow_postcopy();
        self.source.set_parameters(json!({
            "max-bandwidth": bandwidth, "downtime-limit": 1, "x-ferry-postcopy-when": when,
            "x-ferry-heartbeat-timeout-ms": 1000, "x-ferry-setup-timeout-ms": 2000,
        }));
        self.source.begin_migration(&self.relay.uri());
        match start {
            Start::AtOnce | Start::AfterTheFirstRound => {}
            Start::WithinTheFirstRound => dawdle(&mut self.random, 10),
            Start::Later => dawdle(&mut self.random, 300),
        }
        wait_until("postcopy, or an end without it", LONG, || {
            let status = self.source.migration().status;
            if matches!(status, Some(Status::Setup | Status::Active)) {
                // It may be too early or too late; then this is asked again, or the rounds were
                // enough.
                let _ = self.source.try_qmp("migrate-start-postcopy", json!({}));
            }
            matches!(status, Some(Status::PostcopyActive | Status::Completed)).then_some(())
        });
        self.summary.postcopy = self.source.migration().x_ferry_postcopy.is_some();
    }

    fn statuses(&mut self) -> [Option<Status>; 2] {
        [self.source.migration().status, self.destination.migration().status]
    }

    fn goes_on(&mut self) -> bool {
        self.statuses().iter().all(|status| *status != Some(Status::Completed))
    }

    fn break_somehow(&mut self) {
        dawdle(&mut self.random, 100);
        match self.random.below(5) {
            0 => self.relay.cut_all(),
            1 => self.relay.cut_link(Link::Control),
            2 => self.relay.stall_all(),
            // It may have ended just now.
            3 => drop(self.source.try_qmp("migrate-pause", json!({}))),
            _ => drop(self.destination.try_qmp("migrate-pause", json!({}))),
        }
    }

    /// Waits until both sides have noticed the break, or do not need to any more.
    fn wait_noticed(&mut self) {
        wait_until("both sides to be paused or done", LONG, || {
            let statuses = self.statuses();
            let quiet = |status: &Option<Status>| matches!(status, Some(Status::PostcopyPaused | Status::Completed));
            assert!(
                statuses != [Some(Status::Completed), Some(Status::PostcopyPaused)],
                "the source has let go of pages that the destination lacks"
            );
            statuses.iter().all(quiet).then_some(())
        });
        self.relay.heal();
    }

    fn recover_somehow(&mut self) {
        self.wait_noticed();
        if !self.goes_on() {
            return;
        }
        self.summary.breaks += 1;
        for _ in 0..self.random.below(3) {
            let fault = self.random.one_of(&[Fault::Cut, Fault::CutAfter, Fault::Corrupt(0), Fault::Stall]);
            self.relay.plan_for_new_connections(self.random.one_of(&IN_A_RECOVERY), fault);
            self.resume();
            self.wait_noticed();
            if !self.goes_on() {
                return;
            }
            self.summary.breaks += 1;
        }
        self.recover();
    }

    /// A machine that is too busy for its heartbeats may break a recovery by itself, but not again
    /// and again.
    fn recover(&mut self) {
        for _ in 0..UNWANTED_BREAKS {
            self.resume();
            let settled = |status: &Option<Status>| {
                matches!(status, Some(Status::PostcopyActive | Status::PostcopyPaused | Status::Completed))
            };
            let good = |status: &Option<Status>| matches!(status, Some(Status::PostcopyActive | Status::Completed));
            let statuses = wait_until("the recovery, or its failure", LONG, || {
                Some(self.statuses()).filter(|statuses| statuses.iter().all(settled))
            });
            if statuses.iter().all(good) {
                return;
            }
            self.wait_noticed();
            if !self.goes_on() {
                return;
            }
        }
        panic!("{:?} {:?}", self.source.migration(), self.destination.migration());
    }

    fn resume(&mut self) {
        self.source.qmp("migrate", json!({ "uri": self.relay.uri(), "resume": true }));
    }

    fn end(mut self, mut guest: GuestLog, cpus: u32) -> Summary {
        self.source.set_parameters(json!({ "max-bandwidth": 0 }));
        let info = self.destination.wait_migration_end_or(Status::PostcopyPaused);
        assert_eq!(info.status, Some(Status::Completed), "{info:?}");
        let info = self.source.wait_migration_end_or(Status::PostcopyPaused);
        if info.status == Some(Status::PostcopyPaused) {
            self.source
                .qmp("x-ferry-resolve", json!({ "owner": "destination", "peer-fenced": true, "drop-pages": true }));
            self.summary.resolved = true;
        }
        let info = self.source.wait_migration_end();
        assert_eq!(info.status, Some(Status::Completed), "{info:?}");
        guest.moved_to(&self.destination);
        if self.summary.compared {
            memory::assert_equal(&mut self.source, &mut self.destination, cpus);
            self.destination.qmp("cont", json!({}));
        }
        guest.wait_reports(2);
        guest.assert_ran_in_one_place();
        self.source.quit();
        self.destination.quit();
        self.summary
    }
}
