//! Which safety checks of the state machines are in force: all of them, always, outside of an
//! explorer.
//!
//! Each [`Guard`] names one decision that protects a promise of the switchover (`docs/explorer.md`
//! lists which). The explorer in `ferry-tests` turns off one at a time and must then find a way to
//! break the promise: so every guard is necessary, and its removal is noticed. The runtime cannot
//! turn a guard off.

use std::fmt;

/// One decision of a state machine that protects a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Guard {
    /// Source: a record that the destination does not see decides nothing.
    UnsharedRecordIsNone,
    /// Source: the loss of a link after the permit does not resume the guest.
    StaysStoppedAfterPermit,
    /// Source: a cancel after the permit is refused.
    RefusesLateCancel,
    /// Source: a record that names the destination does not resume the guest.
    TakeBackLostStaysStopped,
    /// Source: a record that cannot be reached does not resume the guest.
    TakeBackUnreachableStaysStopped,
    /// Source: a destination that has claimed the guest, and may still give it back, is not yet
    /// its owner for good.
    ClaimedIsNotSettled,
    /// Source: `NotStarted` is checked against the record, which the destination may have changed.
    NotStartedAsksRecord,
    /// Source: a migration given up while the machine is being stopped or saved waits until that
    /// ends.
    WindingWaits,
    /// Source: the end of a link in postcopy is not the end of the postcopy.
    LinkEndIsNotDrained,
    /// Source: a postcopy is not complete when every page has been sent; `DrainedAck` completes it.
    SentIsNotReceived,
    /// Source: once the destination has run the guest, the source's memory is outdated and never
    /// runs, even if an operator requests it.
    PausedNeverResolvesToSource,
    /// Source: a link lost before `Started` arrived still counts as lost after it.
    StartedRemembersLink,
    /// Source: heartbeats are sent again when an uncertainty ends.
    BeatsAfterUncertainty,
    /// Source: with any handshake, the record announces the migration.
    EveryHandshakeAnnounces,
    /// Source: only a process that runs the guest, or holds its disk, settles the record.
    SettlesOnlyWhatItHolds,
    /// Source: an operator's decision that the source owns the guest is checked against the record.
    ResolveAsksRecord,
    /// Destination: nothing starts without the permit.
    StartNeedsPermit,
    /// Destination: with a record, nothing starts before the claim.
    StartNeedsClaim,
    /// Destination: a claim that was lost does not start the guest.
    ClaimLostStaysStopped,
    /// Destination: a claim without an answer does not start the guest.
    ClaimUnreachableStaysStopped,
    /// Destination: a claimed guest that does not start is given back before `NotStarted` is sent.
    GivesBackFirst,
    /// Destination: no message and no loss of the link after the permit stops the claim or the
    /// start.
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
    /// Destination: a postcopy is complete when every page is here, not when the source sends
    /// `Drained`.
    CompletesWithAllPages,
    /// Destination: the fault handler's death during the claim or the start is acted on when that
    /// ends.
    FaultsDeathIsRemembered,
    /// Destination: a link lost during the start still counts as lost after it.
    StartRemembersLink,
    /// Destination: a link that is lost while paused closes the rest of its connection.
    PausedClosesLostLink,
    /// Destination: a process that has to end while it claims the guest gives it back.
    LeavingGivesBack,
    /// A process that boots the guest: not while a migration is under way.
    BootNeedsSettled,
    /// A process that boots the guest: the record must still be as it was read.
    BootSwapsWhatItRead,
    /// A process to which the guest came without a claim does not change a record that announces
    /// the hand-over of an unrelated process.
    ArrivalLeavesHandovers,
    /// A process to which the guest came without a claim: an earlier source may have got the guest
    /// back since, and then keeps the record.
    ArrivalTakesItsHandover,
    /// A process to which the guest came without a claim starts no migration of it before the
    /// record names the process: that change would remove the migration's announcement.
    ArrivalNamesFirst,
    /// Both sides: a guest that runs at the end of a switchover runs only after a read of the
    /// record, which an operator may have given to another process meanwhile.
    RunsWithALook,
    /// `cont`: a guest whose disk was released runs again only once the record names its process.
    ContAsksRecord,
    /// `cont`: such a guest is not claimed while another migration of it is announced, which relies
    /// on the generation that it has read.
    ContWaitsForMigration,
    /// `cont`: a refused attempt does not release the disk that a stopped guest holds.
    RefusedContKeeps,
    /// Source: such a guest is claimed as for `cont` before it runs at the end of a further
    /// migration.
    ResumeClaimsFirst,
    /// Source: nor is the record settled when a further migration of it ends early.
    SettleNeedsDisk,
    /// `cont` and source: the record of a claimed guest is settled only when the guest runs, or is
    /// stopped with its disk held.
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
    /// Every guard. Only an explorer uses anything else.
    #[must_use]
    pub const fn all() -> Self {
        Guards { off: 0 }
    }

    /// All but one, for an explorer.
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
