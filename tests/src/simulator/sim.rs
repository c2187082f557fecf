//! One simulated migration: both state machines, the bytes between them, the truth, and what is
//! still to happen.

use std::collections::HashMap;

use ferry_migration::destination::Destination;
use ferry_migration::guards::Guards;
use ferry_migration::message::Handshake;
use ferry_migration::source::{Plan, Source};
use ferry_migration::{Timer, ToDestination, ToSource};

use super::pipe::Pipe;
use super::rng::Rng;
use super::timeline::{Fault, Happening, Micros, Timeline};
use crate::explorer::facts::Facts;
use crate::explorer::record::Migration;
use crate::explorer::scenario::GENERATION;
use crate::explorer::{Arbiter, Side};

/// The only migration.
pub const MIGRATION: Migration = Migration { generation: GENERATION as u8, id: 1 };

/// One connection, in bytes.
#[derive(Debug)]
pub struct Connection {
    /// Which, counted from 1.
    pub number: u32,
    /// What is sent arrives.
    pub works: bool,
    /// Which sides still hold it; the source's first.
    pub held: [bool; 2],
    /// Bytes to the destination.
    pub to_destination: Pipe<ToDestination>,
    /// Bytes to the source.
    pub to_source: Pipe<ToSource>,
    /// When the last bytes in each direction arrive: later bytes come later.
    pub arrives: [Micros; 2],
}

/// Everything.
#[derive(Debug)]
pub struct Sim {
    /// Where chance comes from.
    pub rng: Rng,
    /// Time.
    pub time: Timeline,
    /// The source.
    pub source: Source,
    /// The destination.
    pub destination: Destination,
    /// The truth.
    pub facts: Facts,
    /// The connection, once there is one.
    pub connection: Option<Connection>,
    /// Whether a source ever connected.
    pub arrived: bool,
    /// Running timers, and the number with which each was started last.
    pub timers: HashMap<(Side, Timer), u64>,
    /// The last number given to a timer.
    pub timer_number: u64,
    /// Things may go wrong.
    pub faults_on: bool,
    /// What the source was asked for.
    pub plan: Plan,
    /// The destination sees the source's record.
    pub record_shared: bool,
    /// An operator's word that waits for the record's answer is for the source.
    pub wish_is_source: bool,
    /// What has happened, for whoever runs a seed again.
    pub log: Option<Vec<String>>,
    /// Frames that a wire refused.
    pub refused_frames: u32,
    /// What must not have happened.
    pub broken: Option<String>,
}

impl Sim {
    /// The migration that this seed describes.
    #[must_use]
    pub fn new(seed: u64, guards: Guards, with_log: bool) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan {
            generation: GENERATION,
            rehearse: rng.percent(50),
            postcopy: rng.percent(60),
            handshake: if rng.percent(60) { Handshake::Owned } else { Handshake::Setup },
            insist_on_record: rng.percent(10),
            has_record: false,
        };
        // A guest with a disk has a record with every handshake.
        let has_record = plan.handshake == Handshake::Owned || rng.percent(50);
        let plan = Plan { has_record, ..plan };
        let record_shared = rng.percent(90);
        let mut sim = Sim {
            rng,
            time: Timeline::default(),
            source: Source::with_guards(plan, guards),
            destination: Destination::with_guards(guards),
            facts: Facts::new(Arbiter::Record),
            connection: None,
            arrived: false,
            timers: HashMap::new(),
            timer_number: 0,
            faults_on: true,
            plan,
            record_shared,
            wish_is_source: false,
            log: with_log.then(Vec::new),
            refused_frames: 0,
            broken: None,
        };
        sim.plan_faults();
        sim
    }

    /// Chooses what breaks on its own, and when.
    fn plan_faults(&mut self) {
        let faults = [
            (25, Fault::Break),
            (15, Fault::Silence),
            (6, Fault::Crash(Side::Source)),
            (8, Fault::Crash(Side::Destination)),
            (12, Fault::Reach(Side::Source, false)),
            (12, Fault::Reach(Side::Destination, false)),
            (4, Fault::FaultsDie),
            (5, Fault::Cancel(Side::Source)),
            (4, Fault::Cancel(Side::Destination)),
            (6, Fault::Pause(Side::Source)),
            (6, Fault::Pause(Side::Destination)),
            (15, Fault::StartPostcopy),
        ];
        for (chance, fault) in faults {
            if self.rng.percent(chance) {
                let at = self.rng.below(400_000);
                self.time.after(at, Happening::Fault(fault));
            }
        }
    }

    /// Notes what happens, when somebody reads it.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        let now = self.time.now;
        if let Some(log) = &mut self.log {
            log.push(format!("{:>10.3} ms  {:<12} {}", now as f64 / 1000.0, self.facts.who_runs(), text()));
        }
    }

    /// Starts a timer, anew if it runs.
    pub fn start_timer(&mut self, side: Side, timer: Timer) {
        self.timer_number += 1;
        self.timers.insert((side, timer), self.timer_number);
        let runs = match timer {
            Timer::Heartbeat => 100_000,
            Timer::PeerSilent => 400_000,
            Timer::RetryRecord => 150_000,
            Timer::Start => 200_000,
            Timer::Load | Timer::Stop | Timer::Rehearsal | Timer::Recover => 500_000,
            Timer::Setup => 1_000_000,
        };
        self.time.after(runs, Happening::Timer(side, timer, self.timer_number));
    }

    /// How long some work takes: mostly short, now and then longer than anybody waits.
    pub fn work_time(&mut self) -> Micros {
        if self.faults_on && self.rng.percent(4) {
            self.rng.within(100_000, 1_500_000)
        } else {
            self.rng.within(10, 20_000)
        }
    }

    /// Whether some work fails.
    pub fn work_fails(&mut self) -> bool {
        self.faults_on && self.rng.percent(3)
    }

    /// Ends the connection; unless `silently`, both sides are told soon.
    pub fn break_connection(&mut self, silently: bool) {
        let Some(connection) = &mut self.connection else { return };
        if !connection.works {
            return;
        }
        connection.works = false;
        if silently {
            return;
        }
        let number = connection.number;
        let last = connection.arrives;
        for (side, arrives) in [(Side::Destination, last[0]), (Side::Source, last[1])] {
            let delay = arrives.saturating_sub(self.time.now) + self.rng.within(1, 3_000);
            self.time.after(delay, Happening::Ended(number, side));
        }
    }

    /// A side lets go of the connection, and the other is told.
    pub fn close(&mut self, side: Side) {
        if let Some(connection) = &mut self.connection {
            connection.held[side as usize] = false;
            match side {
                Side::Source => connection.to_source.deaf = true,
                Side::Destination => connection.to_destination.deaf = true,
            }
        }
        self.break_connection(false);
    }
}
