//! The source's driver in a simulation.

use ferry_migration::convergence::Decision;
use ferry_migration::message::{Failure, Handshake, ToDestination};
use ferry_migration::source::{Input, Outcome, Output, TakeBack};

use super::pipe::{Pipe, Spoil};
use super::sim::{Connection, MIGRATION, Sim};
use super::timeline::Happening;
use crate::explorer::Side;
use crate::explorer::facts::{End, SourceGuest};
use crate::explorer::job::SourceJob;
use crate::explorer::record::{Kind, Operation, Reply};

/// What a failing job says.
pub(super) fn failure() -> Failure {
    Failure { device: "fault/0".to_owned(), reason: "told to fail".to_owned() }
}

impl Sim {
    /// Feeds the source, if it lives and its driver has not ended.
    pub fn feed_source(&mut self, input: Input) {
        if !self.facts.source.alive || self.facts.source.end.is_some() {
            return;
        }
        self.note(|| format!("source       {input:?}"));
        let outputs = self.source.step(input);
        self.perform_source(outputs);
    }

    /// Carries out what the source asks for.
    pub fn perform_source(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            self.note(|| format!("             -> {output:?}"));
            match output {
                Output::Status(status) => self.facts.source.shown = status,
                Output::Connect => self.source_job(SourceJob::Connect),
                Output::WriteNonce => self.source_job(SourceJob::Nonce),
                Output::Send(message) => self.send_to_destination(&message),
                Output::StartTimer(timer) => self.start_timer(Side::Source, timer),
                Output::StopTimer(timer) => drop(self.timers.remove(&(Side::Source, timer))),
                Output::SendRound => self.source_job(SourceJob::Round),
                Output::Snapshot => self.source_job(SourceJob::Snapshot),
                Output::StopGuest => self.source_job(SourceJob::Stop),
                Output::Save => self.source_job(SourceJob::Save),
                Output::SendLastPages { postcopy: true } => self.source_job(SourceJob::LastPagesPostcopy),
                Output::SendLastPages { postcopy: false } => self.source_job(SourceJob::LastPages),
                Output::ServePages | Output::ServeMissingPages => {
                    self.facts.source.serving = true;
                    self.source_job(SourceJob::Serve);
                }
                Output::Interrupt => self.facts.source.serving = false,
                Output::TakeBack => self.ask(Side::Source, Kind::TakeBack),
                Output::ResumeGuest => self.source_job(SourceJob::Resume),
                Output::CloseLinks => {
                    self.facts.source.serving = false;
                    self.close(Side::Source);
                }
                Output::Finish(outcome) => self.finish_source(&outcome),
                Output::Settle => self.ask(Side::Source, Kind::SettleSource),
                Output::Resolved(answer) => self.facts.source.resolved |= answer.is_ok() && self.wish_is_source,
                Output::HandOver | Output::Handshake(_) | Output::EndRound | Output::Refuse(_) => {}
            }
        }
    }

    fn source_job(&mut self, job: SourceJob) {
        let takes = self.work_time();
        self.time.after(takes, Happening::Source(job));
    }

    fn finish_source(&mut self, outcome: &Outcome) {
        self.facts.source.end = Some(match outcome {
            Outcome::Completed => End::Completed,
            Outcome::Cancelled => End::Cancelled,
            Outcome::Failed(reason) | Outcome::Stranded(reason) if reason.is_empty() => End::Botched,
            Outcome::Failed(_) => End::Failed,
            Outcome::Stranded(_) => End::Stranded,
        });
    }

    fn send_to_destination(&mut self, message: &ToDestination) {
        self.facts.source.permitted |= matches!(message, ToDestination::Permit { .. });
        let attached = match message {
            ToDestination::Hello { .. } | ToDestination::Rehearse | ToDestination::Package { .. } => {
                self.rng.below(300)
            }
            _ => 0,
        };
        let spoil = self.spoil();
        let latency = self.rng.within(20, 4_000);
        let Some(connection) = self.connection.as_mut().filter(|c| c.works && c.held[0]) else { return };
        let bytes = connection.to_destination.send(message, attached as usize, spoil, &mut self.rng);
        let arrives = connection.arrives[0].max(self.time.now + latency);
        connection.arrives[0] = arrives;
        let number = connection.number;
        self.time.after(arrives - self.time.now, Happening::Bytes(number, Side::Destination, bytes));
        if spoil == Spoil::Cut {
            self.break_connection(false);
        }
    }

    /// What becomes of the next frame.
    pub fn spoil(&mut self) -> Spoil {
        match self.rng.below(1000) {
            _ if !self.faults_on => Spoil::Nothing,
            0..8 => Spoil::Flip,
            8..14 => Spoil::Twice,
            14..22 => Spoil::Cut,
            _ => Spoil::Nothing,
        }
    }

    /// Work of the source has ended.
    pub fn source_job_ends(&mut self, job: SourceJob) {
        if !self.facts.source.alive {
            return;
        }
        let fails = self.work_fails();
        let result = if fails { Err(failure()) } else { Ok(()) };
        let input = match job {
            SourceJob::Connect => return self.connect(fails),
            SourceJob::Nonce if self.facts.record.source_sees => {
                self.facts.record.carry_out(Kind::Announce.of(MIGRATION));
                Input::NonceWritten(Ok(()))
            }
            SourceJob::Nonce => Input::NonceWritten(Err("unreachable".to_owned())),
            SourceJob::Round if self.rng.percent(50) => Input::RoundDone(Decision::Again),
            SourceJob::Round if self.plan.postcopy && self.rng.percent(60) => Input::RoundDone(Decision::Postcopy),
            SourceJob::Round => Input::RoundDone(Decision::Switch),
            SourceJob::Snapshot => Input::Snapshotted(result),
            SourceJob::Stop => {
                self.facts.source.guest = SourceGuest::Stopped;
                Input::Stopped(result)
            }
            SourceJob::Save => Input::Saved(result),
            SourceJob::LastPages => self.last_pages(true),
            SourceJob::LastPagesPostcopy => self.last_pages(false),
            SourceJob::Serve => {
                if !self.facts.source.serving {
                    // It was interrupted, and may answer or not.
                    if self.rng.percent(50) {
                        return;
                    }
                } else if let Some(connection) = self.connection.as_ref().filter(|c| c.works) {
                    let number = connection.number;
                    let takes = self.rng.within(20, 10_000);
                    self.time.after(takes, Happening::Pages(number));
                }
                Input::AllSent
            }
            SourceJob::Resume => {
                if self.facts.source.resolved && self.plan.has_record && self.facts.record.source_sees {
                    self.facts.record.carry_out(Kind::Seize.of(MIGRATION));
                }
                self.facts.source_runs(self.source.handshake() == Handshake::Owned);
                Input::Resumed(Ok(()))
            }
        };
        self.feed_source(input);
    }

    fn last_pages(&mut self, whole: bool) -> Input {
        if let Some(connection) = self.connection.as_ref().filter(|c| c.works) {
            let number = connection.number;
            let takes = self.rng.within(20, 10_000);
            self.time.after(takes, Happening::Marker(number, whole));
        }
        Input::LastPagesSent { marker: 1 }
    }

    fn connect(&mut self, fails: bool) {
        let destination = &self.facts.destination;
        let listens = destination.alive && destination.end.is_none() && (!self.arrived || destination.paused);
        if fails || !listens {
            return self.feed_source(Input::LinkLost("connection refused".to_owned()));
        }
        if self.facts.source.end.is_some() {
            return;
        }
        let number = self.connection.as_ref().map_or(0, |connection| connection.number) + 1;
        self.connection = Some(Connection {
            number,
            works: true,
            held: [true, true],
            to_destination: Pipe::default(),
            to_source: Pipe::default(),
            arrives: [0, 0],
        });
        if !self.arrived {
            self.arrived = true;
            let outputs = self.destination.start();
            self.perform_destination(outputs);
        }
        self.feed_source(Input::Connected);
    }

    /// The record's answer reaches the source.
    pub fn source_hears_record(&mut self, operation: Operation, reply: Option<Reply>) {
        if operation.kind == Kind::SettleSource {
            if reply.is_none() && self.facts.source.alive {
                self.ask(Side::Source, Kind::SettleSource);
            }
            return;
        }
        self.feed_source(Input::TookBack(match reply {
            Some(Reply::Won) => TakeBack::Won,
            Some(Reply::Lost) => TakeBack::Lost,
            Some(Reply::Claimed) => TakeBack::Claimed,
            Some(Reply::Taken) => TakeBack::Taken,
            None => TakeBack::Unreachable,
        }));
    }
}
