//! **disk-stamps**: every sector of the image is empty or holds one whole stamp that the guest
//! wrote to this very place.
//!
//! The runner looks at the image when nobody writes (the guest is stopped, or has ended). A stamp
//! names its sector and the guest's seed, and fills the sector: a torn write, a write to another
//! place and a foreign writer show. It does not see whether a stamp is the newest: the guest
//! checks that itself, since it reads back what it wrote.

use super::Verdict;
use crate::matrix::evidence::Evidence;

/// Judges it.
#[must_use]
pub(super) fn judge(evidence: &Evidence) -> Verdict {
    match &evidence.disk_stamps {
        None => Verdict::None("the guest has no disk".into()),
        Some(Err(why)) => Verdict::Fail(why.clone()),
        Some(Ok(0)) => Verdict::None("the guest had written nothing to its disk".into()),
        Some(Ok(sectors)) => {
            Verdict::Pass(format!("{sectors} sectors of the disk hold whole stamps of their own place"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::oracles::scripted::moved;

    #[test]
    fn whole_stamps_pass_and_anything_else_fails() {
        let mut evidence = moved();
        assert!(matches!(judge(&evidence), Verdict::Pass(says) if says.starts_with("8 sectors")));
        evidence.disk_stamps = Some(Err("sector 3 is torn: [1, 2]".into()));
        assert!(matches!(judge(&evidence), Verdict::Fail(says) if says.contains("sector 3")));
        for unknown in [Some(Ok(0)), None] {
            evidence.disk_stamps = unknown;
            assert!(matches!(judge(&evidence), Verdict::None(_)));
        }
    }
}
