//! The destination's driver in an exploration: feeds its state machine and carries out what it
//! asks for.

use ferry_migration::destination::{Claim, GiveBack, Input, LoadTimes, Outcome, Output};
use ferry_migration::message::{Handshake, ToDestination};

use super::bounds::Fault;
use super::event::{Foreign, Log};
use super::facts::{DestinationGuest, End, Stale};
use super::job::{DestinationJob, RecordJob};
use super::link::{Link, Marker};
use super::record::{Kind, Operation, Reply};
use super::scenario::{OTHER_GENERATION, Scenario};
use super::set::Set;
use super::source_side::{MARKER, failure};
use super::third::Stage;
use super::trace;
use super::world::World;
use super::{Party, Side};

impl World {
    /// Feeds the destination.
    pub fn step_destination(&mut self, input: Input, log: &mut Log) {
        let outputs = self.destination.step(input);
        self.perform_destination(outputs, log);
    }

    /// Carries out what the destination asks for.
    pub fn perform_destination(&mut self, outputs: Vec<Output>, log: &mut Log) {
        for output in outputs {
            log.note(|| trace::destination_output(&output));
            self.perform_destination_output(output);
        }
    }

    fn perform_destination_output(&mut self, output: Output) {
        match output {
            Output::CheckGreeting => self.destination_jobs.insert(DestinationJob::Check),
            Output::Send(message) => self.link.send_to_source(message),
            Output::StartTimer(timer) => self.destination_timers.insert(timer),
            Output::StopTimer(timer) => {
                self.destination_timers.remove(timer);
            }
            Output::Load { rehearsal: true, .. } => self.destination_jobs.insert(DestinationJob::LoadTrial),
            Output::Load { rehearsal: false, postcopy } => {
                self.facts.destination.armed = postcopy;
                self.destination_jobs.insert(DestinationJob::Load);
            }
            Output::Interrupt => self.interrupt_destination(),
            Output::Claim => self.ask_for_destination(Kind::Claim),
            Output::GiveBack => self.ask_for_destination(Kind::GiveBack),
            Output::Settle => self.settling = Some(Kind::Settle.of(self.migration)),
            Output::Start => self.destination_jobs.insert(DestinationJob::Start),
            Output::Paused => self.facts.destination.paused = true,
            Output::Resumed => self.facts.destination.paused = false,
            Output::LoseGuest(_) => self.facts.destination.guest = DestinationGuest::Lost,
            Output::CloseLinks => self.link.close(Side::Destination),
            Output::Finish(outcome) => self.finish_destination(&outcome),
            Output::ReceivePages => {}
        }
    }

    fn ask_for_destination(&mut self, kind: Kind) {
        self.record_jobs[Side::Destination as usize] = Some(RecordJob::new(kind.of(self.migration)));
    }

    fn interrupt_destination(&mut self) {
        for job in [DestinationJob::LoadTrial, DestinationJob::Load] {
            if self.destination_jobs.remove(job) {
                self.destination_late.insert(job);
            }
        }
    }

    fn finish_destination(&mut self, outcome: &Outcome) {
        let end = match outcome {
            _ if self.facts.destination.end.is_some() => End::Botched,
            Outcome::Completed => End::Completed,
            Outcome::Failed(reason) if reason.is_empty() => End::Botched,
            Outcome::Failed(_) => End::Failed,
        };
        self.facts.destination.end = Some(end);
        self.facts.destination.paused = false;
        self.awaits_guest = false;
        let runs = self.facts.destination.guest == DestinationGuest::Running;
        if self.facts.record.lock == Some(Party::Destination) && !runs {
            self.facts.record.lock = None;
        }
        self.destination_timers = Set::new();
    }

    /// A job of the destination answers.
    pub fn answer_destination(&mut self, scenario: &Scenario, job: DestinationJob, well: bool, log: &mut Log) {
        let input = match job {
            DestinationJob::Check if well => {
                // Worlds that differ in this alone go on alike where no boot looks for it.
                self.awaits_guest = self.budget.left(Fault::BootPast) > 0 || self.facts.third == Stage::LockedPast;
                Input::Checked(Ok(scenario.record_shared))
            }
            DestinationJob::Check => Input::Checked(Err("memory: told to differ".to_owned())),
            DestinationJob::LoadTrial | DestinationJob::Load if well => Input::Loaded(Ok(LoadTimes::default())),
            DestinationJob::LoadTrial | DestinationJob::Load => Input::Loaded(Err(failure())),
            DestinationJob::Start if well && self.may_run(scenario, Party::Destination) => {
                let owned = self.destination.handshake() == Handshake::Owned;
                self.facts.destination_runs(owned);
                self.facts.record.lock = Some(Party::Destination);
                if !owned && scenario.has_record && scenario.record_shared {
                    self.settling = Some(Kind::Assert.of(self.migration));
                }
                Input::Started(Ok(0))
            }
            DestinationJob::Start => Input::Started(Err(failure())),
        };
        self.step_destination(input, log);
    }

    /// What the record says to the destination.
    pub fn answer_ownership(&mut self, operation: Operation, reply: Option<Reply>, log: &mut Log) {
        let input = match (operation.kind, reply) {
            (Kind::Claim, Some(Reply::Won)) => Input::Claimed(Claim::Won),
            (Kind::Claim, Some(_)) => Input::Claimed(Claim::Lost),
            (Kind::Claim, None) => Input::Claimed(Claim::Unreachable),
            (_, Some(_)) => Input::GaveBack(GiveBack::Done),
            (_, None) => Input::GaveBack(GiveBack::Unreachable),
        };
        self.step_destination(input, log);
    }

    /// The marker arrives, and in precopy every page with it.
    pub fn marker_arrives(&mut self, log: &mut Log) {
        let marker = self.link.marker.take();
        self.facts.destination.has_all_pages |= marker == Some(Marker::Whole);
        self.step_destination(Input::MarkerReached(MARKER), log);
    }

    /// The last missing page arrives.
    pub fn pages_arrive(&mut self, log: &mut Log) {
        self.link.last_pages = false;
        self.facts.destination.has_all_pages = true;
        self.step_destination(Input::AllReceived, log);
    }

    /// A message of another run of the guest.
    pub fn foreign_message(&mut self, foreign: Foreign, log: &mut Log) {
        let generation = OTHER_GENERATION;
        let message = match foreign {
            Foreign::Package => ToDestination::Package { generation, marker: 0, postcopy: false },
            Foreign::Permit => ToDestination::Permit { generation },
            Foreign::Recover => {
                // It comes on a connection of its own; the other end is not this source.
                self.link = Link { source_reads: false, source_writes: false, bulk: false, ..Link::open() };
                ToDestination::Recover { generation }
            }
        };
        let loads = self.destination_jobs.has(DestinationJob::Load);
        self.step_destination(Input::Message(message), log);
        match foreign {
            Foreign::Package if !loads && self.destination_jobs.has(DestinationJob::Load) => {
                self.facts.destination.foreign_state = true;
            }
            Foreign::Recover if !self.facts.destination.paused => self.facts.stale = Some(Stale::ForeignPages),
            _ => {}
        }
    }
}
