//! Which safety checks of the state machines are in force: all of them, always, outside of an
//! explorer.
//!
//! Each [`Guard`] names one decision that protects a promise of the switchover (`docs/explorer.md`
//! lists which). The explorer in `ferry-tests` takes one away at a time and must then find a way
//! to break the promise: so no change can remove a guard unnoticed, and none is there for nothing.
//! Only an explorer turns one off; the runtime has no way to.

use std::fmt;

/// One decision of a state machine that protects a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Guard {
    /// Source: a record that the destination does not see decides nothing.
    UnsharedRecordIsNone,
    /// Source: a link that is lost after the permit does not let the guest resume.
    StaysStoppedAfterPermit,
    /// Source: a cancel after the permit is refused.
    RefusesLateCancel,
    /// Source: a record that names the destination does not let the guest resume.
    TakeBackLostStaysStopped,
    /// Source: a record that cannot be reached does not let the guest resume.
    TakeBackUnreachableStaysStopped,
    /// Source: a destination that has claimed the guest, and may still give it back, is not yet
    /// its owner for good.
    ClaimedIsNotSettled,
    /// Source: a destination's word that it has not started is checked against the record, which
    /// it may have changed.
    NotStartedAsksRecord,
    /// Source: a migration that is given up while the machine is being stopped or saved waits for
    /// the end of that.
    WindingWaits,
    /// Source: the end of a link in postcopy is not the end of the postcopy.
    LinkEndIsNotDrained,
    /// Source: having sent every page is not their arrival.
    SentIsNotReceived,
    /// Source: memory that the destination has outrun is never run, even if an operator asks for
    /// it.
    PausedNeverResolvesToSource,
    /// Source: a link that was lost before the destination's word came is not forgotten when it
    /// comes.
    StartedRemembersLink,
    /// Source: signs of life go again when an uncertainty ends.
    BeatsAfterUncertainty,
    /// Source: the record says that a migration is under way, with any handshake.
    EveryHandshakeAnnounces,
    /// Source: only a process that runs the guest, or holds its disk, says that no migration is
    /// under way.
    SettlesOnlyWhatItHolds,
    /// Source: an operator's word that the guest is here is checked against the record.
    ResolveAsksRecord,
    /// Destination: nothing starts without the permit.
    StartNeedsPermit,
    /// Destination: with a record, nothing starts before the record was asked.
    StartNeedsClaim,
    /// Destination: a claim that was lost does not start the guest.
    ClaimLostStaysStopped,
    /// Destination: a claim without an answer does not start the guest.
    ClaimUnreachableStaysStopped,
    /// Destination: a claimed guest that does not start is given back before that is said.
    GivesBackFirst,
    /// Destination: nothing that becomes of the link after the permit undoes what the permit set
    /// going.
    PermitOutlivesLink,
    /// Destination: nothing happens after the end.
    NothingAfterDone,
    /// Destination: nothing is loaded before the last pages are here.
    LoadNeedsMarker,
    /// Destination: a package of another run of the guest is not loaded.
    PackageNeedsGeneration,
    /// Destination: a permit for another run of the guest permits nothing.
    PermitNeedsGeneration,
    /// Destination: a source of another run of the guest cannot recover this postcopy.
    RecoverNeedsGeneration,
    /// Destination: a postcopy is complete when every page is here, not when the source says so.
    CompletesWithAllPages,
    /// Destination: a fault handler that died before the start keeps the guest from starting here.
    FaultsDeathIsRemembered,
    /// Destination: a link that was lost during the start is not forgotten after it.
    StartRemembersLink,
    /// Destination: a link that is lost while paused takes the rest of its connection with it.
    PausedClosesLostLink,
    /// Destination: a process that is told to end while it claims the guest gives it back.
    LeavingGivesBack,
    /// A process that boots the guest: not while a migration is under way.
    BootNeedsSettled,
    /// A process that boots the guest: the record must still be as it was read.
    BootSwapsWhatItRead,
    /// A process to which the guest came without a claim: a record that tells of the hand-over of
    /// a process which has no part in that is left as it is.
    ArrivalLeavesHandovers,
    /// A process to which the guest came without a claim: a source by which the guest has come may
    /// have got it back since, and then keeps the record.
    ArrivalTakesItsHandover,
    /// A process to which the guest came without a claim: the guest does not leave before the
    /// record names the process, which would end a migration's announcement in the middle of it.
    ArrivalNamesFirst,
    /// Both sides: a guest that runs at the end of a switchover does so with a look at the record,
    /// which an operator may have given to another process meanwhile.
    RunsWithALook,
    /// `cont`: a guest whose disk was let go of runs again only once the record names its process.
    ContAsksRecord,
    /// `cont`: not of such a guest while another migration of it is announced, which goes by the
    /// generation that it has found.
    ContWaitsForMigration,
    /// `cont`: a try that is refused does not give away what a stopped guest has.
    RefusedContKeeps,
    /// Source: such a guest is claimed as for `cont` before it runs at the end of a further
    /// migration.
    ResumeClaimsFirst,
    /// Source: nor does a further migration of it that ends early say that none is under way.
    SettleNeedsDisk,
    /// `cont` and source: a guest that was claimed is not said to be here before it runs, or
    /// stands still with its disk.
    SettlesWhenItRuns,
}

