//! What may go wrong in an exploration, and how often: the budget that every world carries.

/// Something that goes wrong, or that an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The control link breaks, or cannot be opened; its bulk links go with it.
    Break,
    /// One side is told that a link is lost (a bulk link broke) while the control link goes on.
    BulkBreak,
    /// A frame comes twice or damaged: the receiver's wire refuses it and reads no more from that
    /// link.
    Garble,
    /// The source's process dies.
    SourceCrash,
    /// The destination's process dies.
    DestinationCrash,
    /// A timer fires although what it waits for is about to come. This one is not counted: if it
    /// may happen at all, it may happen any number of times.
    FalseTimeout,
    /// The greeting does not match, or a load fails.
    LoadFailure,
    /// The destination cannot start its guest.
    StartFailure,
    /// The source cannot snapshot, stop or save.
    SaveFailure,
    /// The ownership record is out of one side's reach; it may come back at any moment.
    Outage,
    /// The ownership record changes, and the answer is lost, or comes late.
    LostReply,
    /// What serves the destination's missing pages dies.
    FaultsDeath,
    /// A message of another run of the guest reaches the destination.
    Foreign,
    /// An operator cancels, on either side.
    Cancel,
    /// An operator pauses a postcopy, on either side.
    Pause,
    /// An operator asks for postcopy.
    StartPostcopy,
    /// An operator gives a paused postcopy to the source, whose memory is old.
    RashResolve,
    /// Another process boots the guest, as `ferry run` does.
    Boot,
    /// Another process boots the guest past its record: with another one, or none.
    BootPast,
    /// Another process boots the guest although the record tells of a migration (`,take`): the
    /// operator has ended the destination, and forgotten the source.
    RashTake,
    /// Another process holds the disk's lock for a while.
    LockHeld,
    /// An older copy of the guest arrives at another process, by the handshake `setup`: from a
    /// source that has no part in this, or on a way that began with the source's first migration.
    /// An operator has made a mistake. It stays stopped there.
    Arrival,
    /// A device refuses to run the source's guest, at `cont` (the image has become smaller) or at
    /// the end of a migration; of a guest whose disk was let go of, behind its claim.
    RunFailure,
    /// An operator stops the guest, and lets it go on later.
    Stop,
    /// After a migration that has failed the source begins another one.
    Again,
}

/// How often each [`Fault`] may still happen, at most 15 times ([`Fault::FalseTimeout`]: at all,
/// or not).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bounds(u128);

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
    pub const fn with(self, fault: Fault, times: u128) -> Self {
        assert!(times < 16, "a budget has four bits");
        let at = fault as u64 * 4;
        Bounds(self.0 & !(0xf << at) | times << at)
    }

    /// How often `fault` may still happen.
    #[must_use]
    pub const fn left(self, fault: Fault) -> u128 {
        self.0 >> (fault as u64 * 4) & 0xf
    }

    /// Uses one up.
    ///
    /// # Panics
    /// When none is left: events are offered only within the budget.
    pub fn spend(&mut self, fault: Fault) {
        let left = self.left(fault);
        assert!(left > 0, "no {fault:?} is left");
        *self = self.with(fault, left - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_own_count() {
        let mut bounds = Bounds::none().with(Fault::Break, 2).with(Fault::StartPostcopy, 15);
        bounds.spend(Fault::Break);
        assert_eq!((bounds.left(Fault::Break), bounds.left(Fault::BulkBreak)), (1, 0));
        assert_eq!(bounds.left(Fault::StartPostcopy), 15);
    }
}
