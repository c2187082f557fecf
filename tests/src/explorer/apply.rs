//! One step: carries out an event in a world.

use ferry_migration::source::{Output, Owner, Resolution};
use ferry_migration::{destination, source};

use super::bounds::Fault;
use super::event::{Event, Log, Operator};
use super::facts::{DestinationGuest, SourceGuest};
use super::job::{DestinationJob, SourceJob};
use super::link::Link;
use super::record::{CAME, Kind, Migration, Operation, Passed, Record, Reply};
use super::scenario::Scenario;
use super::world::World;
use super::{Party, Side};

impl World {
    /// Carries out an event that [`World::events`] offered.
    pub fn apply(&mut self, scenario: &Scenario, event: Event, log: &mut Log) {
        match event {
            Event::Source(job, well) => {
                self.source_jobs.remove(job);
                match job {
                    _ if well => {}
                    SourceJob::Connect | SourceJob::Nonce => {}
                    SourceJob::Resume if self.lock_is_elsewhere() => {}
                    SourceJob::Resume => self.budget.spend(Fault::RunFailure),
                    _ => self.budget.spend(Fault::SaveFailure),
                }
                self.answer_source(scenario, job, well, log);
            }
            Event::SourceLate(job) => {
                self.source_late.remove(job);
                self.answer_source(scenario, job, true, log);
            }
            Event::Destination(job, well) => {
                self.destination_jobs.remove(job);
                let locked_out = job == DestinationJob::Start && self.lock_is_elsewhere();
                if !well && !locked_out {
                    let start = job == DestinationJob::Start;
                    self.budget.spend(if start { Fault::StartFailure } else { Fault::LoadFailure });
                }
                self.answer_destination(scenario, job, well, log);
            }
            Event::DestinationLate(job) => {
                self.destination_late.remove(job);
                self.answer_destination(scenario, job, true, log);
            }
            Event::RecordDecides(_)
            | Event::RecordReplies(_)
            | Event::RecordFails(_)
            | Event::RecordStalls(_)
            | Event::Straggler(_)
            | Event::Settles
            | Event::SourceSettles
            | Event::ClaimSettles
            | Event::Asserts
            | Event::Seizes
            | Event::Reach(..) => self.apply_record(scenario, event, log),
            Event::MarkerArrives => self.marker_arrives(log),
            Event::PagesArrive => self.pages_arrive(log),
            Event::Fires(side, timer) => {
                match side {
                    Side::Source => self.source_timers.remove(timer),
                    Side::Destination => self.destination_timers.remove(timer),
                };
                match side {
                    Side::Source => self.step_source(source::Input::Timer(timer), log),
                    Side::Destination => self.step_destination(destination::Input::Timer(timer), log),
                }
            }
            Event::Operator(operator) => self.apply_operator(scenario, operator, log),
            Event::Third(step) => self.apply_third(scenario, step),
            Event::Leaves => self.crash(Side::Destination),
            Event::Foreign(foreign) => {
                self.budget.spend(Fault::Foreign);
                self.foreign_message(foreign, log);
            }
            Event::FaultsDie => {
                self.budget.spend(Fault::FaultsDeath);
                self.facts.destination.faults_alive = false;
                self.step_destination(destination::Input::FaultsDied("its thread ended".to_owned()), log);
            }
            Event::Crash(side) => {
                self.budget.spend(match side {
                    Side::Source => Fault::SourceCrash,
                    Side::Destination => Fault::DestinationCrash,
                });
                self.crash(side);
            }
            _ => self.apply_link(event, log),
        }
        // What would change nothing any more need not happen.
        self.facts.source.claim = self.facts.source.claim.filter(|claim| self.facts.record.is_claim(*claim));
        if !self.link.is_held() {
            // What nobody holds is all the same, but for pages that were read already.
            self.link = Link { last_pages: self.link.last_pages, ..Link::none() };
        }
    }

