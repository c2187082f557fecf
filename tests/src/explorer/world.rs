//! Everything at one moment: both state machines, the link, work under way, timers, the truth, and
//! what may still go wrong.

use ferry_migration::destination::Destination;
use ferry_migration::guards::Guards;
use ferry_migration::source::{Plan, Source};
use ferry_migration::{Timer, destination, source};

use super::Side;
use super::bounds::Bounds;
use super::event::Log;
use super::facts::Facts;
use super::job::{DestinationJob, RecordJob, SourceJob};
use super::link::{Health, Link};
use super::record::{Migration, Operation};
use super::scenario::{GENERATION, Scenario};
use super::set::Set;

/// One moment of a migration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// The source's state machine.
    pub source: Source,
    /// The destination's state machine.
    pub destination: Destination,
    /// The truth about both.
    pub facts: Facts,
    /// The connection between them.
    pub link: Link,
    /// The migration has begun.
    pub begun: bool,
    /// A source has connected: the destination's state machine has begun.
    pub arrived: bool,
    /// The destination has looked at the disk for the greeting, and its migration goes on.
    pub awaits_guest: bool,
    /// Work under way at the source.
    pub source_jobs: Set<SourceJob>,
    /// Work that the source interrupted: it may answer all the same.
    pub source_late: Set<SourceJob>,
    /// Work under way at the destination.
    pub destination_jobs: Set<DestinationJob>,
    /// Work that the destination interrupted: it may answer all the same.
    pub destination_late: Set<DestinationJob>,
    /// What each side asks of the record; the source's first.
    pub record_jobs: [Option<RecordJob>; 2],
    /// Changes of the record that were given up as unreachable and may still happen.
    pub stragglers: [Option<Operation>; 2],
    /// The destination is to change the record as soon as it can be reached: to settle it, or,
    /// where it came without, to name itself.
    pub settling: Option<Operation>,
    /// The source has a record.
    pub has_record: bool,
    /// The guards in force.
    pub guards: Guards,
    /// An operator's word that waits for the record's answer is for the source.
    pub wish_is_source: bool,
    /// The migration that goes on.
    pub migration: Migration,
    /// Timers that run at the source.
    pub source_timers: Set<Timer>,
    /// Timers that run at the destination.
    pub destination_timers: Set<Timer>,
    /// What may still go wrong.
    pub budget: Bounds,
}

impl World {
    /// The moment at which the migration begins; the one before it, if the guest has to be named
    /// here first.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        let mut world = World::before(scenario);
        if scenario.has_come {
            world.has_record = false;
            world.facts.source.arriving = true;
            world.facts.record = world.facts.record.when_come();
        } else {
            world.begin(scenario, &mut Log::off());
        }
        world
    }

    /// The moment before a migration begins.
    #[must_use]
    pub fn before(scenario: &Scenario) -> Self {
        World {
            source: Source::with_guards(scenario.plan(), scenario.guards),
            destination: Destination::with_guards(scenario.guards),
            facts: Facts::new(scenario.arbiter),
            link: Link::none(),
            begun: false,
            arrived: false,
            awaits_guest: false,
            source_jobs: Set::new(),
            source_late: Set::new(),
            destination_jobs: Set::new(),
            destination_late: Set::new(),
            record_jobs: [None; 2],
            stragglers: [None; 2],
            settling: None,
            has_record: scenario.has_record,
            guards: scenario.guards,
            wish_is_source: false,
            migration: Migration { generation: GENERATION as u8, id: 1 },
            source_timers: Set::new(),
            destination_timers: Set::new(),
            budget: scenario.bounds,
        }
    }

    /// The source begins its migration.
    pub fn begin(&mut self, scenario: &Scenario, log: &mut Log) {
        self.begun = true;
        let plan = Plan { has_record: self.has_record, ..scenario.plan_of(self.migration.generation.into()) };
        self.source = Source::with_guards(plan, scenario.guards);
        let outputs = self.source.start();
        self.perform_source(outputs, log);
    }

    /// Whether the process of `side` lives.
    #[must_use]
    pub fn is_alive(&self, side: Side) -> bool {
        match side {
            Side::Source => self.facts.source.alive,
            Side::Destination => self.facts.destination.alive,
        }
    }

    /// The timers that run at `side`.
    #[must_use]
    pub fn timers(&self, side: Side) -> Set<Timer> {
        match side {
            Side::Source => self.source_timers,
            Side::Destination => self.destination_timers,
        }
    }

    /// Whether `side` gives signs of life that the other can hear.
    #[must_use]
    pub fn beats(&self, side: Side) -> bool {
        self.is_alive(side)
            && self.timers(side).has(Timer::Heartbeat)
            && self.link.health == Health::Up
            && !self.lets_heartbeat_lapse(side)
    }

    /// Whether `side` would do nothing when it is time for a sign of life, and so give none from
    /// then on.
    #[must_use]
    pub fn lets_heartbeat_lapse(&self, side: Side) -> bool {
        let outputs = match side {
            Side::Source => self.source.clone().step(source::Input::Timer(Timer::Heartbeat)).len(),
            Side::Destination => self.destination.clone().step(destination::Input::Timer(Timer::Heartbeat)).len(),
        };
        outputs == 0
    }

    /// The process of `side` dies: what it had under way is gone, except what the record was asked
    /// for already.
    pub fn crash(&mut self, side: Side) {
        self.facts.crash(side);
        self.link.close(side);
        let asked = self.record_jobs[side as usize].take();
        let open = asked.filter(|job| job.reply.is_none()).map(|job| job.operation);
        self.stragglers[side as usize] = self.stragglers[side as usize].or(open);
        match side {
            Side::Source => {
                self.source_jobs = Set::new();
                self.source_late = Set::new();
                self.source_timers = Set::new();
                self.facts.source.settling = false;
                self.facts.source.seizing = false;
                self.facts.source.claim = None;
                self.facts.source.arriving = false;
                // A dead state machine is the same whatever it was.
                self.source = Source::with_guards(self.dead_plan(), Guards::all());
            }
            Side::Destination => {
                self.destination_jobs = Set::new();
                self.destination_late = Set::new();
                self.destination_timers = Set::new();
                self.settling = None;
                self.awaits_guest = false;
                self.destination = Destination::new();
            }
        }
    }

    fn dead_plan(&self) -> Plan {
        Scenario::new(self.source.handshake(), false).plan()
    }
}
