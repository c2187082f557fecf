//! Everything at one moment, and one step further.

use ferry_migration::protection::primary::{self, Outcome as PrimaryOutcome};
use ferry_migration::protection::secondary;
use ferry_migration::protection::{Answer, Plan, Primary, Rule, Rules, Secondary};

use super::event::{Event, Log};
use super::facts::{PrimaryFacts, SecondaryFacts};
use super::link::Link;
use super::primary_side::remember;
use super::record::{GENERATION, Record};
use super::{Bounds, Contents, Fault, Side};

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The last epoch that ends in a checkpoint.
    pub epochs: u8,
    /// A primary that the record does not answer stops its guest.
    pub stops_isolated: bool,
    /// The guest has a disk whose image both sides name. A secondary takes over only after the
    /// primary's process has released it.
    pub shared_disk: bool,
    /// What may go wrong must not end the protection.
    pub tolerates: bool,
    /// What may go wrong.
    pub bounds: Bounds,
    /// The rules in force.
    pub rules: Rules,
}

impl Scenario {
    /// So many checkpoints, and nothing goes wrong.
    #[must_use]
    pub const fn new(epochs: u8) -> Self {
        Scenario {
            epochs,
            stops_isolated: false,
            shared_disk: true,
            tolerates: false,
            bounds: Bounds::none(),
            rules: Rules::all(),
        }
    }

    /// The same, but `fault` may happen `times` times.
    #[must_use]
    pub const fn with(self, fault: Fault, times: u64) -> Self {
        Scenario { bounds: self.bounds.with(fault, times), ..self }
    }

    /// The same, where what may go wrong must not end the protection.
    #[must_use]
    pub const fn tolerating(self) -> Self {
        Scenario { tolerates: true, ..self }
    }

    /// The same of a guest without a disk.
    #[must_use]
    pub const fn diskless(self) -> Self {
        Scenario { shared_disk: false, ..self }
    }

    /// The same without a rule.
    #[must_use]
    pub const fn without(self, rule: Rule) -> Self {
        Scenario { rules: Rules::without(rule), ..self }
    }

    fn plan(&self) -> Plan {
        Plan { generation: GENERATION, has_record: true, stops_isolated: self.stops_isolated }
    }
}

/// One moment of a protection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// The primary's state machine.
    pub primary: Primary,
    /// The secondary's state machine.
    pub secondary: Secondary,
    /// The truth about the primary.
    pub at_primary: PrimaryFacts,
    /// The truth about the secondary.
    pub at_secondary: SecondaryFacts,
    /// The links.
    pub link: Link,
    /// The ownership record.
    pub record: Record,
    /// The guest has a disk whose image both sides name.
    pub shared_disk: bool,
    /// What the shared image holds.
    pub image: Contents,
    /// A third process runs the guest.
    pub third_runs: bool,
    /// A partner was named when it booted.
    pub third_took_a_partners: bool,
    /// What may go wrong must not end the protection.
    pub tolerates: bool,
    /// What may still go wrong.
    pub budget: Bounds,
    /// The last epoch that ends in a checkpoint.
    pub epochs: u8,
    /// The rules in force.
    pub rules: Rules,
}