    fn apply_link(&mut self, event: Event, log: &mut Log) {
        match event {
            Event::Deliver(Side::Source) => {
                let message = self.link.to_source.pop_front().expect("offered only when there is one");
                self.step_source(source::Input::Message(message), log);
            }
            Event::Deliver(Side::Destination) => {
                let message = self.link.to_destination.pop_front().expect("offered only when there is one");
                self.step_destination(destination::Input::Message(message), log);
            }
            Event::Notice(side) => {
                self.link.deafen(side);
                self.tell_lost(side, "the peer closed the control link", log);
            }
            Event::Drop(Side::Source) => self.link.to_source.clear(),
            Event::Drop(Side::Destination) => self.link.to_destination.clear(),
            Event::Break { silently } => {
                self.budget.spend(Fault::Break);
                self.link.break_off(silently);
            }
            Event::BulkBreak(side) => {
                self.budget.spend(Fault::BulkBreak);
                self.link.bulk = false;
                self.link.marker = None;
                self.tell_lost(side, "the bulk link failed", log);
            }
            Event::Garble(side) => {
                self.budget.spend(Fault::Garble);
                self.link.deafen(side);
                self.tell_lost(side, "a frame was repeated", log);
            }
            other => unreachable!("{other:?} is carried out elsewhere"),
        }
    }

    fn tell_lost(&mut self, side: Side, reason: &str, log: &mut Log) {
        match side {
            Side::Source => self.step_source(source::Input::LinkLost(reason.to_owned()), log),
            Side::Destination => self.step_destination(destination::Input::LinkLost(reason.to_owned()), log),
        }
    }

    fn apply_operator(&mut self, scenario: &Scenario, operator: Operator, log: &mut Log) {
        match operator {
            Operator::StartPostcopy => {
                self.budget.spend(Fault::StartPostcopy);
                self.step_source(source::Input::StartPostcopy, log);
            }
            Operator::Cancel(side) => {
                self.budget.spend(Fault::Cancel);
                match side {
                    Side::Source => self.step_source(source::Input::Cancel, log),
                    Side::Destination => self.destination_ends(log),
                }
            }
            Operator::Pause(side) => {
                self.budget.spend(Fault::Pause);
                match side {
                    Side::Source => self.step_source(source::Input::Pause, log),
                    Side::Destination => self.step_destination(destination::Input::Pause, log),
                }
            }
            Operator::Recover => self.step_source(source::Input::Recover, log),
            Operator::RashResolve => {
                self.budget.spend(Fault::RashResolve);
                self.step_source(source::Input::Resolve(Resolution::to(Owner::Source)), log);
            }
            Operator::Resolve(owner) => {
                self.resolve(Resolution::to(owner), log);
            }
            Operator::NeverRan => self.resolve(Resolution { owner: Owner::Source, never_ran: true }, log),
            Operator::Stop => {
                self.budget.spend(Fault::Stop);
                self.facts.source.wants = false;
                if self.facts.source.guest == SourceGuest::Running {
                    self.facts.source.guest = SourceGuest::Held;
                }
            }
            Operator::Cont => self.continue_source(true),
            Operator::ContFails => self.refuse_cont(),
            Operator::Migrate => self.begin(scenario, log),
            Operator::Again => self.migrate_again(scenario, log),
        }
    }

    /// An operator says who owns the guest. What the record must be asked for first is answered
    /// later.
    fn resolve(&mut self, resolution: Resolution, log: &mut Log) {
        self.wish_is_source = resolution.owner == Owner::Source;
        let at_once = !self.source.clone().step(source::Input::Resolve(resolution)).contains(&Output::TakeBack);
        let waits = self.record_jobs[Side::Source as usize].is_some();
        self.facts.source.resolved |= self.wish_is_source && at_once && !waits;
        self.step_source(source::Input::Resolve(resolution), log);
    }

    /// The guest of the destination ends, or its process is told to end.
    fn destination_ends(&mut self, log: &mut Log) {
        let destination = &mut self.facts.destination;
        destination.leaving = true;
        let claims = self.record_jobs[Side::Destination as usize].is_some_and(|job| job.operation.kind == Kind::Claim);
        let claimed = self.record_jobs[Side::Destination as usize].is_some_and(|job| job.reply.is_some());
        destination.left_before_claim =
            claims && !claimed || self.destination_timers.has(ferry_migration::Timer::RetryRecord);
        if destination.guest == DestinationGuest::Running {
            destination.guest = DestinationGuest::Ended;
        }
        self.step_destination(destination::Input::Ends("told to end".to_owned()), log);
    }

