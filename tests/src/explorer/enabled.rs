//! Which events can happen in a world, and why.

use ferry_migration::Timer;
use ferry_migration::ownership::custody;
use ferry_migration::source::Owner;

use super::bounds::Fault;
use super::event::{Class, Event, Foreign, Operator};
use super::facts::{DestinationGuest, End, SourceGuest};
use super::job::{DestinationJob, SourceJob};
use super::link::Health;
use super::record::Arbiter;
use super::third::Stage;
use super::world::World;
use super::{Party, Side};

/// What can happen, in the order in which it is tried.
pub(super) type Events = Vec<(Class, Event)>;

const SIDES: [Side; 2] = [Side::Source, Side::Destination];

impl World {
    /// Everything that can happen now.
    #[must_use]
    pub fn events(&self) -> Events {
        let mut out = Vec::with_capacity(24);
        self.add_progress(&mut out);
        let quiet = out.is_empty();
        self.add_timers(quiet, &mut out);
        self.add_help(&mut out);
        self.add_job_faults(&mut out);
        self.add_link_faults(&mut out);
        self.add_other_faults(&mut out);
        out
    }

    fn add_progress(&self, out: &mut Events) {
        let mut add = |event| out.push((Class::Progress, event));
        if self.is_alive(Side::Destination) && !self.link.to_destination.is_empty() {
            add(Event::Deliver(Side::Destination));
        }
        if self.is_alive(Side::Source) && !self.link.to_source.is_empty() {
            add(Event::Deliver(Side::Source));
        }
        for side in SIDES {
            if self.is_alive(side) && self.link.must_tell(side) {
                add(Event::Notice(side));
            }
            if let Some(job) = self.record_jobs[side as usize] {
                add(match job.reply {
                    Some(_) => Event::RecordReplies(side),
                    None if self.facts.record.seen_by(side) => Event::RecordDecides(side),
                    None => Event::RecordFails(side),
                });
            }
        }
        for job in self.source_jobs.iter() {
            let well = match job {
                SourceJob::Resume => !self.lock_is_elsewhere(),
                SourceJob::Connect => self.destination_listens(),
                SourceJob::Nonce => self.facts.record.arbiter == Arbiter::DiskLock || self.facts.record.source_sees,
                _ => true,
            };
            add(Event::Source(job, well));
        }
        for job in self.destination_jobs.iter() {
            add(Event::Destination(job, job != DestinationJob::Start || !self.lock_is_elsewhere()));
        }
        if self.facts.source.claim.is_some() && self.facts.record.source_sees {
            add(Event::ClaimSettles);
        }
        if self.facts.source.arriving && self.facts.record.source_sees {
            add(Event::Asserts);
        }
        if self.facts.source.settling && self.facts.record.source_sees {
            add(Event::SourceSettles);
        }
        if self.facts.source.seizing && self.facts.record.source_sees {
            add(Event::Seizes);
        }
        if self.facts.destination.leaving && self.facts.destination.alive && self.facts.destination.end.is_some() {
            add(Event::Leaves);
        }
        if self.facts.third != Stage::Absent || self.facts.record.lock == Some(Party::Other) {
            self.third_steps().into_iter().filter(|step| step.goes_on()).for_each(|step| add(Event::Third(step)));
        }
        for side in SIDES {
            if self.timers(side).has(Timer::Heartbeat) && self.lets_heartbeat_lapse(side) {
                add(Event::Fires(side, Timer::Heartbeat));
            }
        }
        if self.settling.is_some() && self.facts.record.destination_sees {
            add(Event::Settles);
        }
        if self.link.marker.is_some() && self.is_alive(Side::Destination) && self.link.destination_reads {
            add(Event::MarkerArrives);
        }
        if self.pages_can_arrive() {
            add(Event::PagesArrive);
        }
    }

    fn pages_can_arrive(&self) -> bool {
        let destination = &self.facts.destination;
        let wanted = destination.alive
            && destination.end.is_none()
            && destination.armed
            && destination.faults_alive
            && !destination.has_all_pages;
        let served = self.facts.source.serving
            && self.link.bulk
            && self.link.health == Health::Up
            && self.link.source_writes
            && self.link.destination_reads;
        wanted && (served || self.link.last_pages)
    }

