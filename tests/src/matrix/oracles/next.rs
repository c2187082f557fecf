//! **next**: whatever happened, the guest that is left can be migrated again.
//!
//! The runner tries a migration to a healthy destination once all has settled, wherever the guest
//! is then; it tries none where there is no guest, or nobody knows where it is.

use super::Verdict;
use crate::matrix::evidence::Evidence;

/// Judges it.
#[must_use]
pub(super) fn judge(evidence: &Evidence) -> Verdict {
    match &evidence.next {
        Some(Ok(())) => Verdict::Pass("the next migration succeeded".into()),
        Some(Err(why)) => Verdict::Fail(format!("the next migration did not succeed: {why}")),
        None => Verdict::None("there was no guest to migrate once more".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::oracles::scripted;

    #[test]
    fn a_next_migration_must_succeed_if_it_is_tried() {
        let mut evidence = scripted::failed_migration();
        assert!(matches!(judge(&evidence), Verdict::Pass(_)));
        evidence.next = Some(Err("cannot listen: address in use".into()));
        assert!(matches!(judge(&evidence), Verdict::Fail(says) if says.contains("address in use")));
        evidence.next = None;
        assert!(matches!(judge(&evidence), Verdict::None(_)));
    }
}