    /// After a migration that has failed, the source begins another one, to another process.
    fn migrate_again(&mut self, scenario: &Scenario, log: &mut Log) {
        self.budget.spend(Fault::Again);
        let generation = self.facts.source.generation;
        self.migration = Migration { generation, id: self.migration.id + 1 };
        let old = self.clone();
        let mut world = World::before(scenario);
        world.budget = old.budget;
        world.migration = old.migration;
        world.stragglers = old.stragglers;
        world.has_record = old.has_record;
        world.facts.record = Record { began: old.facts.record.generation, ..old.facts.record };
        world.facts.source.generation = generation;
        world.facts.source.guest = old.facts.source.guest;
        world.facts.source.wants = old.facts.source.wants;
        world.facts.source.let_go = old.facts.source.let_go;
        world.facts.source.claim = old.facts.source.claim;
        world.facts.source.arriving = old.facts.source.arriving;
        world.facts.third = old.facts.third;
        world.facts.third_takes = old.facts.third_takes;
        world.facts.forked = old.facts.forked;
        world.facts.stale = old.facts.stale;
        world.facts.copied = old.facts.copied;
        world.facts.unfenced = old.facts.unfenced;
        world.facts.given_up = old.facts.given_up;
        world.begin(scenario, log);
        *self = world;
    }

    fn apply_record(&mut self, scenario: &Scenario, event: Event, log: &mut Log) {
        match event {
            Event::RecordDecides(side) => {
                let record = &mut self.facts.record;
                let job = self.record_jobs[side as usize].as_mut().expect("offered only when there is one");
                job.reply = Some(record.carry_out(job.operation));
            }
            Event::RecordReplies(side) => {
                let job = self.record_jobs[side as usize].take().expect("offered only when there is one");
                self.answer_record(side, job.operation, job.reply, log);
            }
            Event::RecordFails(side) => {
                let job = self.record_jobs[side as usize].take().expect("offered only when there is one");
                if job.reply.is_some() {
                    self.budget.spend(Fault::LostReply);
                }
                self.answer_record(side, job.operation, None, log);
            }
            Event::RecordStalls(side) => {
                self.budget.spend(Fault::LostReply);
                let job = self.record_jobs[side as usize].take().expect("offered only when there is one");
                self.stragglers[side as usize] = Some(job.operation);
                self.answer_record(side, job.operation, None, log);
            }
            Event::Straggler(side) => {
                let operation = self.stragglers[side as usize].take().expect("offered only when there is one");
                self.facts.record.carry_out(operation);
            }
            Event::Settles => {
                let operation = self.settling.take().expect("offered only when there is one");
                let through = self.came_through(scenario, operation.of);
                let record = &mut self.facts.record;
                match operation.kind {
                    Kind::Assert => record.arrives(Party::Destination, operation.of.id, &through, scenario.guards),
                    _ => record.carry_out(operation),
                };
            }
            Event::SourceSettles => {
                self.facts.source.settling = false;
                self.facts.record.carry_out(Kind::SettleSource.of(self.migration));
            }
            Event::ClaimSettles => {
                let claim = self.facts.source.claim.take().expect("offered only when there is one");
                self.facts.record.settle_claim(claim);
            }
            Event::Asserts => {
                self.facts.source.arriving = false;
                let won = self.facts.record.names_source(scenario.guards);
                // A migration that goes on without a record does not hear of it.
                self.has_record |= won && !self.begun;
            }
            Event::Seizes => {
                self.seizes();
            }
            Event::Reach(side, sees) => {
                if !sees {
                    self.budget.spend(Fault::Outage);
                }
                self.facts.record.set_seen_by(side, sees);
            }
            other => unreachable!("{other:?} is carried out elsewhere"),
        }
    }

    /// What a guest says at the destination that it has come through.
    fn came_through(&self, scenario: &Scenario, of: Migration) -> Vec<Passed> {
        let came = scenario.has_come.then_some(CAME);
        came.into_iter().chain(self.has_record.then_some((Party::Source, of))).collect()
    }

    fn answer_record(&mut self, side: Side, operation: Operation, reply: Option<Reply>, log: &mut Log) {
        match side {
            Side::Source => self.answer_take_back(reply, log),
            Side::Destination => self.answer_ownership(operation, reply, log),
        }
    }
}