    fn add_timers(&self, quiet: bool, out: &mut Events) {
        for side in SIDES {
            for timer in self.timers(side).iter() {
                let class = match timer {
                    // A heartbeat is heard by nobody but timers: what matters is one that is not
                    // sent any more.
                    Timer::Heartbeat => continue,
                    Timer::RetryRecord => Class::Wait,
                    Timer::PeerSilent if quiet && !self.beats(side.other()) => Class::Wait,
                    Timer::PeerSilent => Class::Fault,
                    _ if quiet => Class::Wait,
                    _ => Class::Fault,
                };
                if class == Class::Wait || self.budget.left(Fault::FalseTimeout) > 0 {
                    out.push((class, Event::Fires(side, timer)));
                }
            }
        }
    }

    /// What an operator can do truthfully, and what storage does when it heals.
    fn add_help(&self, out: &mut Events) {
        let mut add = |event| out.push((Class::Help, event));
        for side in SIDES {
            if !self.facts.record.seen_by(side) {
                add(Event::Reach(side, true));
            }
        }
        if !self.facts.source.alive {
            return;
        }
        let may_migrate = custody::may_migrate(self.facts.source.arriving, self.guards);
        if !self.begun && may_migrate {
            add(Event::Operator(Operator::Migrate));
        }
        let shown = self.facts.source.shown;
        if shown == ferry_migration::Status::PostcopyPaused {
            add(Event::Operator(Operator::Recover));
        }
        let destination = &self.facts.destination;
        let fenced = !destination.alive || destination.end.is_some_and(|end| end != End::Completed);
        let uncertain = self.source.uncertainty().is_some();
        let asked = self.source.is_resolving();
        if uncertain && fenced && !self.facts.ran_at_destination && !asked {
            add(Event::Operator(Operator::Resolve(Owner::Source)));
            // An operator who has had the guest booted elsewhere does not say so.
            if self.has_record && !self.facts.forked && self.facts.third == Stage::Absent {
                add(Event::Operator(Operator::NeverRan));
            }
        }
        let stopped = matches!(self.facts.source.guest, SourceGuest::Held | SourceGuest::StoppedForGood);
        if stopped && !self.facts.source.handed_over {
            add(Event::Operator(Operator::Cont));
        }
        let needs_nothing = fenced || destination.has_all_pages;
        let paused = shown == ferry_migration::Status::PostcopyPaused && needs_nothing;
        if (uncertain || paused) && self.facts.ran_at_destination && !asked {
            add(Event::Operator(Operator::Resolve(Owner::Destination)));
        }
    }

    fn add_job_faults(&self, out: &mut Events) {
        let left = |fault| self.budget.left(fault) > 0;
        let mut add = |event| out.push((Class::Fault, event));
        for job in self.source_jobs.iter() {
            let fails = match job {
                SourceJob::Connect => left(Fault::Break) && self.destination_listens(),
                SourceJob::Snapshot | SourceJob::Stop | SourceJob::Save => left(Fault::SaveFailure),
                SourceJob::Resume => left(Fault::RunFailure) && !self.lock_is_elsewhere(),
                _ => false,
            };
            if fails {
                add(Event::Source(job, false));
            }
        }
        for job in self.source_late.iter() {
            add(Event::SourceLate(job));
        }
        for job in self.destination_jobs.iter() {
            let fault = if job == DestinationJob::Start { Fault::StartFailure } else { Fault::LoadFailure };
            if left(fault) {
                add(Event::Destination(job, false));
            }
        }
        for job in self.destination_late.iter() {
            add(Event::DestinationLate(job));
        }
        for side in SIDES {
            if let Some(job) = self.record_jobs[side as usize] {
                if job.reply.is_some() && left(Fault::LostReply) {
                    add(Event::RecordFails(side));
                }
                let free = self.stragglers[side as usize].is_none() && self.facts.record.arbiter == Arbiter::Record;
                if job.reply.is_none() && free && left(Fault::LostReply) {
                    add(Event::RecordStalls(side));
                }
            }
            if self.stragglers[side as usize].is_some() && self.facts.record.seen_by(side) {
                add(Event::Straggler(side));
            }
        }
    }

