//! Other processes that have to do with the guest: one that boots it, by its record or past it, or
//! to which a copy of it comes by mistake, and one that only holds its disk's lock for a while.

use ferry_migration::Status;
use ferry_migration::message::Handshake;
use ferry_migration::ownership::custody::{self, Again};

use super::Party;
use super::bounds::Fault;
use super::event::Third;
use super::facts::{End, Facts, SourceGuest};
use super::record::{FIRST, Swap};
use super::scenario::Scenario;
use super::world::World;

/// How far the process that boots the guest has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// There is none, or it was refused, or it has ended.
    Absent,
    /// It has read the record, and nothing is in the way.
    Looked(Swap),
    /// It holds the disk's lock as well.
    Locked(Swap),
    /// It holds the lock, and does not look at the record.
    LockedPast,
    /// The record names it, or is not asked.
    Owns,
    /// Its guest runs.
    Runs,
    /// A copy of the guest has arrived there, stopped; it holds the disk's lock.
    Arrived {
        /// On a way that began with the source's first migration.
        on_from_first: bool,
    },
    /// It has asked the record for that.
    Keeps,
}

impl World {
    /// What other processes can do now.
    #[must_use]
    pub fn third_steps(&self) -> Vec<Third> {
        let left = |fault| self.budget.left(fault) > 0;
        let mut steps = match self.facts.third {
            Stage::Absent => {
                let mut begin = Vec::new();
                if left(Fault::Boot) {
                    begin.push(Third::Looks { take: false });
                }
                if left(Fault::BootPast) && self.facts.record.lock.is_none() {
                    begin.push(Third::PastLocks);
                }
                if left(Fault::Arrival) && self.facts.record.lock.is_none() {
                    begin.push(Third::Arrives { on_from_first: false });
                    // By `setup`, to a process that has never run it. The source has got its
                    // guest back since.
                    let is_back = self.migration.id > FIRST.1.id || self.facts.source.resolved;
                    let by_setup = self.has_record && self.source.handshake() == Handshake::Setup;
                    if by_setup && self.facts.copied && is_back && !self.facts.ran_at_destination {
                        begin.push(Third::Arrives { on_from_first: true });
                    }
                }
                // The guest is seen to stand still: the operator has ended the destination, and
                // forgotten the source.
                let (source, destination) = (&self.facts.source, &self.facts.destination);
                let waits = source.shown == Status::Uncertain && !source.resolved && !self.source.is_resolving();
                let stands = waits || source.let_go;
                if left(Fault::RashTake) && stands && (!destination.alive || destination.end.is_some()) {
                    begin.push(Third::Looks { take: true });
                }
                begin
            }
            Stage::Looked(_) => vec![Third::Locks],
            Stage::Locked(_) => vec![Third::Swaps],
            Stage::LockedPast => vec![Third::PastLooks],
            Stage::Owns => vec![Third::Runs],
            Stage::Arrived { .. } => vec![Third::Asserts],
            Stage::Runs | Stage::Keeps => vec![Third::Ends],
        };
        if self.facts.record.lock.is_none() && left(Fault::LockHeld) {
            steps.push(Third::OtherLocks);
        }
        if self.facts.record.lock == Some(Party::Other) {
            steps.push(Third::OtherUnlocks);
        }
        steps
    }

    /// Whether a process that has no part in the migration holds the disk's lock.
    #[must_use]
    pub fn lock_is_elsewhere(&self) -> bool {
        matches!(self.facts.record.lock, Some(Party::Third | Party::Other))
    }

    /// Whether a side shows at the disk that a hand-over is under way: one that has no lock of it,
    /// and has the guest or waits for it. Only of the sides in `signs`, the source's first.
    fn shows_sign(&self, signs: [bool; 2]) -> bool {
        let Facts { source, destination, record, .. } = &self.facts;
        let has_gone = source.end == Some(End::Completed) || source.end.is_some() && source.handed_over;
        let at_source = source.alive && record.lock != Some(Party::Source) && !has_gone;
        let at_destination = destination.alive && record.lock != Some(Party::Destination) && self.awaits_guest;
        signs[0] && at_source || signs[1] && at_destination
    }