impl Guard {
    /// Every guard, the source's first.
    pub const ALL: [Guard; 44] = [
        Guard::UnsharedRecordIsNone,
        Guard::StaysStoppedAfterPermit,
        Guard::RefusesLateCancel,
        Guard::TakeBackLostStaysStopped,
        Guard::TakeBackUnreachableStaysStopped,
        Guard::ClaimedIsNotSettled,
        Guard::NotStartedAsksRecord,
        Guard::WindingWaits,
        Guard::LinkEndIsNotDrained,
        Guard::SentIsNotReceived,
        Guard::PausedNeverResolvesToSource,
        Guard::StartedRemembersLink,
        Guard::BeatsAfterUncertainty,
        Guard::EveryHandshakeAnnounces,
        Guard::SettlesOnlyWhatItHolds,
        Guard::ResolveAsksRecord,
        Guard::StartNeedsPermit,
        Guard::StartNeedsClaim,
        Guard::ClaimLostStaysStopped,
        Guard::ClaimUnreachableStaysStopped,
        Guard::GivesBackFirst,
        Guard::PermitOutlivesLink,
        Guard::NothingAfterDone,
        Guard::LoadNeedsMarker,
        Guard::PackageNeedsGeneration,
        Guard::PermitNeedsGeneration,
        Guard::RecoverNeedsGeneration,
        Guard::CompletesWithAllPages,
        Guard::FaultsDeathIsRemembered,
        Guard::StartRemembersLink,
        Guard::PausedClosesLostLink,
        Guard::LeavingGivesBack,
        Guard::BootNeedsSettled,
        Guard::BootSwapsWhatItRead,
        Guard::ArrivalLeavesHandovers,
        Guard::ArrivalTakesItsHandover,
        Guard::ArrivalNamesFirst,
        Guard::RunsWithALook,
        Guard::ContAsksRecord,
        Guard::ContWaitsForMigration,
        Guard::RefusedContKeeps,
        Guard::ResumeClaimsFirst,
        Guard::SettleNeedsDisk,
        Guard::SettlesWhenItRuns,
    ];
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The guards in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Guards {
    off: u64,
}

impl Guards {
    /// Every guard: what everything but an explorer uses.
    #[must_use]
    pub const fn all() -> Self {
        Guards { off: 0 }
    }

    /// All but one. Only an explorer asks for this.
    #[must_use]
    pub const fn without(guard: Guard) -> Self {
        Guards { off: 1 << guard as u64 }
    }

    /// Whether a guard is in force.
    #[must_use]
    pub const fn has(self, guard: Guard) -> bool {
        self.off & (1 << guard as u64) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guard_has_its_own_flag() {
        assert_eq!(Guards::all(), Guards::default());
        for (at, guard) in Guard::ALL.into_iter().enumerate() {
            assert_eq!(guard as usize, at, "{guard} is out of order");
            assert!(Guards::all().has(guard));
            let off = Guard::ALL.into_iter().filter(|g| !Guards::without(guard).has(*g)).collect::<Vec<_>>();
            assert_eq!(off, [guard]);
        }
    }
}
