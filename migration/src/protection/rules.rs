//! The rules that a protection rests on. An explorer turns one off, and shows what breaks.

use std::fmt;

/// One rule of the two machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// Primary: an epoch's outputs leave when its checkpoint is committed, not when it was sent.
    ReleasesOnCommit,
    /// Primary: held outputs leave once the solo swap is won, not when it is requested.
    ReleasesAfterSolo,
    /// Primary: a checkpoint that the secondary has refused releases nothing.
    FailedReleasesNothing,
    /// Primary: a lost solo swap releases nothing.
    LostSoloReleasesNothing,
    /// Primary: a solo swap without an answer releases nothing.
    UnansweredSoloReleasesNothing,
    /// Primary: outputs are held from the capture of checkpoint 1 on.
    HoldsFirst,
    /// Primary: the partner is enrolled after checkpoint 1 is committed.
    EnrolsAfterCommit,
    /// Primary: an enrolment without an answer may have succeeded.
    UnansweredEnrolmentMayBe,
    /// Primary: going solo is a swap to a new generation, which a takeover loses to.
    SoloIsASwap,
    /// Primary: the pages of a checkpoint that was not committed are sent again with the next.
    KeepsHarvest,
    /// Secondary: a checkpoint is acknowledged when it is whole, not at its first byte.
    AcknowledgesWhole,
    /// Secondary: a checkpoint is acknowledged when it is verified, not before.
    AcknowledgesVerified,
    /// Secondary: nothing of a checkpoint reaches guest memory before its commit.
    AppliesAfterCommit,
    /// Secondary: it takes over only after it has read its own name as the partner.
    ReadsItsName,
    /// Secondary: it takes over by a swap of the record, not because its primary is silent.
    TakesOverByRecord,
    /// Secondary: a takeover swap without an answer is no takeover.
    UnansweredTakeoverIsNone,
    /// Secondary: a lost takeover swap is no takeover.
    LostTakeoverIsNone,
    /// Secondary: the outputs of the guest that it has entered on trial are held until its claim.
    TrialIsSilent,
    /// Secondary: all that can fail in a takeover is done before the swap.
    TriesBeforeClaim,
    /// Secondary: the guest is entered only when its checkpoint is applied in full.
    EntersApplied,
    /// Secondary: once it suspects its primary it accepts and acknowledges nothing more.
    DeafOnceSuspicious,
    /// Secondary: disk writes of committed epochs are kept until the primary's image has them.
    KeepsJournal,
    /// Secondary: it takes the shared disk's lock before its swap.
    TakesDiskFirst,
    /// Both: a swap whose reply was lost is read back, and not taken for lost.
    LostReplyIsReadBack,
    /// Primary: once its link is given up, a late acknowledgement is ignored. Harmless without:
    /// the record has not been swapped by a secondary that acknowledges.
    IgnoresLateCommit,
    /// Primary: once deposed, it does not write out what was committed before. Harmless without:
    /// the survivor's history contains it.
    DeposedIsSilent,
    /// A process that boots the guest: not while the record names a partner.
    BootNeedsUnprotected,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Rule; 27] = [
        Rule::ReleasesOnCommit,
        Rule::ReleasesAfterSolo,
        Rule::FailedReleasesNothing,
        Rule::LostSoloReleasesNothing,
        Rule::UnansweredSoloReleasesNothing,
        Rule::HoldsFirst,
        Rule::EnrolsAfterCommit,
        Rule::UnansweredEnrolmentMayBe,
        Rule::SoloIsASwap,
        Rule::KeepsHarvest,
        Rule::AcknowledgesWhole,
        Rule::AcknowledgesVerified,
        Rule::AppliesAfterCommit,
        Rule::ReadsItsName,
        Rule::TakesOverByRecord,
        Rule::UnansweredTakeoverIsNone,
        Rule::LostTakeoverIsNone,
        Rule::TrialIsSilent,
        Rule::TriesBeforeClaim,
        Rule::EntersApplied,
        Rule::DeafOnceSuspicious,
        Rule::KeepsJournal,
        Rule::TakesDiskFirst,
        Rule::LostReplyIsReadBack,
        Rule::IgnoresLateCommit,
        Rule::DeposedIsSilent,
        Rule::BootNeedsUnprotected,
    ];
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The rules in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rules {
    off: u64,
}

impl Rules {
    /// Every rule. Only an explorer uses anything else.
    #[must_use]
    pub const fn all() -> Self {
        Rules { off: 0 }
    }

    /// All but one, for an explorer.
    #[must_use]
    pub const fn without(rule: Rule) -> Self {
        Rules { off: 1 << rule as u64 }
    }

    /// Whether a rule is in force.
    #[must_use]
    pub const fn has(self, rule: Rule) -> bool {
        self.off & (1 << rule as u64) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_own_flag() {
        assert_eq!(Rules::all(), Rules::default());
        for (at, rule) in Rule::ALL.into_iter().enumerate() {
            assert_eq!(rule as usize, at, "{rule} is out of order");
            let off = Rule::ALL.into_iter().filter(|other| !Rules::without(rule).has(*other)).collect::<Vec<_>>();
            assert_eq!(off, [rule]);
        }
    }
}
