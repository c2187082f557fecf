//! The simulator: one migration for every seed, with both state machines talking in real encoded
//! frames over links with latency, in virtual time, while things go wrong at random. Then
//! everything is mended, and it must end well.
//!
//! It shares the truth and the record with the explorer, and nothing else: its drivers are its
//! own. Where the explorer tries every order of few faults, the simulator tries many faults in one
//! plausible order, and what only bytes can show: frames that are cut, flipped or repeated must be
//! refused with a typed error and never believed.

mod destination_driver;
mod operator;
pub mod pipe;
pub mod rng;
pub mod sim;
mod source_driver;
pub mod timeline;

use ferry_migration::guards::Guards;
use ferry_migration::{destination, source};

use crate::explorer::Side;
use crate::explorer::facts::End;
use crate::explorer::invariants::finishes::facts_ended_well;
use crate::explorer::record::{Kind, Operation};
use pipe::Read;
use sim::{MIGRATION, Sim};
use timeline::{Happening, Micros};

/// Until then things go wrong.
const MENDED_AT: Micros = 1_500_000;
/// By then it must have ended well.
const DEADLINE: Micros = 60_000_000;

/// How a simulated migration ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// What the source said, if it lived.
    pub source: Option<End>,
    /// Whether the guest runs at the destination.
    pub at_destination: bool,
    /// Frames that were spoilt on their way and refused.
    pub refused_frames: u32,
    /// When, in virtual microseconds.
    pub at_us: Micros,
}

/// Why a seed failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "seed {seed}: {why}\nrun it again: FERRY_SIM_SEED={seed} cargo test -p ferry-tests --test simulator -- --nocapture one_seed"
)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What must not have happened.
    pub why: String,
}

/// Simulates the migration of one seed; `log` gets a line for everything that happens.
///
/// # Errors
/// When a promise breaks, or it does not end well.
pub fn run(seed: u64, log: Option<&mut Vec<String>>) -> Result<Ending, Failure> {
    run_with(seed, Guards::all(), log)
}

/// The same with some guard off, to see whether anybody would notice.
///
/// # Errors
/// As [`run`].
pub fn run_with(seed: u64, guards: Guards, log: Option<&mut Vec<String>>) -> Result<Ending, Failure> {
    let mut sim = Sim::new(seed, guards, log.is_some());
    let outputs = sim.source.start();
    sim.perform_source(outputs);
    sim.time.after(0, Happening::Operator);
    let result = sim.run_to_the_end();
    if let (Some(log), Some(lines)) = (log, sim.log) {
        *log = lines;
    }
    result.map_err(|why| Failure { seed, why })
}

impl Sim {
    fn run_to_the_end(&mut self) -> Result<Ending, String> {
        while let Some(happening) = self.time.next(DEADLINE) {
            if self.faults_on && self.time.now >= MENDED_AT {
                self.mend();
            }
            self.happen(happening);
            self.check()?;
            if !self.faults_on && facts_ended_well(&self.facts, self.arrived) {
                return Ok(self.ending());
            }
        }
        Err(format!("it has not ended well after {} s: {:?}", DEADLINE / 1_000_000, self.facts))
    }

    fn ending(&self) -> Ending {
        Ending {
            source: self.facts.source.end.filter(|_| self.facts.source.alive),
            at_destination: self.facts.runs_at_destination(),
            refused_frames: self.refused_frames,
            at_us: self.time.now,
        }
    }

    fn mend(&mut self) {
        self.faults_on = false;
        self.facts.record.source_sees = true;
        self.facts.record.destination_sees = true;
        self.note(|| "everything is mended".to_owned());
    }

