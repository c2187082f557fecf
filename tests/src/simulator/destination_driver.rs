//! The destination's driver in a simulation.

use ferry_migration::ToSource;
use ferry_migration::destination::{Claim, GiveBack, Input, LoadTimes, Outcome, Output};
use ferry_migration::message::Handshake;

use super::pipe::Spoil;
use super::sim::Sim;
use super::source_driver::failure;
use super::timeline::Happening;
use crate::explorer::Side;
use crate::explorer::facts::{DestinationGuest, End};
use crate::explorer::job::DestinationJob;
use crate::explorer::record::{Kind, Operation, Reply};

impl Sim {
    /// Feeds the destination, if it lives and its driver has not ended.
    pub fn feed_destination(&mut self, input: Input) {
        if !self.facts.destination.alive || self.facts.destination.end.is_some() {
            return;
        }
        self.note(|| format!("destination  {input:?}"));
        let outputs = self.destination.step(input);
        self.perform_destination(outputs);
    }

    /// Carries out what the destination asks for.
    pub fn perform_destination(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            self.note(|| format!("             -> {output:?}"));
            match output {
                Output::CheckGreeting => self.destination_job(DestinationJob::Check),
                Output::Send(message) => self.send_to_source(&message),
                Output::StartTimer(timer) => self.start_timer(Side::Destination, timer),
                Output::StopTimer(timer) => drop(self.timers.remove(&(Side::Destination, timer))),
                Output::Load { rehearsal: true, .. } => self.destination_job(DestinationJob::LoadTrial),
                Output::Load { rehearsal: false, postcopy } => {
                    self.facts.destination.armed = postcopy;
                    self.destination_job(DestinationJob::Load);
                }
                Output::Claim => self.ask(Side::Destination, Kind::Claim),
                Output::GiveBack => self.ask(Side::Destination, Kind::GiveBack),
                Output::Settle => self.ask(Side::Destination, Kind::Settle),
                Output::Start => self.destination_job(DestinationJob::Start),
                Output::Paused => self.facts.destination.paused = true,
                Output::Resumed => self.facts.destination.paused = false,
                Output::LoseGuest(_) => self.facts.destination.guest = DestinationGuest::Lost,
                Output::CloseLinks => self.close(Side::Destination),
                Output::Finish(outcome) => self.finish_destination(&outcome),
                Output::Interrupt | Output::ReceivePages => {}
            }
        }
    }

    fn destination_job(&mut self, job: DestinationJob) {
        let takes = self.work_time();
        self.time.after(takes, Happening::Destination(job));
    }

    fn finish_destination(&mut self, outcome: &Outcome) {
        self.facts.destination.paused = false;
        self.facts.destination.end = Some(match outcome {
            Outcome::Completed => End::Completed,
            Outcome::Failed(reason) if reason.is_empty() => End::Botched,
            Outcome::Failed(_) => End::Failed,
        });
    }

    fn send_to_source(&mut self, message: &ToSource) {
        let attached = if *message == ToSource::RecoverAck { self.rng.below(300) } else { 0 };
        let spoil = self.spoil();
        let latency = self.rng.within(20, 4_000);
        let Some(connection) = self.connection.as_mut().filter(|c| c.works && c.held[1]) else { return };
        let bytes = connection.to_source.send(message, attached as usize, spoil, &mut self.rng);
        let arrives = connection.arrives[1].max(self.time.now + latency);
        connection.arrives[1] = arrives;
        let number = connection.number;
        self.time.after(arrives - self.time.now, Happening::Bytes(number, Side::Source, bytes));
        if spoil == Spoil::Cut {
            self.break_connection(false);
        }
    }

    /// Work of the destination has ended.
    pub fn destination_job_ends(&mut self, job: DestinationJob) {
        if !self.facts.destination.alive {
            return;
        }
        let fails = self.work_fails();
        let input = match job {
            DestinationJob::Check if fails => Input::Checked(Err("memory: told to differ".to_owned())),
            DestinationJob::Check => Input::Checked(Ok(self.record_shared)),
            DestinationJob::LoadTrial | DestinationJob::Load if fails => Input::Loaded(Err(failure())),
            DestinationJob::LoadTrial | DestinationJob::Load => Input::Loaded(Ok(LoadTimes::default())),
            DestinationJob::Start if fails => Input::Started(Err(failure())),
            DestinationJob::Start => {
                self.facts.destination_runs(self.destination.handshake() == Handshake::Owned);
                Input::Started(Ok(1))
            }
        };
        self.feed_destination(input);
    }

    /// The record's answer reaches the destination; what is to be settled is asked for until it
    /// is.
    pub fn destination_hears_record(&mut self, operation: Operation, reply: Option<Reply>) {
        let input = match (operation.kind, reply) {
            (Kind::Settle, Some(_)) => return,
            (Kind::Settle, None) => return self.ask(Side::Destination, Kind::Settle),
            (Kind::Claim, Some(Reply::Won)) => Input::Claimed(Claim::Won),
            (Kind::Claim, Some(_)) => Input::Claimed(Claim::Lost),
            (Kind::Claim, None) => Input::Claimed(Claim::Unreachable),
            (_, Some(_)) => Input::GaveBack(GiveBack::Done),
            (_, None) => Input::GaveBack(GiveBack::Unreachable),
        };
        self.feed_destination(input);
    }
}
