//! What may go wrong in an exploration, and how often.

/// Something that goes wrong, or that an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The links break; both sides notice.
    Break,
    /// The links fall silent: nothing arrives any more, and neither side is told.
    Silence,
    /// The primary's process dies.
    PrimaryDeath,
    /// The secondary's process dies.
    SecondaryDeath,
    /// A timer fires although what it waits for is about to come. Not counted: if it may happen at
    /// all, it may happen any number of times.
    FalseTimeout,
    /// The ownership record is out of one side's reach; it may come back at any moment.
    Outage,
    /// The ownership record changes, and the answer is lost, or the change comes late.
    LostReply,
    /// A capture fails.
    CaptureFailure,
    /// A verification fails.
    VerifyFailure,
    /// The state of the last commit does not load again.
    ReloadFailure,
    /// A trial of the takeover fails.
    TrialFailure,
    /// The operator ends the protection.
    Unprotect,
    /// The operator declares the peer lost, on either side.
    LostHeartbeat,
    /// The operator moves the guest.
    Failover,
    /// The guest shuts down.
    Shutdown,
    /// A third process boots the guest, as `ferry run` does.
    Boot,
}

/// How often each [`Fault`] may still happen, at most 15 times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bounds(u64);

impl Bounds {
    /// Nothing goes wrong.
    #[must_use]
    pub const fn none() -> Self {
        Bounds(0)
    }

    /// The same, but `fault` may happen `times` times.
    ///
    /// # Panics
    /// When `times` is above 15.
    #[must_use]
    pub const fn with(self, fault: Fault, times: u64) -> Self {
        assert!(times < 16, "a budget has four bits");
        let at = fault as u64 * 4;
        Bounds(self.0 & !(0xf << at) | times << at)
    }

    /// How often `fault` may still happen.
    #[must_use]
    pub const fn left(self, fault: Fault) -> u64 {
        self.0 >> (fault as u64 * 4) & 0xf
    }

    /// Whether it may still happen.
    #[must_use]
    pub const fn allows(self, fault: Fault) -> bool {
        self.left(fault) > 0
    }

    /// Uses one up, unless it is not counted.
    ///
    /// # Panics
    /// When none is left: events are offered only within the budget.
    pub fn spend(&mut self, fault: Fault) {
        let left = self.left(fault);
        assert!(left > 0, "no {fault:?} is left");
        if fault != Fault::FalseTimeout {
            *self = self.with(fault, left - 1);
        }
    }
}