    fn add_link_faults(&self, out: &mut Events) {
        let left = |fault| self.budget.left(fault) > 0;
        let mut add = |event| out.push((Class::Fault, event));
        if self.link.health != Health::Up {
            // What was on its way is lost with the link.
            if self.is_alive(Side::Source) && !self.link.to_source.is_empty() {
                add(Event::Drop(Side::Source));
            }
            if self.is_alive(Side::Destination) && !self.link.to_destination.is_empty() {
                add(Event::Drop(Side::Destination));
            }
            return;
        }
        if left(Fault::Break) {
            add(Event::Break { silently: false });
            add(Event::Break { silently: true });
        }
        for side in SIDES {
            let reads = match side {
                Side::Source => self.link.source_reads,
                Side::Destination => self.link.destination_reads,
            };
            if left(Fault::BulkBreak) && self.link.bulk && reads {
                add(Event::BulkBreak(side));
            }
            if left(Fault::Garble) && reads {
                add(Event::Garble(side));
            }
        }
    }

    fn add_other_faults(&self, out: &mut Events) {
        let left = |fault| self.budget.left(fault) > 0;
        let mut add = |event| out.push((Class::Fault, event));
        let (source, destination) = (&self.facts.source, &self.facts.destination);
        let source_works = source.alive && self.begun && source.end.is_none();
        let destination_works = destination.alive && destination.end.is_none();
        if source.alive && left(Fault::SourceCrash) {
            add(Event::Crash(Side::Source));
        }
        if destination.alive && left(Fault::DestinationCrash) {
            add(Event::Crash(Side::Destination));
        }
        for side in SIDES {
            if left(Fault::Outage) && self.facts.record.seen_by(side) {
                add(Event::Reach(side, false));
            }
            let works = if side == Side::Source { source_works } else { destination.alive && self.arrived };
            let told = side == Side::Destination && destination.leaving;
            if works && !told && left(Fault::Cancel) {
                add(Event::Operator(Operator::Cancel(side)));
            }
            let pauses = if side == Side::Source { source_works } else { destination_works };
            if pauses && left(Fault::Pause) && self.facts.ran_at_destination {
                add(Event::Operator(Operator::Pause(side)));
            }
        }
        self.third_steps().into_iter().filter(|step| !step.goes_on()).for_each(|step| add(Event::Third(step)));
        if source.alive && source.wants && !source.handed_over && left(Fault::Stop) {
            add(Event::Operator(Operator::Stop));
        }
        let stopped = matches!(source.guest, SourceGuest::Held | SourceGuest::StoppedForGood);
        let refuses = stopped && !self.lock_is_elsewhere() && left(Fault::RunFailure);
        if source.alive && refuses && !source.handed_over {
            add(Event::Operator(Operator::ContFails));
        }
        // Also of a guest that the first migration has left stopped, without its disk.
        let is_here = source.guest != SourceGuest::Stopped;
        let over = source.end.is_some() && (destination.end.is_some() || !destination.alive || !self.arrived);
        let may_migrate = is_here && !source.handed_over && custody::may_migrate(source.arriving, self.guards);
        if source.alive && over && may_migrate && left(Fault::Again) {
            add(Event::Operator(Operator::Again));
        }
        let paused = source_works && source.shown == ferry_migration::Status::PostcopyPaused;
        if paused && left(Fault::RashResolve) {
            add(Event::Operator(Operator::RashResolve));
        }
        if source_works && left(Fault::StartPostcopy) {
            add(Event::Operator(Operator::StartPostcopy));
        }
        let guest = destination.guest != DestinationGuest::Lost;
        if destination_works && destination.armed && destination.faults_alive && guest && left(Fault::FaultsDeath) {
            add(Event::FaultsDie);
        }
        if destination_works && self.arrived && left(Fault::Foreign) {
            add(Event::Foreign(Foreign::Package));
            add(Event::Foreign(Foreign::Permit));
            if destination.paused {
                add(Event::Foreign(Foreign::Recover));
            }
        }
    }
}
