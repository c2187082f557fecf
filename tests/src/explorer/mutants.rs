//! What each guard of the state machines is for: without it, this scenario breaks that promise.

use ferry_migration::guards::Guard;
use ferry_migration::message::Handshake::{self, Owned, Setup};

use super::bounds::Fault;
use super::invariants::Invariant;
use super::scenario::Scenario;

const PRECOPY: bool = false;
const POSTCOPY: bool = true;

/// The scenario that shows what `guard` is for, with the guard in force, and the promise that
/// breaks without it.
#[must_use]
pub fn what_it_is_for(guard: Guard) -> (Scenario, Invariant) {
    let setup = |postcopy| Scenario::new(Setup, postcopy);
    let owned = |postcopy| Scenario::new(Owned, postcopy);
    // The source has a record, which the destination does not see.
    let recorded = Scenario { has_record: true, record_shared: false, ..setup(PRECOPY) };
    match guard {
        Guard::UnsharedRecordIsNone => {
            let unshared = Scenario { record_shared: false, ..owned(PRECOPY) };
            (unshared.with(Fault::Break, 1), Invariant::TwoRunners)
        }
        Guard::StaysStoppedAfterPermit => (setup(PRECOPY).with(Fault::Break, 1), Invariant::TwoRunners),
        Guard::RefusesLateCancel => (setup(PRECOPY).with(Fault::Cancel, 1), Invariant::TwoRunners),
        // A look at the record before the run would catch it, where the record answers.
        Guard::TakeBackLostStaysStopped => {
            (owned(PRECOPY).with(Fault::Break, 1).with(Fault::Outage, 1), Invariant::TwoRunners)
        }
        Guard::TakeBackUnreachableStaysStopped => {
            (owned(PRECOPY).with(Fault::Break, 1).with(Fault::Outage, 1), Invariant::TwoRunners)
        }
        Guard::ClaimedIsNotSettled => {
            (owned(PRECOPY).with(Fault::Break, 1).with(Fault::StartFailure, 1), Invariant::BothStopped)
        }
        Guard::NotStartedAsksRecord => (owned(PRECOPY).with(Fault::FalseTimeout, 1), Invariant::OwnedRun),
        Guard::WindingWaits => (setup(PRECOPY).with(Fault::Cancel, 1), Invariant::BothStopped),
        Guard::LinkEndIsNotDrained => (setup(POSTCOPY).with(Fault::Break, 1), Invariant::Pages),
        Guard::SentIsNotReceived => (setup(POSTCOPY), Invariant::Pages),
        Guard::PausedNeverResolvesToSource => {
            (setup(POSTCOPY).with(Fault::Break, 1).with(Fault::RashResolve, 1), Invariant::TwoRunners)
        }
        Guard::StartedRemembersLink => (setup(POSTCOPY).with(Fault::BulkBreak, 1), Invariant::Finishes),
        Guard::BeatsAfterUncertainty => (setup(POSTCOPY).with(Fault::FalseTimeout, 1), Invariant::BothBeat),
        Guard::EveryHandshakeAnnounces => (recorded.with(Fault::Break, 1).with(Fault::Boot, 1), Invariant::Kept),
        Guard::SettlesOnlyWhatItHolds => {
            (recorded.with(Fault::Break, 1).with(Fault::LockHeld, 1).with(Fault::Boot, 1), Invariant::Kept)
        }
        Guard::ResolveAsksRecord => {
            let rash = owned(PRECOPY).with(Fault::Break, 1).with(Fault::RashTake, 1);
            (rash.with(Fault::Outage, 1), Invariant::StaleRun)
        }
        Guard::StartNeedsPermit => (setup(PRECOPY).with(Fault::Break, 1), Invariant::TwoRunners),
        Guard::StartNeedsClaim => (owned(PRECOPY).with(Fault::Break, 1), Invariant::TwoRunners),
        // As above, at the destination.
        Guard::ClaimLostStaysStopped => {
            (owned(PRECOPY).with(Fault::Break, 1).with(Fault::Outage, 1), Invariant::TwoRunners)
        }
        Guard::ClaimUnreachableStaysStopped => {
            (owned(PRECOPY).with(Fault::Outage, 1).with(Fault::FalseTimeout, 1), Invariant::TwoRunners)
        }
        Guard::GivesBackFirst => (owned(PRECOPY).with(Fault::StartFailure, 1), Invariant::BothStopped),
        Guard::PermitOutlivesLink => (owned(PRECOPY).with(Fault::Break, 1), Invariant::BothStopped),
        Guard::NothingAfterDone => (setup(PRECOPY).with(Fault::Cancel, 1), Invariant::Told),
        Guard::LoadNeedsMarker => (setup(PRECOPY), Invariant::Pages),
        // With a permit the two packages would be noticed; the older handshakes rest on this guard
        // alone.
        Guard::PackageNeedsGeneration => {
            (Scenario::new(Handshake::None, PRECOPY).with(Fault::Foreign, 1), Invariant::StaleRun)
        }
        Guard::PermitNeedsGeneration => {
            (setup(PRECOPY).with(Fault::Foreign, 1).with(Fault::Break, 1), Invariant::TwoRunners)
        }
        Guard::RecoverNeedsGeneration => {
            (setup(POSTCOPY).with(Fault::Foreign, 1).with(Fault::Break, 1), Invariant::StaleRun)
        }
        Guard::CompletesWithAllPages => (setup(POSTCOPY), Invariant::Pages),
        Guard::FaultsDeathIsRemembered => (owned(POSTCOPY).with(Fault::FaultsDeath, 1), Invariant::Pages),
        Guard::StartRemembersLink => (setup(POSTCOPY).with(Fault::Break, 1), Invariant::Pages),
        Guard::PausedClosesLostLink => {
            (setup(POSTCOPY).with(Fault::Break, 1).with(Fault::BulkBreak, 1), Invariant::Finishes)
        }
        Guard::LeavingGivesBack => (owned(PRECOPY).with(Fault::Cancel, 1), Invariant::Kept),
        Guard::BootNeedsSettled | Guard::BootSwapsWhatItRead => (owned(PRECOPY).with(Fault::Boot, 1), Invariant::Kept),
        Guard::ArrivalLeavesHandovers => (owned(PRECOPY).with(Fault::Arrival, 1).with(Fault::Boot, 1), Invariant::Kept),
        // The source has its guest back; from the destination, which should have ended, a copy
        // goes on by mistake.
        Guard::ArrivalTakesItsHandover => {
            let back = recorded.with(Fault::Break, 1).with(Fault::Arrival, 1);
            (back.with(Fault::Boot, 1), Invariant::Kept)
        }
        // The source's guest has come to it by `setup` a moment ago.
        Guard::ArrivalNamesFirst => {
            let come = Scenario { has_come: true, record_shared: true, ..recorded };
            (come.with(Fault::Boot, 1), Invariant::Kept)
        }
        Guard::RunsWithALook => {
            let late = Scenario { record_shared: true, ..recorded }.with(Fault::FalseTimeout, 1);
            (late.with(Fault::Break, 1).with(Fault::RashTake, 1), Invariant::StaleRun)
        }
        Guard::ContAsksRecord => {
            let locked = owned(PRECOPY).with(Fault::Break, 1).with(Fault::LockHeld, 1);
            (locked.with(Fault::RashTake, 1), Invariant::StaleRun)
        }
        Guard::RefusedContKeeps => {
            let refused = owned(PRECOPY).with(Fault::Stop, 1).with(Fault::RunFailure, 1);
            (refused.with(Fault::Boot, 1), Invariant::Kept)
        }
        // The first migration leaves the guest stopped without its disk; then comes another.
        Guard::SettleNeedsDisk => {
            let twice = owned(PRECOPY).with(Fault::Cancel, 2).with(Fault::LockHeld, 1).with(Fault::Again, 1);
            (twice.with(Fault::Boot, 1), Invariant::Kept)
        }
        // So does the second, with its disk in hand and the record claimed.
        Guard::SettlesWhenItRuns => {
            let twice = owned(PRECOPY).with(Fault::Cancel, 2).with(Fault::RunFailure, 2).with(Fault::Again, 1);
            (twice.with(Fault::Boot, 1), Invariant::Kept)
        }
        Guard::ContWaitsForMigration => {
            let twice = owned(PRECOPY).with(Fault::Cancel, 1).with(Fault::LockHeld, 1).with(Fault::Again, 1);
            (twice.with(Fault::Boot, 1), Invariant::Kept)
        }
        // A look at the record would find the other process, where the record answers at once.
        Guard::ResumeClaimsFirst => {
            let twice = owned(PRECOPY).with(Fault::LoadFailure, 2).with(Fault::LockHeld, 1).with(Fault::Again, 1);
            (twice.with(Fault::RashTake, 1).with(Fault::Outage, 1), Invariant::StaleRun)
        }
    }
}