    /// Another process takes its next step.
    pub fn apply_third(&mut self, scenario: &Scenario, step: Third) {
        match step {
            Third::Looks { take } => {
                self.budget.spend(if take { Fault::RashTake } else { Fault::Boot });
                // Without a record the lock alone is in the way.
                let swap = self.facts.record.boot(take, scenario.guards);
                self.facts.third = swap.map_or(Stage::Absent, Stage::Looked);
                self.facts.third_takes = take;
            }
            Third::Locks => {
                let Stage::Looked(swap) = self.facts.third else { unreachable!("offered only when it has looked") };
                let free = self.facts.record.lock.is_none();
                if free {
                    self.facts.record.lock = Some(Party::Third);
                }
                self.facts.third = if free { Stage::Locked(swap) } else { Stage::Absent };
            }
            Third::PastLocks => {
                self.budget.spend(Fault::BootPast);
                self.facts.record.lock = Some(Party::Third);
                self.facts.third = Stage::LockedPast;
                self.facts.third_takes = false;
            }
            Third::PastLooks => {
                let refused = self.shows_sign(scenario.signs);
                if refused {
                    self.facts.record.lock = None;
                }
                self.facts.third = if refused { Stage::Absent } else { Stage::Owns };
            }
            Third::Swaps => {
                let Stage::Locked(swap) = self.facts.third else { unreachable!("offered only when it holds the lock") };
                let won = self.facts.record.boots(swap);
                if !won {
                    self.facts.record.lock = None;
                }
                self.facts.third = if won { Stage::Owns } else { Stage::Absent };
            }
            Third::Runs => {
                self.facts.third = Stage::Runs;
                self.facts.third_runs();
            }
            Third::Arrives { on_from_first } => {
                self.budget.spend(Fault::Arrival);
                self.facts.third = Stage::Arrived { on_from_first };
                self.facts.record.lock = Some(Party::Third);
            }
            Third::Asserts => {
                // Another source has announced nothing in this record.
                let through = matches!(self.facts.third, Stage::Arrived { on_from_first: true }).then_some(FIRST);
                self.facts.record.names_third(through.as_slice(), scenario.guards);
                self.facts.third = Stage::Keeps;
            }
            Third::Ends => {
                self.facts.third = Stage::Absent;
                self.facts.record.lock = None;
            }
            Third::OtherLocks => {
                self.budget.spend(Fault::LockHeld);
                self.facts.record.lock = Some(Party::Other);
            }
            Third::OtherUnlocks => self.facts.record.lock = None,
        }
    }

    /// `cont` at a source: a guest that was stopped with its disk held runs at once; one whose
    /// disk was let go of takes the lock, asks the record, and then runs, if no device refuses
    /// (`well`).
    pub fn continue_source(&mut self, well: bool) {
        let stopped = matches!(self.facts.source.guest, SourceGuest::Held | SourceGuest::StoppedForGood);
        if !stopped || self.lock_is_elsewhere() {
            return;
        }
        let held = self.facts.record.lock == Some(Party::Source);
        let Ok(claim) = self.claim(Again::Cont) else {
            if !custody::keeps_disk(held, self.guards) {
                self.facts.let_disk_go(Party::Source);
            }
            return;
        };
        // Kept also if a device refuses.
        self.facts.record.lock = Some(Party::Source);
        if well {
            self.has_its_disk(claim);
            self.facts.source_goes_on();
        }
    }

    /// The same, but a device refuses to run. The disk's does so when it is to take the lock that
    /// it has already.
    pub fn refuse_cont(&mut self) {
        self.budget.spend(Fault::RunFailure);
        let held = self.facts.record.lock == Some(Party::Source);
        match held {
            true if custody::keeps_disk(held, self.guards) => {}
            true => self.facts.let_disk_go(Party::Source),
            false => self.continue_source(false),
        }
    }
}
