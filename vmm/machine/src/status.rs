//! The state of the machine: the requested run state, the hold, how it ended.

use ferry_observe::RunState;

use super::error::ExitReason;

/// Why the machine is stopped although the operator may want it to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hold {
    /// An incoming migration has not arrived yet.
    Incoming,
    /// The source's switchover.
    Switchover,
    /// The guest belongs to the destination; never released.
    HandedOver,
}

/// Who requested a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResetCause {
    Guest,
    Operator,
}

/// Everything that decides whether vCPUs run: if and only if `wants && hold.is_none() &&
/// ended.is_none()`; a pending reset comes first.
#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    /// The operator wants the guest to run.
    pub(super) wants: bool,
    /// This process's operator has issued `cont` or `stop`; overrides the migrated run state.
    pub(super) commanded: bool,
    pub(super) hold: Option<Hold>,
    /// Clients see the guest as running: between RESUME and STOP.
    pub(super) running: bool,
    /// How often vCPUs have been let in: between two equal counts the guest has not run.
    pub(super) entries: u64,
    pub(super) ever_ran: bool,
    pub(super) ended: Option<ExitReason>,
    pub(super) reset: Option<ResetCause>,
    /// The requested run state has been sent with the permit: a later command would not reach the
    /// destination.
    pub(super) requests_sent: bool,
    /// Guest memory is still on its way: a vCPU may wait in KVM for a page, where no signal
    /// reaches it.
    pub(super) memory_arrives: bool,
    /// The resources of a running guest (its disk's lock) are held.
    pub(super) holds: bool,
    /// The disk was released and could not be acquired again: another process may have run the
    /// guest.
    pub(super) let_go: bool,
    /// The machine is being taken apart.
    pub(super) dropped: bool,
}

impl Status {
    pub(super) fn should_run(&self) -> bool {
        self.wants && self.hold.is_none() && self.ended.is_none()
    }

    /// Whether vCPUs may enter the guest right now.
    pub(super) fn may_enter(&self) -> bool {
        self.running && self.ended.is_none() && self.reset.is_none()
    }

    pub(super) fn run_state(&self) -> RunState {
        match (&self.ended, self.hold) {
            (Some(ExitReason::Failed(_)), _) => RunState::InternalError,
            (Some(_), _) => RunState::Shutdown,
            (None, Some(Hold::HandedOver)) => RunState::PostMigrate,
            (None, Some(Hold::Switchover)) => RunState::FinishMigrate,
            (None, Some(Hold::Incoming)) => RunState::InMigrate,
            (None, None) if self.running => RunState::Running,
            (None, None) if self.ever_ran => RunState::Paused,
            (None, None) => RunState::Prelaunch,
        }
    }
}