impl World {
    /// The moment at which the first copy has converged.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        let mut world = World {
            primary: Primary::with_rules(scenario.plan(), scenario.rules),
            secondary: Secondary::with_rules(scenario.plan(), scenario.rules),
            at_primary: PrimaryFacts::new(),
            at_secondary: SecondaryFacts::new(),
            link: Link::open(),
            record: Record::new(),
            shared_disk: scenario.shared_disk,
            image: Contents::of(1),
            third_runs: false,
            third_took_a_partners: false,
            tolerates: scenario.tolerates,
            budget: scenario.bounds,
            epochs: scenario.epochs,
            rules: scenario.rules,
        };
        let mut log = Log::off();
        let outputs = world.primary.start();
        world.perform_primary(outputs, &mut log);
        let outputs = world.secondary.start();
        world.perform_secondary(outputs, &mut log);
        world
    }

    /// Whether the process of `side` lives.
    #[must_use]
    pub fn is_alive(&self, side: Side) -> bool {
        match side {
            Side::Primary => self.at_primary.alive,
            Side::Secondary => self.at_secondary.alive,
        }
    }

    /// Whether the other side still sends signs of life that arrive.
    #[must_use]
    pub fn hears(&self, side: Side) -> bool {
        let ended = match side.other() {
            Side::Primary => self.primary.outcome().is_some(),
            Side::Secondary => self.secondary.outcome().is_some(),
        };
        let up = self.link.health == super::link::Health::Up && self.link.open == [true; 2];
        self.is_alive(side.other()) && up && !ended
    }

    /// Makes `event` happen.
    ///
    /// # Panics
    /// When it cannot: only what [`World::events`] lists can.
    pub fn apply(&mut self, event: Event, log: &mut Log) {
        match event {
            Event::Deliver(Side::Primary) => {
                let message = self.link.to_primary.pop_front().expect("a message is on its way");
                self.step_primary(primary::Input::Message(message), log);
            }
            Event::Deliver(Side::Secondary) => self.deliver_to_secondary(log),
            Event::Notice(side) => self.notice(side, log),
            Event::Fires(Side::Primary, timer) => {
                self.at_primary.timers.remove(timer);
                self.step_primary(primary::Input::Timer(timer), log);
            }
            Event::Fires(Side::Secondary, timer) => {
                self.at_secondary.timers.remove(timer);
                self.step_secondary(secondary::Input::Timer(timer), log);
            }
            Event::Captures(well) => self.captures(well, log),
            Event::Releases => self.releases(log),
            Event::ReleasesDisk => self.releases_disk(log),
            Event::TakesDiskAgain => self.takes_disk_again(log),
            Event::Stops => {
                (self.at_primary.stopping, self.at_primary.runs) = (false, false);
                self.step_primary(primary::Input::GuestStopped, log);
            }
            Event::RecordAnswers(side) => self.record_answers(side, log),
            Event::RecordFails(side) => self.unanswered(side, log),
            Event::ReplyIsLost(side) => {
                let operation = self.asks(side).expect("the record is asked");
                self.record.carry_out(operation, self.rules);
                self.unanswered(side, log);
            }
            Event::RecordStalls(side) => {
                let asked = self.asks(side);
                remember(self.straggler(side), asked);
                self.unanswered(side, log);
            }
            Event::Straggler(side, which) => {
                let operation = self.straggler(side)[which].take().expect("a change is late");
                self.record.carry_out(operation, self.rules);
            }
            Event::Whole => self.whole(log),
            Event::Verifies(well) => self.verifies(well, log),
            Event::Applies => self.applies(log),
            Event::Reloads(well) => self.reloads(well, log),
            Event::TakesDisk => self.takes_disk(log),
            Event::Tries(well) => self.tries(well, log),
            Event::Break { silently } => self.link.break_off(silently),
            Event::Death(side) => self.dies(side),
            Event::Reach(side, seen) => self.record.seen[side as usize] = seen,
            Event::Unprotect => self.step_primary(primary::Input::Unprotect, log),
            Event::LostHeartbeat(Side::Primary) => self.step_primary(primary::Input::LostHeartbeat, log),
            Event::LostHeartbeat(Side::Secondary) => self.step_secondary(secondary::Input::LostHeartbeat, log),
            Event::Failover => self.step_primary(primary::Input::Failover, log),
            Event::Shutdown => {
                (self.at_primary.runs, self.at_primary.ended) = (false, true);
                self.step_primary(primary::Input::GuestGone("the guest has shut down".to_owned()), log);
            }
            Event::Boots => self.boots(),
        }
    }

    fn notice(&mut self, side: Side, log: &mut Log) {
        let reason = "the link broke".to_owned();
        match side {
            Side::Primary => {
                self.link.open[0] = false;
                self.step_primary(primary::Input::LinkLost(reason), log);
            }
            Side::Secondary => {
                self.link.open[1] = false;
                self.step_secondary(secondary::Input::LinkLost(reason), log);
            }
        }
    }

    /// What `side` asks of the record.
    #[must_use]
    pub fn asks(&self, side: Side) -> Option<super::record::Operation> {
        match side {
            Side::Primary => self.at_primary.asks,
            Side::Secondary => self.at_secondary.asks,
        }
    }

    fn straggler(&mut self, side: Side) -> &mut [Option<super::record::Operation>; 2] {
        match side {
            Side::Primary => &mut self.at_primary.straggler,
            Side::Secondary => &mut self.at_secondary.straggler,
        }
    }

    fn record_answers(&mut self, side: Side, log: &mut Log) {
        if side == Side::Secondary && std::mem::take(&mut self.at_secondary.reads) {
            let reading = self.record.reading();
            return self.step_secondary(secondary::Input::Read(Some(reading)), log);
        }
        let operation = self.asks(side).expect("the record is asked");
        let answer = self.record.carry_out(operation, self.rules);
        self.answered(side, answer, log);
    }

    fn unanswered(&mut self, side: Side, log: &mut Log) {
        if side == Side::Secondary && std::mem::take(&mut self.at_secondary.reads) {
            return self.step_secondary(secondary::Input::Read(None), log);
        }
        self.answered(side, Answer::Unreachable, log);
    }

    fn answered(&mut self, side: Side, answer: Answer, log: &mut Log) {
        match side {
            Side::Primary => {
                let input = match self.at_primary.asks.take() {
                    Some(super::record::Operation::Enrol) => primary::Input::Enrolled(answer),
                    _ => primary::Input::Soloed(answer),
                };
                self.step_primary(input, log);
            }
            Side::Secondary => {
                self.at_secondary.asks = None;
                self.step_secondary(secondary::Input::Claimed(answer), log);
            }
        }
    }

    /// A process dies. What it asked of the record may still happen; the kernel closes its links
    /// and releases its locks.
    fn dies(&mut self, side: Side) {
        self.link.close(side);
        match side {
            Side::Primary => {
                let PrimaryFacts { epoch, shown, written, asks, mut straggler, .. } = self.at_primary;
                remember(&mut straggler, asks);
                let dead =
                    PrimaryFacts { alive: false, runs: false, epoch, shown, written, straggler, ..PrimaryFacts::new() };
                self.at_primary = dead;
                // All dead state machines are the same.
                self.primary = Primary::new(self.dead_plan());
            }
            Side::Secondary => {
                let SecondaryFacts { asks, mut straggler, live, was_whole, .. } = self.at_secondary;
                remember(&mut straggler, asks);
                self.at_secondary =
                    SecondaryFacts { alive: false, straggler, live, was_whole, ..SecondaryFacts::new() };
                self.secondary = Secondary::new(self.dead_plan());
            }
        }
    }

    fn dead_plan(&self) -> Plan {
        Plan { generation: GENERATION, has_record: true, stops_isolated: false }
    }

    /// Whether no process holds the disk's lock; a guest without a disk has none.
    #[must_use]
    pub fn disk_is_free(&self) -> bool {
        if !self.shared_disk {
            return true;
        }
        let held = self.at_primary.alive && self.at_primary.has_disk;
        !held && !self.at_secondary.has_disk && !self.third_runs
    }

    fn boots(&mut self) {
        let partner = self.record.partner;
        if self.record.boot(self.rules) {
            (self.third_runs, self.third_took_a_partners) = (true, partner);
        }
    }

    /// Whether the primary has ended its part with the guest here.
    #[must_use]
    pub fn is_unprotected(&self) -> bool {
        matches!(self.primary.outcome(), Some(PrimaryOutcome::Unprotected(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explorer::fingerprint;

    #[test]
    fn worlds_that_differ_in_memory_or_disk_are_not_taken_for_one() {
        let world = World::new(&Scenario::new(1));
        let mut memory = world.clone();
        memory.at_secondary.memory = Contents::of(3);
        let mut image = world.clone();
        image.image = Contents::LIVE;
        let mut pages = world.clone();
        pages.at_primary.dirty = [false; 2];
        let mut ends = world.clone();
        ends.link.open = [true, false];
        let fingerprints = [&world, &memory, &image, &pages, &ends].map(fingerprint::of);
        for (at, one) in fingerprints.iter().enumerate() {
            assert!(!fingerprints[..at].contains(one), "{at}");
        }
    }
}