    /// What must never be true.
    fn check(&mut self) -> Result<(), String> {
        let facts = &self.facts;
        if facts.runs_at_source() && facts.runs_at_destination() {
            return Err("the guest runs on both sides".to_owned());
        }
        if let Some(stale) = facts.stale {
            return Err(format!("a stale run: {stale:?}"));
        }
        if let Some(side) = facts.unfenced {
            return Err(format!("the {side:?} runs what it does not own"));
        }
        let freed = facts.source.end == Some(End::Completed) || facts.destination.end == Some(End::Completed);
        if freed && facts.runs_at_destination() && !facts.destination.has_all_pages {
            return Err("a side has completed, and pages are missing".to_owned());
        }
        if facts.source.end == Some(End::Botched) || facts.destination.end == Some(End::Botched) {
            return Err("an end was told without a reason".to_owned());
        }
        self.broken.take().map_or(Ok(()), Err)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Bytes(number, side, bytes) => self.bytes_arrive(number, side, &bytes),
            Happening::Ended(number, side) => self.connection_ended(number, side),
            Happening::Timer(side, timer, number) => {
                if self.timers.get(&(side, timer)) == Some(&number) {
                    self.timers.remove(&(side, timer));
                    match side {
                        Side::Source => self.feed_source(source::Input::Timer(timer)),
                        Side::Destination => self.feed_destination(destination::Input::Timer(timer)),
                    }
                }
            }
            Happening::Source(job) => self.source_job_ends(job),
            Happening::Destination(job) => self.destination_job_ends(job),
            Happening::Ask(side, operation) => self.record_is_asked(side, operation),
            Happening::Straggles(operation) => drop(self.facts.record.carry_out(operation)),
            Happening::Reply(Side::Source, operation, reply) => self.source_hears_record(operation, reply),
            Happening::Reply(Side::Destination, operation, reply) => self.destination_hears_record(operation, reply),
            Happening::Marker(number, whole) => {
                if self.carries(number) {
                    self.facts.destination.has_all_pages |= whole;
                    self.feed_destination(destination::Input::MarkerReached(1));
                }
            }
            Happening::Pages(number) => {
                let destination = &self.facts.destination;
                if self.carries(number) && !destination.armed {
                    // Nothing takes pages before the load; they wait in the socket.
                    self.time.after(1_000, Happening::Pages(number));
                } else if self.carries(number) && destination.faults_alive {
                    self.facts.destination.has_all_pages = true;
                    self.feed_destination(destination::Input::AllReceived);
                }
            }
            Happening::Fault(fault) => self.fault(fault),
            Happening::Operator => self.operator_looks(),
        }
    }

    fn carries(&self, number: u32) -> bool {
        self.connection.as_ref().is_some_and(|c| c.number == number && c.works)
    }

    fn connection_ended(&mut self, number: u32, side: Side) {
        let Some(connection) = self.connection.as_mut().filter(|c| c.number == number && c.held[side as usize]) else {
            return;
        };
        let reason = "the peer closed the control link".to_owned();
        match side {
            Side::Source => {
                connection.to_source.deaf = true;
                self.feed_source(source::Input::LinkLost(reason));
            }
            Side::Destination => {
                connection.to_destination.deaf = true;
                self.feed_destination(destination::Input::LinkLost(reason));
            }
        }
    }

    fn bytes_arrive(&mut self, number: u32, side: Side, bytes: &[u8]) {
        let silent = self.connection.as_ref().is_none_or(|c| c.number != number);
        if silent {
            return;
        }
        if let Some(connection) = &mut self.connection {
            match side {
                Side::Source => connection.to_source.arrive(bytes),
                Side::Destination => connection.to_destination.arrive(bytes),
            }
        }
        // Messages are taken one by one: what one sets going may end the connection.
        loop {
            let Some(connection) = self.connection.as_mut().filter(|c| c.number == number) else { return };
            let more = match side {
                Side::Source => {
                    let read = connection.to_source.read();
                    self.take(read, Sim::feed_source, source::Input::Message, source::Input::LinkLost)
                }
                Side::Destination => {
                    let read = connection.to_destination.read();
                    self.take(read, Sim::feed_destination, destination::Input::Message, destination::Input::LinkLost)
                }
            };
            if !more {
                return;
            }
        }
    }

    fn take<M, I>(
        &mut self,
        read: Read<M>,
        feed: impl Fn(&mut Sim, I),
        message: impl Fn(M) -> I,
        lost: impl Fn(String) -> I,
    ) -> bool {
        match read {
            Read::More => false,
            Read::Message(m) => {
                feed(self, message(m));
                true
            }
            Read::Refused(error) => {
                self.refused_frames += 1;
                feed(self, lost(format!("on the control link: {error}")));
                false
            }
            Read::Forged => {
                self.broken = Some("a message was believed that nobody sent".to_owned());
                false
            }
        }
    }

    /// Asks the record for a change, which takes its time.
    pub fn ask(&mut self, side: Side, kind: Kind) {
        let takes = self.work_time();
        self.time.after(takes, Happening::Ask(side, kind.of(MIGRATION)));
    }

    fn record_is_asked(&mut self, side: Side, operation: Operation) {
        let alive = match side {
            Side::Source => self.facts.source.alive,
            Side::Destination => self.facts.destination.alive,
        };
        // What a process that has died meanwhile had asked for may have reached the record, or
        // not.
        let reaches = self.facts.record.seen_by(side) && (alive || self.rng.percent(50));
        let stalls = self.faults_on && self.rng.percent(5);
        let reply = if reaches && stalls {
            let takes = self.rng.within(1_000, 500_000);
            self.time.after(takes, Happening::Straggles(operation));
            None
        } else if reaches {
            let reply = self.facts.record.carry_out(operation);
            self.note(|| format!("record       {operation:?}: {reply:?}"));
            let lost = self.faults_on && self.rng.percent(5);
            (!lost).then_some(reply)
        } else {
            None
        };
        let takes = self.rng.within(10, 5_000);
        self.time.after(takes, Happening::Reply(side, operation, reply));
    }
}
