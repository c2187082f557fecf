//! The source's driver in an exploration: feeds its state machine and carries out what it asks
//! for.

use ferry_migration::convergence::Decision;
use ferry_migration::guards::Guard;
use ferry_migration::message::{Failure, Handshake, ToDestination};
use ferry_migration::ownership::custody::{self, Again};
use ferry_migration::source::{Input, Outcome, Output, TakeBack};

use super::bounds::Fault;
use super::event::Log;
use super::facts::{End, SourceGuest};
use super::job::{RecordJob, SourceJob};
use super::link::{Link, Marker};
use super::record::{Arbiter, FIRST, Kind, Migration, Reply};
use super::scenario::Scenario;
use super::trace;
use super::world::World;
use super::{Party, Side};

/// The number of the only marker.
pub(super) const MARKER: u32 = 1;

/// What a failing job says.
#[must_use]
pub(super) fn failure() -> Failure {
    Failure { device: "fault/0".to_owned(), reason: "told to fail".to_owned() }
}

impl World {
    /// Feeds the source.
    pub fn step_source(&mut self, input: Input, log: &mut Log) {
        let outputs = self.source.step(input);
        self.perform_source(outputs, log);
    }

    /// Carries out what the source asks for.
    pub fn perform_source(&mut self, outputs: Vec<Output>, log: &mut Log) {
        for output in outputs {
            log.note(|| trace::source_output(&output));
            self.perform_source_output(output);
        }
    }

    fn perform_source_output(&mut self, output: Output) {
        match output {
            Output::Status(status) => self.facts.source.shown = status,
            Output::Connect => self.source_jobs.insert(SourceJob::Connect),
            Output::WriteNonce => self.source_jobs.insert(SourceJob::Nonce),
            Output::Send(message) => self.send_from_source(message),
            Output::StartTimer(timer) => self.source_timers.insert(timer),
            Output::StopTimer(timer) => {
                self.source_timers.remove(timer);
            }
            Output::SendRound => self.source_jobs.insert(SourceJob::Round),
            Output::Snapshot => self.source_jobs.insert(SourceJob::Snapshot),
            Output::StopGuest => self.source_jobs.insert(SourceJob::Stop),
            Output::Save => self.source_jobs.insert(SourceJob::Save),
            Output::SendLastPages { postcopy: true } => self.source_jobs.insert(SourceJob::LastPagesPostcopy),
            Output::SendLastPages { postcopy: false } => self.source_jobs.insert(SourceJob::LastPages),
            Output::ServePages | Output::ServeMissingPages => {
                self.source_jobs.insert(SourceJob::Serve);
                self.facts.source.serving = true;
            }
            Output::Interrupt => self.interrupt_source(),
            Output::TakeBack => {
                let operation = Kind::TakeBack.of(self.migration);
                self.record_jobs[Side::Source as usize] = Some(RecordJob::new(operation));
            }
            Output::Settle => self.facts.source.settling = custody::may_settle(self.facts.source.let_go, self.guards),
            Output::Resolved(answer) => self.facts.source.resolved |= answer.is_ok() && self.wish_is_source,
            Output::ResumeGuest => self.source_jobs.insert(SourceJob::Resume),
            // From here on the driver refuses every command that would run the guest.
            Output::HandOver => self.facts.source.handed_over = true,
            Output::CloseLinks => {
                self.facts.source.serving = false;
                self.link.close(Side::Source);
            }
            Output::Finish(outcome) => self.finish_source(&outcome),
            Output::Handshake(_) | Output::EndRound | Output::Refuse(_) => {}
        }
    }

    fn send_from_source(&mut self, message: ToDestination) {
        let permits = match message {
            ToDestination::Permit { .. } => true,
            ToDestination::Package { .. } => self.source.handshake() == Handshake::None,
            _ => false,
        };
        self.facts.source.permitted |= permits;
        // Worlds that differ in this alone go on alike where no copy can arrive.
        let matters = self.budget.left(Fault::Arrival) > 0;
        self.facts.copied |= permits && matters && self.migration.id == FIRST.1.id;
        self.link.send_to_destination(message);
    }

    fn interrupt_source(&mut self) {
        self.facts.source.serving = false;
        for job in self.source_jobs.iter().filter(|job| job.sends_pages()) {
            self.source_jobs.remove(job);
            self.source_late.insert(job);
        }
    }

    fn finish_source(&mut self, outcome: &Outcome) {
        // The process has ended with the migration as far as a destination can tell.
        self.facts.source.serving = false;
        let end = match outcome {
            _ if self.facts.source.end.is_some() => End::Botched,
            Outcome::Completed => End::Completed,
            Outcome::Cancelled => End::Cancelled,
            Outcome::Failed(reason) | Outcome::Stranded(reason) if reason.is_empty() => End::Botched,
            Outcome::Failed(_) => End::Failed,
            Outcome::Stranded(_) => End::Stranded,
        };
        self.facts.source.end = Some(end);
        self.facts.source.announced = false;
        self.source_timers = super::set::Set::new();
    }

    /// A job of the source answers.
    pub fn answer_source(&mut self, scenario: &Scenario, job: SourceJob, well: bool, log: &mut Log) {
        let result = if well { Ok(()) } else { Err(failure()) };
        let input = match job {
            SourceJob::Connect => return self.connect(well, log),
            SourceJob::Nonce => {
                let is_record = well && self.facts.record.arbiter == Arbiter::Record;
                self.facts.source.announced |= is_record && self.facts.source.end.is_none();
                let lost = is_record && self.facts.record.carry_out(Kind::Announce.of(self.migration)) != Reply::Won;
                let result = if lost { Err(failure()) } else { result };
                Input::NonceWritten(result.map_err(|failure| failure.reason))
            }
            SourceJob::Round if scenario.postcopy => Input::RoundDone(Decision::Postcopy),
            SourceJob::Round => Input::RoundDone(Decision::Switch),
            SourceJob::Snapshot => Input::Snapshotted(result),
            SourceJob::Stop => {
                self.facts.source.guest = SourceGuest::Stopped;
                self.facts.let_disk_go(Party::Source);
                Input::Stopped(result)
            }
            SourceJob::Save => Input::Saved(result),
            SourceJob::LastPages => self.last_pages_sent(Marker::Whole),
            SourceJob::LastPagesPostcopy => self.last_pages_sent(Marker::Rest),
            SourceJob::Serve => {
                self.link.last_pages = self.link.bulk && self.link.source_writes;
                Input::AllSent
            }
            SourceJob::Resume => {
                let result = self.resume(scenario, well);
                if result.is_err() {
                    self.facts.let_disk_go(Party::Source);
                    self.facts.source_stays_stopped();
                }
                Input::Resumed(result)
            }
        };
        self.step_source(input, log);
    }

    /// The source takes the disk back and runs its guest at the end of a migration, if it may and
    /// no device refuses (`well`).
    fn resume(&mut self, scenario: &Scenario, well: bool) -> Result<(), Failure> {
        if self.lock_is_elsewhere() || !self.seize() || !self.may_run(scenario, Party::Source) {
            return Err(failure());
        }
        let claim = self.claim(Again::Resume)?;
        if !well {
            return Err(failure());
        }
        self.facts.record.lock = Some(Party::Source);
        self.has_its_disk(claim);
        self.facts.source_runs(self.source.handshake() == Handshake::Owned);
        Ok(())
    }

    /// Makes the record name the source if its guest's disk was let go of before. What is returned
    /// is for [`World::has_its_disk`].
    pub fn claim(&mut self, again: Again) -> Result<Option<Migration>, Failure> {
        let source = &mut self.facts.source;
        if !self.has_record || !custody::must_claim(source.let_go, again, self.guards) {
            return Ok(None);
        }
        let record = &mut self.facts.record;
        if !custody::may_claim(source.announced, again, self.guards) || !record.source_sees {
            return Err(failure());
        }
        let claim = record.run_again(self.migration.id, self.guards).ok_or_else(failure)?;
        source.generation = claim.generation;
        Ok(Some(claim))
    }

    /// The source's guest runs again, or stands still with its disk.
    pub fn has_its_disk(&mut self, claim: Option<Migration>) {
        self.facts.source.let_go = false;
        self.facts.source.claim = claim.or(self.facts.source.claim);
    }

    /// Whether a look at the record, where `party` can reach it, leaves the guest to the two
    /// sides.
    pub fn may_run(&self, scenario: &Scenario, party: Party) -> bool {
        let record = &self.facts.record;
        let (sees, shown) = match party {
            Party::Source => (record.source_sees, self.has_record),
            _ => (record.destination_sees, self.has_record && scenario.record_shared),
        };
        let looks = sees && shown && record.arbiter == Arbiter::Record && scenario.guards.has(Guard::RunsWithALook);
        !looks || record.owner == party || !record.has_changed()
    }

    /// Where the operator has given the guest to the source: makes the record name it, if it can
    /// be reached. Whether the guest may run.
    fn seize(&mut self) -> bool {
        if !self.facts.source.resolved || !self.has_record || self.facts.record.arbiter == Arbiter::DiskLock {
            return true;
        }
        self.facts.source.seizing = !self.facts.record.source_sees;
        self.facts.source.seizing || self.seizes()
    }

    /// The record is made to name the source; whether it does.
    pub fn seizes(&mut self) -> bool {
        self.facts.source.seizing = false;
        let won = self.facts.record.carry_out(Kind::Seize.of(self.migration)) == Reply::Won;
        if won {
            self.facts.source.generation = self.facts.record.generation;
        }
        won
    }

    fn last_pages_sent(&mut self, marker: Marker) -> Input {
        if self.link.bulk {
            self.link.marker = Some(marker);
        }
        Input::LastPagesSent { marker: MARKER }
    }

    /// Whether a connection would be accepted.
    #[must_use]
    pub fn destination_listens(&self) -> bool {
        let destination = &self.facts.destination;
        // A paused destination takes every new connection of its migration, and lets go of one on
        // which nothing came.
        destination.alive && destination.end.is_none() && (!self.arrived || destination.paused)
    }

    fn connect(&mut self, well: bool, log: &mut Log) {
        if !well {
            if self.destination_listens() {
                self.budget.spend(Fault::Break);
            }
            return self.step_source(Input::LinkLost("connection refused".to_owned()), log);
        }
        self.link = Link { last_pages: self.link.last_pages, ..Link::open() };
        if !self.arrived {
            self.arrived = true;
            let outputs = self.destination.start();
            self.perform_destination(outputs, log);
        }
        self.step_source(Input::Connected, log);
    }

    /// What the record says to the source.
    pub fn answer_take_back(&mut self, reply: Option<Reply>, log: &mut Log) {
        let result = match reply {
            Some(Reply::Won) => {
                self.facts.source.generation = self.facts.record.generation;
                TakeBack::Won
            }
            Some(Reply::Taken) => TakeBack::Taken,
            Some(Reply::Lost) => TakeBack::Lost,
            Some(Reply::Claimed) => TakeBack::Claimed,
            None => TakeBack::Unreachable,
        };
        self.step_source(Input::TookBack(result), log);
    }
}
